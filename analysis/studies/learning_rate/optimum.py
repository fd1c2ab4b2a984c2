"""The best learning rate of one curve, with an interval.

A parabola goes through the points near the lowest, in the log of the rate.
"""

from dataclasses import dataclass

import numpy as np

from stepladder.analysis.fit.levels import percentile_interval

_DRAWS = 1000
# of the grid's step, the error of a cubic through five points of losses like e^z - z at the worst
# place of the minimum
_GRID = 0.1
# a parabola's second neighbour lies up to 9 times as high above the vertex as the first; beyond
# this it is no parabola
_FAR = 12.0


@dataclass(frozen=True)
class Optimum:
    """lr* with its interval, or why there is none.

    loss: nats per token, at `rate`; curvature: nats per token per squared ln rate.
    """

    rate: float | None = None
    low: float | None = None
    high: float | None = None
    loss: float | None = None
    curvature: float | None = None
    refused: str = ""


def optimum(
    rates: np.ndarray,
    losses: np.ndarray,
    counts: np.ndarray,
    noise: float | None,
    freedom: float,
    *,
    level: float = 0.9,
    seed: int = 0,
    beyond: float | None = None,
) -> Optimum:
    """The minimum of a curve through the lowest point and two neighbours on each side.

    The curve is a parabola in ln rate, with a cubic term where that is larger than its standard
    error: losses rise faster above the best rate than below it. The interval repeats all of it on
    redrawn losses, so it holds the choice of the lowest point and of the curve, and a tenth of the
    grid's step for its shape.

    Args:
        rates: learning rates, ascending [R].
        losses: mean losses at them [R], of `counts` runs each.
        noise: standard deviation of one run's loss, itself known from `freedom` degrees of freedom.
        beyond: the smallest rate above these at which a run diverged.

    Returns:
        The optimum; refused at the edge of the grid, where the curve is not convex, and where its
        minimum is outside of the points.
    """
    x, best = np.log(rates), int(np.argmin(losses))
    if best in (0, len(x) - 1):
        return Optimum(refused=_edge(rates, best, beyond))
    found, curvature, bottom = _minimum(x, losses[None], counts, np.array([best]), noise)
    rate, curvature = float(np.exp(found[0])), float(curvature[0])
    if not curvature > 0:
        return Optimum(
            curvature=curvature,
            refused=(
                "the losses near the minimum are not convex in log learning rate: add seeds or "
                "rates"
            ),
        )
    window = _window(x, losses[None], np.array([best]))[0]
    if not x[window][0] <= found[0] <= x[window][-1]:
        return Optimum(
            curvature=curvature,
            refused=(
                f"the curve's minimum ({rate:.3g}) lies outside of its points: add rates around it"
            ),
        )
    if noise is None:
        return Optimum(rate, None, None, float(bottom[0]), curvature)
    low, high = _interval(x, losses, counts, noise, freedom, level, np.random.default_rng(seed))
    return Optimum(rate, min(low, rate), max(high, rate), float(bottom[0]), curvature)


def misfit(rates: np.ndarray, losses: np.ndarray, counts: np.ndarray) -> tuple[float, int]:
    """Squared misfit of a cubic around the lowest point (nats^2 per token^2), degrees of freedom.

    It is of one run's loss. Pooled over curves it is the noise where no seed is repeated; a
    parabola's would be the skew of the curves as well.
    """
    x, best = np.log(rates), int(np.argmin(losses))
    window = _window(x, losses[None], np.array([best]))
    freedom = int(window.sum()) - 4
    if freedom < 1:
        return 0.0, 0
    z = x - x[best]
    found, _ = _coefficients(z, losses[None], counts, window, np.array([True]))
    return float(
        (window[0] * counts * (losses - (z[:, None] ** np.arange(4)) @ found[0]) ** 2).sum()
    ), freedom


def _edge(rates: np.ndarray, best: int, beyond: float | None) -> str:
    if best == 0:
        return f"optimum at the smallest rate tried, {rates[0]:.3g}: add smaller rates"
    if beyond is not None:
        return (
            f"optimum at the largest rate that survives, {rates[-1]:.3g} ({beyond:.3g} diverges): "
            "add rates between the two"
        )
    return f"optimum at the largest rate tried, {rates[-1]:.3g}: add larger rates"


def _window(x: np.ndarray, y: np.ndarray, best: np.ndarray) -> np.ndarray:
    """bool [K, R]: the lowest point of each row of y [K, R] and up to two neighbours a side.

    Points far off a parabola are left out.
    """
    gap = np.abs(np.arange(len(x))[None] - best[:, None])
    above = y - np.take_along_axis(y, best[:, None], 1)
    near = np.where(gap == 1, above, 0).max(1, keepdims=True)
    return (gap <= 1) | ((gap == 2) & (above <= _FAR * near))


def _coefficients(
    z: np.ndarray, y: np.ndarray, counts: np.ndarray, window: np.ndarray, cubic: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Weighted least squares of y [K, R] on 1, z, z^2, z^3 (z [R] or [K, R]) within `window`.

    Returns:
        Coefficients [K, 4], z^3 only where `cubic` [K]; and the standard error of the cubic one
        for a noise of one [K].
    """
    basis = np.broadcast_to(z, y.shape)[..., None] ** np.arange(4)
    weight = window * counts
    normal = np.einsum("kr,kri,krj->kij", weight, basis, basis)
    right = np.einsum("kr,kr,kri->ki", weight, y, basis)
    normal[~cubic, 3, :] = normal[~cubic, :, 3] = 0.0
    normal[~cubic, 3, 3], right[~cubic, 3] = 1.0, 0.0
    return np.linalg.solve(normal, right[..., None])[..., 0], np.sqrt(
        np.linalg.inv(normal)[:, 3, 3]
    )


def _minimum(
    x: np.ndarray, y: np.ndarray, counts: np.ndarray, best: np.ndarray, noise: float | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ln lr*, curvature and loss at the minimum of each row of y [K, R].

    noise: one run's standard deviation, or None when unknown.
    """
    window, z = _window(x, y, best), x[None] - x[best][:, None]
    fit, _ = _coefficients(z, y, counts, window, np.zeros(len(y), bool))
    if noise is not None:
        possible = window.sum(1) > 3
        skew, error = _coefficients(z, y, counts, window, possible)
        c, b, a, g = skew.T
        skewed = possible & (np.abs(g) > error * noise) & (a**2 - 3 * g * b > 0)
        fit = np.where(skewed[:, None], skew, fit)
    c, b, a, g = fit.T
    with np.errstate(divide="ignore", invalid="ignore"):
        root = np.sqrt(np.maximum(a**2 - 3 * g * b, 0))
        at = np.where(g == 0, -b / (2 * a), -b / (a + root))
        return x[best] + at, np.where(g == 0, a, root), c + b * at + a * at**2 + g * at**3


def _interval(
    x: np.ndarray,
    losses: np.ndarray,
    counts: np.ndarray,
    noise: float,
    freedom: float,
    level: float,
    rng: np.random.Generator,
) -> tuple[float, float]:
    scale = (
        noise * np.sqrt(freedom / rng.chisquare(freedom, _DRAWS))
        if np.isfinite(freedom)
        else np.full(_DRAWS, noise)
    )
    y = losses + scale[:, None] * rng.standard_normal((_DRAWS, len(x))) / np.sqrt(counts)
    best = y.argmin(1)
    inner = np.clip(best, 1, len(x) - 2)
    at, curvature, _ = _minimum(x, y, counts, inner, noise)
    at = at + rng.uniform(-_GRID, _GRID, _DRAWS) * (x[inner + 1] - x[inner - 1]) / 2
    # no fourth point tells how skewed the curve is: up to e^z, whose cubic term is a third of its
    # square
    if len(x) == 3:
        at = at + rng.uniform(-1, 1, _DRAWS) / 6 * (x[1] - x[0]) * (x[2] - x[1])
    # A draw without a minimum inside counts as the point it leans to: the edge of the grid is all
    # that is known then.
    good = (curvature > 0) & (best == inner) & np.isfinite(at)
    at = np.where(good, np.clip(at, x[inner - 1], x[inner + 1]), x[best])
    low, high = np.exp(percentile_interval(at, level))
    return float(low), float(high)
