"""An estimate of how long a step takes, from the compiled program and the device's data sheet.

It has four terms:

- compute: executed FLOPs, at MATMUL times the peak (large products reach about 80 % of a data
  sheet);
- memory: bytes through the device's main memory, at its bandwidth;
- links: bytes over ICI or NVLink, at LINKS times the sum of the device's links (a collective over
  one axis of a 2D torus uses half of them);
- network: bytes between slices, of all devices of a host, at the speed of the host's network cards.

If all terms overlap, a step takes as long as the largest (`overlapped`); if none do, as long as
their sum (`in_turn`). A well-compiled step lies between the two. Latency, which dominates tiny
models, is in neither.

Decides nothing: `plan --topology` prints the terms, both times, and tokens a second and MFU by
them.
"""

from dataclasses import dataclass

from stepladder.train.checks.hlo import Collective
from stepladder.train.hardware.defaults import Chip

MATMUL, LINKS = 0.8, 0.5  # shares of the data sheet that are reached


@dataclass(frozen=True)
class Roofline:
    """Seconds of a step, by term."""

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
        """The largest term."""
        return max(self.terms, key=lambda term: self.terms[term])

    @property
    def overlapped(self) -> float:
        return max(self.terms.values())

    @property
    def in_turn(self) -> float:
        return sum(self.terms.values())


def estimate(
    chip: Chip, flops: float, traffic: float, moved: list[Collective], per_host: int
) -> Roofline:
    """The roofline of a step.

    Args:
        chip: the data sheet of one device.
        flops: executed by one device.
        traffic: bytes through one device's main memory (checks/hbm_bytes.py).
        moved: the collectives of one device (checks/hlo.py).
        per_host: devices that share a host's network cards.
    """
    sent = {"ici": 0.0, "dcn": 0.0}
    for c in moved:
        sent[c.network] += c.bytes * c.times
    return Roofline(
        compute=flops / (MATMUL * chip.flops),
        memory=traffic / chip.bandwidth,
        links=sent["ici"] / (LINKS * chip.links),
        network=sent["dcn"] * per_host / chip.network,
    )
