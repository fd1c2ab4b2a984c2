"""Does the best learning rate stay put as models grow?

Its slope in the width (or N, or D), per parametrisation, and which drifts less.
"""

from dataclasses import dataclass

import numpy as np

from stepladder.analysis.fit.levels import percentile_interval
from stepladder.analysis.studies.learning_rate.curves import Curve
from stepladder.configs.core.errors import UserError

AXES = ("width", "N", "D", "depth")
_DRAWS = 4000
_SURE = 0.95


@dataclass(frozen=True)
class Drift:
    """How the best learning rate of one parametrisation and recipe moves along an axis.

    Attributes:
        slope: d ln lr* / d ln axis: (value, low, high).
        factor: what lr* moves by from the smallest to the largest: (value, low, high).
        span: the smallest and the largest value of the axis.
        held: inputs held fixed by the regression; held_slope: the slope in them.
        scatter: standard deviation of ln lr* beyond the optima's own intervals.
        draws: of the slope.
    """

    parametrization: str
    recipe: str
    axis: str
    slope: tuple[float, float, float]
    factor: tuple[float, float, float]
    span: tuple[float, float]
    optima: int
    held: tuple[str, ...]
    held_slope: float
    scatter: float
    notes: tuple[str, ...]
    draws: np.ndarray


@dataclass(frozen=True)
class Comparison:
    """Which of two parametrisations drifts less.

    less: |slope of `other`| - |slope of `first`| as (value, low, high); probability: that it is
    above 0.
    """

    first: str
    other: str
    recipe: str
    axis: str
    less: tuple[float, float, float]
    probability: float
    verdict: str


def drifts(
    found: list[Curve], axis: str = "width", *, level: float = 0.9, seed: int = 0
) -> tuple[list[Drift], tuple[str, ...]]:
    """The drift of every (parametrisation, recipe) with optima at two values of `axis` or more.

    Weighted least squares of ln lr* on ln axis, weights from the optima's intervals and their
    scatter around the line. Where the other of N (or width) and D moves on its own over the optima,
    it is held fixed.

    Returns:
        The drifts, and why the others have none.

    Raises:
        UserError: for an unknown axis.
    """
    if axis not in AXES:
        raise UserError(f"axis={axis!r}: unknown; use one of {', '.join(AXES)}")
    groups: dict[tuple[str, str], list[Curve]] = {}
    for curve in found:
        groups.setdefault(
            (str(curve.settings.get("parametrization", "")), str(curve.settings.get("recipe", ""))),
            [],
        ).append(curve)
    out, notes = [], []
    for i, ((kind, recipe), curves) in enumerate(sorted(groups.items())):
        name = " ".join(w for w in (kind, recipe) if w) or "all runs"
        refused = tuple(
            f"left out: size {c.size}, D = {c.D:.3g}: {c.refused}"
            for c in curves
            if c.optimum is None
        )
        good = [
            c
            for c in curves
            if c.optimum is not None and np.isfinite(at(c, axis)) and at(c, axis) > 0
        ]
        if len({at(c, axis) for c in good}) < 2:
            notes.append(
                (
                    f"{name}: {len({at(c, axis) for c in good})} values of {axis} have an optimum, "
                    "a drift needs two; add sizes"
                )
                + "".join(f"; {r}" for r in refused)
            )
            continue
        out.append(
            _drift(kind, recipe, axis, good, refused, level, np.random.default_rng(seed + i))
        )
    return out, tuple(notes)


def compare(
    found: list[Drift], first: str = "mup", other: str = "standard", *, level: float = 0.9
) -> list[Comparison]:
    """Does `first` drift less than `other`, or is it not settled?

    Asked of every recipe that has both parametrisations, and of all together.
    """
    pairs = []
    for recipe in sorted({d.recipe for d in found}):
        mine = {d.parametrization: d for d in found if d.recipe == recipe}
        if {first, other} <= mine.keys():
            pairs.append((recipe, [(mine[first], mine[other])]))
    if len(pairs) > 1:
        pairs.append((f"mean of {len(pairs)} recipes", [both for _, (both,) in pairs]))
    return [_compare(recipe, both, first, other, level) for recipe, both in pairs]


def _compare(
    recipe: str, both: list[tuple[Drift, Drift]], first: str, other: str, level: float
) -> Comparison:
    drawn = np.mean([np.abs(b.draws) - np.abs(a.draws) for a, b in both], axis=0)
    value = float(np.mean([abs(b.slope[0]) - abs(a.slope[0]) for a, b in both]))
    low, high = percentile_interval(drawn, level)
    probability, axis = float((drawn > 0).mean()), both[0][0].axis
    winner = (
        (first, other)
        if probability >= _SURE
        else (other, first)
        if probability <= 1 - _SURE
        else None
    )
    said = (
        f"{winner[0]} drifts less than {winner[1]}"
        if winner
        else f"not settled whether {first} drifts less than {other}"
    )
    verdict = (
        f"{said} with {axis}{f' ({recipe})' if recipe else ''}: probability {probability:.3f} that "
        f"{first} does"
    )
    return Comparison(
        first, other, recipe, axis, (value, float(low), float(high)), probability, verdict
    )


def at(curve: Curve, axis: str) -> float:
    """The value of an axis of `AXES` for a curve; NaN where the source does not have it."""
    return float({"N": curve.N, "D": curve.D}.get(axis, curve.settings.get(axis, np.nan)))


def _drift(
    kind: str,
    recipe: str,
    axis: str,
    good: list[Curve],
    refused: tuple[str, ...],
    level: float,
    rng: np.random.Generator,
) -> Drift:
    x, y = np.log([at(c, axis) for c in good]), np.log([c.best for c in good])
    other = "N" if axis == "D" else "D"
    z = np.log([at(c, other) for c in good])
    design, holds = _design(x, z)
    known = [c.sd for c in good if c.sd]
    sd = np.array([c.sd or (max(known) if known else 0.0) for c in good])
    scatter = _scatter(design, y, sd)
    freedom = len(y) - design.shape[1]
    notes = list(refused)
    if not known:
        notes.append(
            "no optimum has an interval: the slope's is from the scatter around the line alone"
        )
    if not freedom:
        notes.append(
            f"as many optima as coefficients: nothing checks that ln lr* is straight in ln {axis}"
        )
    if np.ptp(z) > 1e-6 and not holds:
        notes.append(f"{other} moves along with {axis}: the slope is of both")
    beta, draws = _slopes(design, y, np.sqrt(sd**2 + scatter**2), scatter, rng)
    low, high = percentile_interval(draws, level)
    slope, reach = (float(beta[1]), float(low), float(high)), float(np.ptp(x))
    moved = [float(np.exp(s * reach)) for s in slope]
    return Drift(
        parametrization=kind,
        recipe=recipe,
        axis=axis,
        slope=slope,
        factor=(moved[0], moved[1], moved[2]),
        span=(float(np.exp(x.min())), float(np.exp(x.max()))),
        optima=len(good),
        held=(other,) if holds else (),
        held_slope=float(beta[2]) if holds else 0.0,
        scatter=scatter,
        notes=tuple(notes),
        draws=draws,
    )


def _design(x: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, bool]:
    """Columns of the regression on x [n], and whether z [n] is one: where it moves on its own."""
    wide = np.column_stack([np.ones(len(x)), x - x.mean(), z - z.mean()])
    singular = np.linalg.svd(
        wide / np.maximum(np.linalg.norm(wide, axis=0), 1e-300), compute_uv=False
    )
    holds = bool(len(x) > 3 and np.ptp(z) > 1e-6 and singular[-1] > 0.05)
    return (wide if holds else wide[:, :2]), holds


def _slopes(
    design: np.ndarray,
    y: np.ndarray,
    total: np.ndarray,
    scatter: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients of the weighted regression, and draws of the slope; total: s.d. of each y."""
    weight = 1 / np.maximum(total, 1e-6)
    solve = np.linalg.pinv(design * weight[:, None]) * weight[None]
    beta = solve @ y
    noise = rng.standard_normal((_DRAWS, len(y))) * total
    freedom = len(y) - design.shape[1]
    if freedom:  # the scatter itself is known from few points
        noise *= np.sqrt(freedom / rng.chisquare(freedom, (_DRAWS, 1))) if scatter > 0 else 1.0
    return beta, beta[1] + noise @ solve[1]


def _scatter(design: np.ndarray, y: np.ndarray, sd: np.ndarray) -> float:
    """The standard deviation beyond the optima's own that the residuals show, or 0.

    With it the weighted squares of the residuals are as large as their degrees of freedom.
    """
    from scipy.optimize import root_scalar

    freedom = len(y) - design.shape[1]
    if freedom < 1:
        return 0.0

    def excess(tau: float) -> float:
        w = 1 / np.sqrt(np.maximum(sd**2 + tau**2, 1e-12))
        residual = y - design @ np.linalg.lstsq(design * w[:, None], y * w, rcond=None)[0]
        return float(((residual * w) ** 2).sum()) - freedom

    most = float(np.ptp(y)) + 1e-9
    if excess(0.0) <= 0:
        return 0.0
    if excess(most) >= 0:
        return most
    found = root_scalar(excess, bracket=(0.0, most), method="brentq", xtol=1e-15, rtol=1e-14)
    return float(found.root)
