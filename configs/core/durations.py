"""Durations in steps, tokens, fractions or Chinchilla multiples, turned into steps by one
function.
"""

import math
import re

from stepladder.configs.core.errors import UserError

CHINCHILLA_TOKENS_PER_PARAMETER = 20  # arXiv:2203.15556, rounded as everyone does

_NUMBER = r"(?P<value>[0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)(?P<prefix>[kMBT]?)"
_PATTERN = re.compile(_NUMBER + r"\s*(?P<unit>steps?|tokens?|chinchilla|x|%)?")
_PREFIX = {"": 1, "k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}


def steps(
    duration: str | int,
    *,
    tokens_per_step: int,
    params: int | None = None,
    total_steps: int | None = None,
    field: str = "duration",
) -> int:
    """Number of optimizer steps in `duration`, rounded to the nearest, at least 0.

    `duration` is an int or "120 steps", "3M tokens", "0.5 chinchilla" (needs `params`; 1 is 20
    tokens a parameter), or "20%" (needs `total_steps`). Raises UserError naming `field` when it
    does not parse or lacks what it is relative to.
    """
    if isinstance(duration, int) and not isinstance(duration, bool):
        duration = f"{duration} steps"
    match = _PATTERN.fullmatch(str(duration).strip())
    if not match or not match["unit"]:
        raise UserError(
            f"{field}={duration!r}: not a duration; write '100 steps', '3M tokens', '1 chinchilla' "
            "or '20%'"
        )
    value = float(match["value"]) * _PREFIX[match["prefix"]]
    unit = match["unit"].removesuffix("s")
    if unit == "%" and total_steps is None:
        raise UserError(
            f"{field}={duration!r}: a fraction of what? only durations inside a run may be "
            "fractions; use tokens or steps"
        )
    if unit in ("chinchilla", "x") and params is None:
        raise UserError(f"{field}={duration!r}: needs the parameter count; use tokens or steps")
    exact = {
        "step": lambda: value,
        "token": lambda: value / tokens_per_step,
        "chinchilla": lambda: value * CHINCHILLA_TOKENS_PER_PARAMETER * params / tokens_per_step,
        "x": lambda: value * CHINCHILLA_TOKENS_PER_PARAMETER * params / tokens_per_step,
        "%": lambda: value / 100 * total_steps,
    }[unit]()
    if not math.isfinite(exact):
        raise UserError(f"{field}={duration!r}: not finite; use a smaller number")
    return max(0, round(exact))
