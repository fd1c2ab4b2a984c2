"""How long a step takes, from what the compiled program does and the data sheet: four terms, and
two ways to add them.

- compute: executed FLOPs over MATMUL times the peak: large products reach about 80 % of a data
  sheet
- memory: bytes through a device's memory over its bandwidth
- links: bytes over ICI or NVLink over LINKS times the sum of a device's links: a collective over
  one axis of a torus fills half of a 2D one's
- network: bytes between slices, of all devices of a host, over the host's network cards

overlapped: the largest term, when everything else hides behind it. in_turn: their sum, when nothing
does. A well-compiled step lies between; latency, which rules tiny models, is not in either.
"""

from dataclasses import dataclass

from stepladder.train.checks.hlo import Collective
from stepladder.train.hardware.chips import Chip

MATMUL, LINKS = 0.8, 0.5  # of the data sheet


@dataclass(frozen=True)
class Roofline:
    """Seconds a step by term."""

    compute: float
    memory: float
    links: float
    network: float

    @property
    def terms(self) -> dict[str, float]:
        return {
            "compute": self.compute,
            "memory": self.memory,
            "links": self.links,
            "network": self.network,
        }

    @property
    def bound(self) -> str:
        return max(self.terms, key=self.terms.get)

    @property
    def overlapped(self) -> float:
        return max(self.terms.values())

    @property
    def in_turn(self) -> float:
        return sum(self.terms.values())


def estimate(
    chip: Chip, flops: float, traffic: float, moved: list[Collective], per_host: int
) -> Roofline:
    """flops, traffic and moved are one device's, of one step; per_host: devices that share a host's
    network.
    """
    wire = {
        net: sum(c.bytes * c.times for c in moved if c.network == net) for net in ("ici", "dcn")
    }
    return Roofline(
        compute=flops / (MATMUL * chip.flops),
        memory=traffic / chip.bandwidth,
        links=wire["ici"] / (LINKS * chip.links),
        network=wire["dcn"] * per_host / chip.network,
    )
