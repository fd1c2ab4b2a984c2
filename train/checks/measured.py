"""Steps that were measured on a device, to stand beside the estimate of a plan.

One file a device and day in train/hardware/measured, as `stepladder bench --out` writes it: its
kind, date, versions and command, and a row a step.
"""

import functools
import json
from dataclasses import dataclass
from pathlib import Path

from stepladder.configs.core.spec import RunSpec

FOLDER = Path(__file__).parent.parent / "hardware" / "measured"


@dataclass(frozen=True)
class Measured:
    """A step that ran on a device of this kind."""

    tokens_per_second: float  # of all runs together
    date: str
    jax: str
    commit: str
    peak_gib: float | None  # memory that the device held; None: not noted


@functools.cache
def _steps() -> dict[tuple, Measured]:
    """What was measured -> how fast it was; a later date takes the place of an earlier one."""
    files = [json.loads(path.read_text()) for path in FOLDER.glob("*.json")]
    return {
        (
            body["device_kind"],
            row["size"],
            row["runs"],
            row["batch"],
            row["seq_len"],
            row["vocab_size"],
            row["compute_dtype"],
            row["layers"],
        ): Measured(
            row["tokens_per_second"], body["date"], body["jax"], body["commit"], row["peak_gib"]
        )
        for body in sorted(files, key=lambda body: body["date"])
        for row in body["steps"]
    }


def measured(device_kind: str, spec: RunSpec, members: int, layers: str) -> Measured | None:
    """The step of `members` runs like `spec` on one device, its layers run so; None where nobody
    has measured it.
    """
    model = spec.model
    shape = model.size, members, spec.batch_size, spec.data.seq_len, model.vocab_size
    return _steps().get((device_kind, *shape, model.compute_dtype, layers))
