"""Chinchilla's Approach 2: the minimum of each isoFLOP profile, then power laws N* ~ C^a and D* ~
C^b through them (arXiv 2203.15556).

Within one budget loss against ln N is nearly a parabola, whose minimum is N*; D* follows from the
line of ln D on ln N of the same points. A parabola is not the law: on a wide or lopsided profile it
moves N* (2603.22339). The other method interpolates, takes the median over noisy copies of the
points, and weights each budget by how well its minimum is known (Porian et al., 2406.19146).
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from stepladder.analysis.decide.power_law import PowerLaw, power_law
from stepladder.configs.core.errors import UserError, nearest

_SAME_N = 1e-6  # in ln N: nearer than this, two points are of one size
_GRID = 25  # interpolated points per gap between sizes
_LEAST_SD = 0.33 * _GRID  # least standard error of ln N*, in steps of that grid: Porian's choice
_MAJORITY = 0.5  # of the draws must have a minimum, else the observed one is an accident


class _Located(NamedTuple):
    """Per row: ln N*, loss there, curvature (loss per squared ln N; NaN if interpolated), why there
    is no minimum ('' if there is).
    """

    log_n: np.ndarray
    loss: np.ndarray
    curvature: np.ndarray
    refused: np.ndarray


def _parabola(x: np.ndarray, y: np.ndarray, w: np.ndarray) -> _Located:
    """x [n], y [K, n], w [K, n]."""
    middle, half = (x.max() + x.min()) / 2, (x.max() - x.min()) / 2
    t = (x - middle) / half  # normal equations of t in [-1, 1] are well conditioned
    design = np.stack([np.ones_like(t), t, t * t], 1)
    known = np.array([len(np.unique(np.round(x[row > 0] / _SAME_N))) > 2 for row in w])
    matrix = np.where(
        known[:, None, None], np.einsum("kn,ni,nj->kij", w, design, design), np.eye(3)
    )
    c = np.linalg.solve(matrix, np.einsum("kn,ni,kn->ki", w, design, y)[..., None])[..., 0]
    convex = known & (c[:, 2] > 0)
    vertex = np.where(convex, -c[:, 1] / (2 * np.where(convex, c[:, 2], 1)), np.nan)
    why = np.where(
        vertex < -1,
        "the minimum lies below the smallest N: add smaller models",
        np.where(vertex > 1, "the minimum lies above the largest N: add larger models", ""),
    )
    why = np.where(
        convex,
        why,
        np.where(known, "not convex in ln N: there is no minimum", "fewer than 3 sizes"),
    )
    return _Located(middle + half * vertex, c[:, 0] + c[:, 1] * vertex / 2, c[:, 2] / half**2, why)


def _akima(x: np.ndarray, y: np.ndarray, w: np.ndarray) -> _Located:
    """The lowest point of Akima's interpolation of ln loss on a grid of ln N; x [n] ascending and
    different, y [K, n].
    """
    # jax depends on scipy; imported where it is used
    from scipy.interpolate import Akima1DInterpolator

    grid = np.linspace(x[0], x[-1], (len(x) - 1) * _GRID)
    curve = Akima1DInterpolator(x, np.log(y), axis=1)(grid)
    lowest = np.nanargmin(curve, axis=1)
    why = np.where(
        lowest == 0,
        "the smallest N is the best: add smaller models",
        np.where(lowest == len(grid) - 1, "the largest N is the best: add larger models", ""),
    )
    return _Located(
        grid[lowest], np.exp(curve[np.arange(len(y)), lowest]), np.full(len(y), np.nan), why
    )


@dataclass(frozen=True)
class Method:
    """How a minimum is found.

    `median`: N* and loss are medians over the draws; `weighted`: budgets weigh 1 / s.e.^2 in the
    power laws.
    """

    name: str
    locate: Callable[[np.ndarray, np.ndarray, np.ndarray], _Located]
    median: bool
    weighted: bool
    source: str  # arXiv id


METHODS = {
    m.name: m
    for m in (
        Method("parabola", _parabola, False, False, "2203.15556"),
        Method("akima", _akima, True, True, "2406.19146"),
    )
}


def _best(group: pd.DataFrame, size: pd.Series) -> pd.DataFrame:
    return group.loc[group["loss"].groupby(size).idxmin()]


def _mean(group: pd.DataFrame, size: pd.Series) -> pd.DataFrame:
    mean = group.groupby(size)[["N", "D", "loss"]].mean()
    return mean.assign(w=group.groupby(size)["w"].sum())


def _keep(group: pd.DataFrame, size: pd.Series) -> pd.DataFrame:
    return group


DUPLICATES = {"refuse": None, "best": _best, "mean": _mean, "keep": _keep}


@dataclass(frozen=True)
class Minimum:
    """One budget: C (FLOPs; geometric mean of its points), N*, D*, loss there, their intervals over
    the draws, or why it was refused.

    se_log_n: standard error of ln N*. failed: share of the draws that have no minimum within the
    sizes; in the intervals these count as the nearer end, so that an interval that reaches the end
    says "or beyond".
    """

    C: float
    points: int
    N: float | None = None
    D: float | None = None
    loss: float | None = None
    N_interval: tuple[float, float] | None = None
    D_interval: tuple[float, float] | None = None
    loss_interval: tuple[float, float] | None = None
    curvature: float | None = None
    se_log_n: float | None = None
    failed: float | None = None
    refused: str = ""


@dataclass(frozen=True)
class Isoflop:
    """All minima, smallest budget first, and the power laws of those that were not refused (None
    with fewer than 3).

    leave_one_out: (C left out, exponent of N* without it): Approach 2 depends on its points more
    than its intervals show.
    """

    minima: tuple[Minimum, ...]
    N: PowerLaw | None
    D: PowerLaw | None
    method: str
    resample: str
    noise: float | None  # standard deviation of one loss
    level: float
    draws: int
    seed: int
    leave_one_out: tuple[tuple[float, float], ...]
    notes: tuple[str, ...]

    def to_frame(self) -> pd.DataFrame:
        """One row a budget, refused ones included."""
        rows = []
        for m in self.minima:
            row = dataclasses.asdict(m)
            for name in ("N", "D", "loss"):
                row[f"{name}_low"], row[f"{name}_high"] = row.pop(f"{name}_interval") or (
                    None,
                    None,
                )
            rows.append(row)
        return pd.DataFrame(rows)

    def to_dict(self) -> dict:
        """JSON-able."""
        return dataclasses.asdict(self) | {"source": METHODS[self.method].source}

    def __str__(self) -> str:
        lines = [
            (
                f"isoFLOP minima by {self.method} (arXiv {METHODS[self.method].source}), "
                f"{self.level:.0%} intervals"
            )
        ]
        for m in self.minima:
            found = (
                m.refused or f"N* {m.N:.4g}  D* {m.D:.4g}  D*/N* {m.D / m.N:.3g}  loss {m.loss:.4f}"
            )
            if m.N_interval and not m.refused:
                found += "  N* from {:.4g} to {:.4g}".format(*m.N_interval)
            lines.append(f"  C {m.C:.4g}  {m.points:>3} points  {found}")
        lines += [f"  {law}" for law in (self.N, self.D) if law is not None]
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])


def budgets(c: np.ndarray, tolerance: float = 0.1) -> np.ndarray:
    """Number the budgets [n] of nearly equal C [n], smallest first: a gap wider than `tolerance`
    (relative) starts a new one.

    Raises UserError when a chain of small gaps runs over more than three times the tolerance: these
    are no isoFLOP groups.
    """
    log_c = np.log(np.asarray(c, float))
    order = np.argsort(log_c, kind="stable")
    index = np.empty(len(log_c), int)
    index[order] = np.cumsum(np.diff(log_c[order], prepend=log_c[order[:1]]) > np.log1p(tolerance))
    for k in range(index.max(initial=-1) + 1):
        low, high = (np.exp(f(log_c[index == k])) for f in (np.min, np.max))
        if high / low > 1 + 3 * tolerance:
            raise UserError(
                f"tolerance={tolerance}: budgets from {low:.4g} to {high:.4g} run into one "
                "another; use a smaller tolerance or a column 'budget'"
            )
    return index


def isoflop(
    points: pd.DataFrame,
    *,
    method: str = "parabola",
    weights: str | None = None,
    min_points: int = 4,
    duplicates: str = "refuse",
    tolerance: float = 0.1,
    resample: str = "noise",
    noise: float | None = None,
    level: float = 0.9,
    draws: int = 1000,
    seed: int = 0,
) -> Isoflop:
    """Minima and power laws of a table with N, D, loss and C (FLOPs) or `budget`, which goes first
    and must be exact.

    resample: "noise" adds Gaussian noise of s.d. `noise` (loss units; for the parabola None takes
    it from the pooled residuals, Student's t), "points" draws points of a budget with replacement.
    duplicates: what to do with two points of one N in a budget.
    Raises UserError for an unknown option, a missing column or a bad value; what is wrong with one
    budget is in its `refused`.
    """
    for field, value, known in (
        ("method", method, METHODS),
        ("duplicates", duplicates, DUPLICATES),
        ("resample", resample, _RESAMPLE),
    ):
        if value not in known:
            raise UserError(f"{field}={value!r}: unknown; {nearest(value, known)}")
    how = METHODS[method]
    if method == "akima" and (
        noise is None or resample != "noise" or duplicates == "keep" or weights
    ):
        raise UserError(
            "method='akima': interpolation has no residuals, weights or repeated N; give "
            "noise=<s.d. of loss between seeds>, resample='noise', duplicates='best' or 'mean', "
            "and no weights"
        )
    table = _checked(points, weights)
    table["group"] = (
        np.unique(table["C"], return_inverse=True)[1]
        if "budget" in points
        else budgets(table["C"], tolerance)
    )
    rng = np.random.default_rng(seed)
    cleaned = [_clean(g, min_points, duplicates) for _, g in table.groupby("group")]
    freedom = None
    if noise is None and resample == "noise":
        noise, freedom = _pooled([g for g, refused in cleaned if not refused])
    minima, drawn = [], []
    for group, refused in cleaned:
        minimum, sample = _minimum(group, refused, how, resample, noise, freedom, level, draws, rng)
        minima.append(minimum)
        drawn.append(sample)
    good = [i for i, m in enumerate(minima) if not m.refused]
    laws, without = (None, None), []
    notes = [f"left out: C = {m.C:.4g}: {m.refused}" for m in minima if m.refused]
    if len(good) < 3:
        notes.append(f"{len(good)} minima: no power law")
    else:
        c = np.array([minima[i].C for i in good])
        stars = {name: np.array([getattr(minima[i], name) for i in good]) for name in ("N", "D")}
        errors = [minima[i].se_log_n for i in good]
        w = 1 / np.square(errors) if how.weighted else np.ones(len(good))
        samples = (
            None
            if drawn[good[0]] is None
            else [np.exp(np.stack([drawn[i][k] for i in good], 1)) for k in (0, 1)]
        )
        laws = tuple(
            power_law(
                c,
                stars[name],
                names=("C", f"{name}*"),
                weights=w,
                level=level,
                draws=None if samples is None else samples[k],
            )
            for k, name in enumerate(("N", "D"))
        )
        if len(good) > 3:
            keep = ~np.eye(len(good), dtype=bool)
            without = [
                (float(c[i]), power_law(c[k], stars["N"][k], weights=w[k]).exponent)
                for i, k in enumerate(keep)
            ]
            ends = [min(v for _, v in without), max(v for _, v in without)]
            notes.append(
                "the exponent of N* is {:.4f} to {:.4f} when one budget is left out".format(*ends)
            )
    if resample == "noise" and noise is None:
        notes.append("no intervals: as many points as coefficients in every budget; give noise")
    wide = np.exp(table.groupby("group")["C"].agg(lambda c: np.log(c.max() / c.min())).max()) - 1
    if wide > 1e-3:
        notes.append(
            f"budgets hold compute that differs by up to {wide:.1%}; losses are not corrected for "
            "it"
        )
    return Isoflop(
        tuple(minima),
        *laws,
        method,
        resample,
        noise,
        level,
        draws,
        seed,
        tuple(without),
        tuple(notes),
    )


_RESAMPLE = ("noise", "points")


def _checked(points: pd.DataFrame, weights: str | None) -> pd.DataFrame:
    """Columns C, N, D, loss, w."""
    budget = "budget" if "budget" in points else "C"
    names = [budget, "N", "D", "loss"] + ([weights] if weights else [])
    for name in names:
        if name not in points:
            raise UserError(
                f"column {name!r}: missing from the table; "
                f"{nearest(name, map(str, points.columns))}"
            )
    values = points[names].to_numpy(float)
    bad = ~(np.isfinite(values) & (values > 0))
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise UserError(
            f"column {names[column]!r}={values[row, column]}: not a positive finite number (row "
            f"{points.index[row]}); mend it"
        )
    table = pd.DataFrame(values[:, :4], columns=["C", "N", "D", "loss"])
    return table.assign(w=values[:, 4] if weights else 1.0)


def _clean(group: pd.DataFrame, min_points: int, duplicates: str) -> tuple[pd.DataFrame, str]:
    """A budget's points by rising N, and why it cannot have a minimum."""
    group = group.sort_values(["N", "loss"], ignore_index=True)
    size = (np.log(group["N"]).diff() > _SAME_N).cumsum()
    sizes, c = size.nunique(), float(group["C"].iloc[0])
    if group["C"].nunique() > 1:
        c = float(np.exp(np.log(group["C"]).mean()))
    if sizes < len(group):
        if duplicates == "refuse":
            twice = group["N"][size.duplicated()].iloc[0]
            return group.assign(
                C=c
            ), f"duplicated N={twice:.6g}: choose duplicates='best', 'mean' or 'keep'"
        group = DUPLICATES[duplicates](group, size).reset_index(drop=True)
    return group.assign(C=c), f"{sizes} sizes, fewer than {max(min_points, 3)}" if sizes < max(
        min_points, 3
    ) else ""


def _pooled(groups: list[pd.DataFrame]) -> tuple[float | None, int | None]:
    """Standard deviation of one loss of weight 1 about the parabolas of all budgets, and its
    degrees of freedom.
    """
    square, freedom = 0.0, 0
    for g in groups:
        x, root = np.log(g["N"]) - np.log(g["N"]).mean(), np.sqrt(g["w"])
        design = np.stack([np.ones_like(x), x, x * x], 1) * root.to_numpy()[:, None]
        y = (g["loss"] * root).to_numpy()
        square += float(((y - design @ np.linalg.lstsq(design, y, rcond=None)[0]) ** 2).sum())
        freedom += len(g) - 3
    return (np.sqrt(square / freedom), freedom) if freedom > 0 else (None, None)


def _minimum(
    group: pd.DataFrame,
    refused: str,
    how: Method,
    resample: str,
    noise: float | None,
    freedom: int | None,
    level: float,
    draws: int,
    rng: np.random.Generator,
):
    """A Minimum, and draws of (ln N*, ln D*) [2, K] with NaN where a draw has none; None for no
    draws.
    """
    minimum = Minimum(C=float(group["C"].iloc[0]), points=len(group), refused=refused)
    if refused:
        return minimum, None
    x, y, w = np.log(group["N"].to_numpy()), group["loss"].to_numpy(), group["w"].to_numpy()
    seen = how.locate(x, y[None], w[None])
    if seen.refused[0]:
        return dataclasses.replace(minimum, refused=str(seen.refused[0])), None
    log_n, loss = float(seen.log_n[0]), float(seen.loss[0])
    slope, level_d = np.polyfit(x, np.log(group["D"].to_numpy()), 1)  # exact where C = 6 N D
    sample = None
    if resample == "points" or noise is not None:
        if resample == "points":
            counts = rng.multinomial(len(x), np.full(len(x), 1 / len(x)), size=draws)
            found = how.locate(x, np.broadcast_to(y, counts.shape), w * counts)
        else:
            sd = (
                noise
                if freedom is None
                else noise * np.sqrt(freedom / rng.chisquare(freedom, (draws, 1)))
            )
            shaken = y + sd / np.sqrt(w) * rng.standard_normal((draws, len(x)))
            found = how.locate(x, shaken, np.broadcast_to(w, shaken.shape))
        good = found.refused == ""
        failed = 1 - float(good.mean())
        minimum = dataclasses.replace(minimum, failed=failed)
        if failed > _MAJORITY:
            return dataclasses.replace(
                minimum,
                refused=f"{failed:.0%} of the draws have no minimum: it is lost in the noise",
            ), None
        ends = [(1 - level) / 2, (1 + level) / 2]
        # A draw without a minimum counts as the end of the range that it points to; one that is not
        # convex points to neither, so to both.
        lost = np.where(
            np.isnan(found.log_n),
            np.where(np.arange(draws) % 2 == 0, x.min(), x.max()),
            found.log_n,
        )
        low, high = np.quantile(np.clip(lost, x.min(), x.max()), ends)
        se = float(found.log_n[good].std())
        if how.median:
            log_n = float(np.log(np.median(np.exp(found.log_n[good]))))
            loss = float(np.median(found.loss[good]))
            se = (
                max(se, _LEAST_SD * (x.max() - x.min()) / ((len(x) - 1) * _GRID - 1))
                * draws
                / good.sum()
            )
        sample = np.where(good, np.stack([found.log_n, level_d + slope * found.log_n]), np.nan)
        edges = np.sort(np.exp(level_d + slope * np.array([low, high])))
        minimum = dataclasses.replace(
            minimum,
            N_interval=(float(np.exp(low)), float(np.exp(high))),
            D_interval=tuple(map(float, edges)),
            loss_interval=tuple(map(float, np.quantile(found.loss[good], ends))),
            se_log_n=se,
        )
    curvature = None if np.isnan(seen.curvature[0]) else float(seen.curvature[0])
    star = float(np.exp(level_d + slope * log_n))
    return dataclasses.replace(
        minimum, N=float(np.exp(log_n)), D=star, loss=loss, curvature=curvature
    ), sample
