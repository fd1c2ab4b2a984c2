"""What was done to a model after its pretraining: the names that a table may use.

A family holds the changes that differ in their strength alone, so that they stand on one axis.
"""

import re
from dataclasses import dataclass

from stepladder.configs.core.errors import UserError

NOISE, QUANTISED, FINETUNE = "noise", "quantised", "finetune"
INIT, WEIGHTS = "init", "weights"
SEPARATE, TRUNK, NO_DECAY, LARGE_RATE = "separate", "trunk", "no_decay", "large_rate"
ARMS = {
    SEPARATE: "a run of its own for every budget, decayed to the end",
    TRUNK: "cooldown branches of one run",
    NO_DECAY: "runs whose learning rate never decays",
    LARGE_RATE: "decayed runs at a larger peak learning rate",
}
_NOISE = re.compile(r"noise:(init|weights)(:\w+)?")
_INT = re.compile(r"int(\d+)(:\w+)?")
_FINETUNE = re.compile(r"finetune:(.+)")


@dataclass(frozen=True)
class Change:
    """One change.

    Attributes:
        kind: NOISE, QUANTISED or FINETUNE.
        family: what stands on one axis of strengths, e.g. "noise:init:matrices".
        bits: of a quantisation, else 0.
    """

    kind: str
    family: str
    bits: int = 0


def parse(change: str) -> Change:
    """The change of a name.

    "noise:init" and "noise:weights" (of which tensors may follow: "noise:init:all"), "int8",
    "int4:all", "finetune:TASK".

    Raises:
        UserError: for any other name.
    """
    if _NOISE.fullmatch(change):
        return Change(NOISE, change)
    if (found := _INT.fullmatch(change)) and int(found[1]) > 0:
        return Change(QUANTISED, QUANTISED + (found[2] or ""), int(found[1]))
    if _FINETUNE.fullmatch(change):
        return Change(FINETUNE, change)
    raise UserError(
        f"change={change!r}: unknown; use noise:init, noise:weights (of some tensors: "
        "noise:init:all), int8, int4 or finetune:TASK"
    )


def kind_of(family: str) -> str:
    """NOISE, QUANTISED or FINETUNE."""
    return family.split(":")[0]


def scale_of(family: str) -> str:
    """INIT or WEIGHTS of a family of noise, else ""."""
    parts = family.split(":")
    return parts[1] if parts[0] == NOISE else ""


def size_of(family: str, strength: float) -> float:
    """A number that grows with the change: the strength, but half the step of a quantisation.

    A symmetric grid of b bits has the step 2^(1 - b) of the largest weight.
    """
    return 2.0**-strength if kind_of(family) == QUANTISED else strength


def say(family: str, strength: float) -> str:
    """A change and its strength in words."""
    kind = kind_of(family)
    if kind == QUANTISED:
        return f"{strength:.0f} bits"
    return f"{'learning rate' if kind == FINETUNE else 'gamma'} {strength:.3g}"
