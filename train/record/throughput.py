"""Tokens a second and model FLOPs utilisation of a run, over all devices of its mesh."""

from jax.sharding import Mesh

from stepladder.configs.core import counting
from stepladder.configs.core.spec import RunSpec
from stepladder.train.hardware.chips import peak_flops


class Throughput:
    """Counts the seconds that a run is charged with; a member of a pack is charged its share of the
    pack's.
    """

    def __init__(self, spec: RunSpec, mesh: Mesh):
        self.devices = tuple(mesh.devices.flat)
        self.peak = peak_flops(self.devices)
        self.tokens_per_step = spec.tokens_per_step
        self.flops_per_token = counting.count(spec.model, spec.data.seq_len).flops_per_token_train
        self.seconds = 0.0

    def charge(self, seconds: float) -> None:
        """Add to the seconds of the window under way."""
        self.seconds += seconds

    def end_window(self, steps: int) -> dict[str, float | int | None]:
        """Fields of a timing row for a window of `steps` steps; the next window begins.

        `mfu` is None where the peak of the devices is not known.
        """
        seconds, self.seconds = max(self.seconds, 1e-9), 0.0
        rate = steps * self.tokens_per_step / seconds
        mfu = rate * self.flops_per_token / self.peak if self.peak else None
        return {
            "seconds": round(seconds, 4),
            "tokens_per_second": round(rate, 1),
            "mfu": mfu and round(mfu, 5),
            "steps": steps,
        }
