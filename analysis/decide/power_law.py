"""A power law through points, with the errors of its coefficients."""

from dataclasses import dataclass

import numpy as np

from stepladder.analysis.fit.levels import intervals
from stepladder.configs.core.errors import UserError


@dataclass(frozen=True)
class PowerLaw:
    """y = coefficient * x^exponent.

    Intervals are (low, high) over resampled points, None where there are none.
    """

    x: str
    y: str
    exponent: float
    coefficient: float
    r2: float  # of ln y, unweighted
    exponent_interval: tuple[float, float] | None
    coefficient_interval: tuple[float, float] | None
    points: int

    def at(self, x: float | np.ndarray) -> float | np.ndarray:
        """y at x, both in the units of the fitted points."""
        return self.coefficient * np.asarray(x, float)[()] ** self.exponent

    def __str__(self) -> str:
        span = (
            ""
            if self.exponent_interval is None
            else " ({:.4f} to {:.4f})".format(*self.exponent_interval)
        )
        return (
            f"{self.y} = {self.coefficient:.5g} {self.x}^{self.exponent:.5f}{span}   R2 "
            f"{self.r2:.5f}, {self.points} points"
        )


def power_law(
    x: np.ndarray,
    y: np.ndarray,
    *,
    names: tuple[str, str] = ("C", "N*"),
    weights: np.ndarray | None = None,
    draws: np.ndarray | None = None,
    level: float = 0.9,
) -> PowerLaw:
    """Weighted least squares of ln y on ln x.

    Args:
        x: positive [m].
        y: positive [m].
        names: what x and y are called.
        weights: of the points [m].
        draws: resampled y [K, m] for the intervals, NaN where a draw has none.
        level: of the intervals.

    Raises:
        UserError: with fewer than 3 points, as any two lie on a line.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    if len(x) < 3:
        raise UserError(
            f"points={len(x)}: a power law of {names[1]} in {names[0]} needs 3 to be tested at "
            "all; add budgets"
        )
    w = np.ones(len(x)) if weights is None else np.asarray(weights, float)
    slope, intercept = (float(v[0]) for v in _lines(np.log(x), np.log(y)[None], w))
    residual = np.log(y) - intercept - slope * np.log(x)
    total = ((np.log(y) - np.log(y).mean()) ** 2).sum()
    spans = {}
    if draws is not None:
        slopes, intercepts = _lines(np.log(x), np.log(draws), w)
        known = np.isfinite(slopes)
        if known.any():
            spans = intervals(
                {"exponent": slopes[known], "coefficient": np.exp(intercepts[known])}, level
            )
    return PowerLaw(
        *names,
        exponent=slope,
        coefficient=float(np.exp(intercept)),
        r2=float(1 - (residual**2).sum() / total) if total > 0 else 1.0,
        exponent_interval=spans.get("exponent"),
        coefficient_interval=spans.get("coefficient"),
        points=len(x),
    )


def _lines(x: np.ndarray, y: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slope and intercept [K] of each row of y [K, m].

    NaN entries have no weight, and a row with fewer than 3 others gives NaN.
    """
    seen = np.isfinite(y)
    w = w * seen / w.mean()
    y = np.where(seen, y, 0.0)
    total = w.sum(1).clip(1e-300)
    mx, my = w @ x / total, (w * y).sum(1) / total
    dx = x - mx[:, None]
    square = (w * dx**2).sum(1)
    slope = np.where(
        (seen.sum(1) > 2) & (square > 0),
        (w * dx * y).sum(1) / np.where(square > 0, square, 1),
        np.nan,
    )
    return slope, my - slope * mx
