"""Levels of intervals: one check of a level, and the percentiles that belong to it."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from stepladder.configs.core.errors import UserError


def check_level(level: float, example: float = 0.9) -> None:
    """Raises UserError unless `level` is a probability."""
    if not 0 < level < 1:
        raise UserError(f"level={level}: must lie between 0 and 1, e.g. {example}")


def percent(level: float) -> str:
    """A level as text: 90%, 97.5%."""
    return f"{100 * level:.4g}%"


def percentiles(level: float) -> tuple[float, float]:
    """The probabilities below the two ends of a central interval. Raises UserError for a level that
    is no probability.
    """
    check_level(level)
    return (1 - level) / 2, (1 + level) / 2


def percentile_interval(values: Any, level: float, **options: Any) -> tuple[Any, Any]:
    """(low, high) of `values`; `options` go to numpy.quantile, e.g. axis=0 for one a column."""
    low, high = np.quantile(np.asarray(values, float), percentiles(level), **options)
    return (float(low), float(high)) if np.ndim(low) == 0 else (low, high)


def intervals(values: Mapping[str, Any], level: float) -> dict[str, tuple[float, float]]:
    """(low, high) of each quantity over refits [K]."""
    return {name: percentile_interval(v, level) for name, v in values.items()}
