"""Durations in steps, tokens, multiples of Chinchilla or parts of a run, turned into steps by one
function.
"""

import math
import re
from dataclasses import dataclass

from stepladder.configs.core.errors import UserError

CHINCHILLA_TOKENS_PER_PARAMETER = 20  # arXiv:2203.15556, rounded as everyone does

STEP, TOKEN, CHINCHILLA, PERCENT = "step", "token", "chinchilla", "%"
_UNITS = {
    "step": STEP,
    "steps": STEP,
    "token": TOKEN,
    "tokens": TOKEN,
    "chinchilla": CHINCHILLA,
    "x": CHINCHILLA,
    "%": PERCENT,
}
_PREFIX = {"": 1, "k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
_NUMBER = r"(?P<value>[0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)(?P<prefix>[kMBT]?)"
_PATTERN = re.compile(_NUMBER + r"\s*(?P<unit>" + "|".join(_UNITS) + ")")


@dataclass(frozen=True)
class Duration:
    """A number with its unit: STEP, TOKEN, CHINCHILLA or PERCENT."""

    value: float
    unit: str


def parse(duration: str | int, field: str = "duration") -> Duration:
    """Read "120 steps", "3M tokens", "0.5 chinchilla" (or "0.5x"), "20%", or an int of steps.

    Raises UserError naming `field`.
    """
    if isinstance(duration, int) and not isinstance(duration, bool):
        return Duration(duration, STEP)
    match = _PATTERN.fullmatch(str(duration).strip())
    if not match:
        raise UserError(
            f"{field}={duration!r}: not a duration; write '100 steps', '3M tokens', '1 chinchilla' "
            "or '20%'"
        )
    return Duration(float(match["value"]) * _PREFIX[match["prefix"]], _UNITS[match["unit"]])


def steps(
    duration: str | int,
    *,
    tokens_per_step: int,
    params: int | None = None,
    total_steps: int | None = None,
    field: str = "duration",
) -> int:
    """Number of optimizer steps in a duration, rounded to the nearest, at least 0.

    Args:
        duration: what `parse` reads.
        tokens_per_step: of the run; 1 gives the duration in tokens.
        params: parameters of the model, which chinchilla is relative to.
        total_steps: of the run, which a percentage is relative to.
        field: the config key that errors name.

    Raises:
        UserError: it does not parse, or lacks what it is relative to.
    """
    parsed = parse(duration, field)
    exact = parsed.value
    if parsed.unit == TOKEN:
        exact = parsed.value / tokens_per_step
    elif parsed.unit == CHINCHILLA:
        if params is None:
            raise UserError(f"{field}={duration!r}: needs the parameter count; use tokens or steps")
        exact = parsed.value * CHINCHILLA_TOKENS_PER_PARAMETER * params / tokens_per_step
    elif parsed.unit == PERCENT:
        if total_steps is None:
            raise UserError(
                f"{field}={duration!r}: a fraction of what? only durations inside a run may be "
                "fractions; use tokens or steps"
            )
        exact = parsed.value / 100 * total_steps
    if not math.isfinite(exact):
        raise UserError(f"{field}={duration!r}: not finite; use a smaller number")
    return max(0, round(exact))
