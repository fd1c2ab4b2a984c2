"""What part of the wall time went into steps that count."""

from collections.abc import Mapping

from stepladder.configs.core.record import STEPS, WINDOW


def goodput(seconds: Mapping[str, float]) -> float | None:
    """Share of phase `steps` in the seconds of all phases; None when nothing is known.

    Rows of `window` overlap the phases and do not count.
    """
    total = sum(value for phase, value in seconds.items() if phase != WINDOW)
    return seconds.get(STEPS, 0.0) / total if total > 0 else None
