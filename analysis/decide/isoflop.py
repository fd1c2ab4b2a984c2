"""Chinchilla's Approach 2: power laws through the minima of isoFLOP profiles.

For each budget the minimum, then N* ~ C^a and D* ~ C^b (arXiv 2203.15556).

Within one budget loss against ln N is nearly a parabola, whose minimum is N*; D* follows from the
line of ln D on ln N of the same points. A parabola is not the law: on a wide or lopsided profile it
moves N* (2603.22339). The other method interpolates, takes the median over noisy copies of the
points, and weights each budget by how well its minimum is known (Porian et al., 2406.19146).
"""

import dataclasses
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from stepladder.analysis.decide.minimum import (
    METHODS,
    SAME_N,
    Drawing,
    Minimum,
    minimum_of,
    refusal,
)
from stepladder.analysis.decide.power_law import PowerLaw, power_law
from stepladder.analysis.fit.levels import check_level, percent
from stepladder.analysis.tables.checks import positive_values
from stepladder.configs.core.errors import UserError, nearest

RESAMPLE = ("noise", "points")


def _best(group: pd.DataFrame, size: pd.Series) -> pd.DataFrame:
    return group.loc[group["loss"].groupby(size).idxmin()]


def _mean(group: pd.DataFrame, size: pd.Series) -> pd.DataFrame:
    columns = ["N", "D", "loss"]
    sums = group[columns].mul(group["w"], axis=0).assign(w=group["w"]).groupby(size).sum()
    sums[columns] = sums[columns].div(sums["w"], axis=0)
    return sums


def _keep(group: pd.DataFrame, size: pd.Series) -> pd.DataFrame:
    return group


DUPLICATES: dict[str, Callable[[pd.DataFrame, pd.Series], pd.DataFrame] | None] = {
    "refuse": None,
    "best": _best,
    "mean": _mean,
    "keep": _keep,
}


@dataclass(frozen=True)
class Isoflop:
    """All minima, smallest budget first, and their power laws.

    Refused minima do not enter the laws, which are None with fewer than 3 others.

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

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return dataclasses.asdict(self) | {"source": METHODS[self.method].source}

    def __str__(self) -> str:
        lines = [
            (
                f"isoFLOP minima by {self.method} (arXiv {METHODS[self.method].source}), "
                f"{percent(self.level)} intervals"
            )
        ]
        for m in self.minima:
            lines.append(f"  C {m.C:.4g}  {m.points:>3} points  {m}")
        lines += [f"  {law}" for law in (self.N, self.D) if law is not None]
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])


def budgets(c: np.ndarray, tolerance: float = 0.1) -> np.ndarray:
    """Number the budgets [n] of nearly equal C [n], smallest first.

    A gap wider than `tolerance` (relative) starts a new budget.

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
    """Minima and power laws of a table with N, D, loss and C (FLOPs) or `budget`.

    Args:
        points: `budget` goes before C and must be the same number for all points of one budget.
        method: a key of METHODS.
        weights: a column of weights of the points.
        min_points: fewest sizes of a budget.
        duplicates: what to do with two points of one N in a budget, a key of DUPLICATES.
        tolerance: relative gap of C that starts a new budget.
        resample: "noise" adds Gaussian noise, "points" draws points of a budget with replacement.
        noise: s.d. of one loss; for the parabola None takes it from the pooled residuals
            (Student's t).
        level, draws, seed: of the intervals.

    Raises:
        UserError: for an unknown option, a missing column or a bad value. What is wrong with one
            budget is in its `refused`.
    """
    _check_options(method, duplicates, resample, level)
    if method == "akima":
        _check_akima(noise, resample, duplicates, weights)
    table = _grouped(points, weights, tolerance)
    cleaned = [_clean(g, min_points, duplicates) for _, g in table.groupby("group")]
    freedom = None
    if noise is None and resample == "noise":
        noise, freedom = _pooled([g for g, refused in cleaned if not refused])
    drawing = Drawing(resample, noise, freedom, level, draws)
    how, rng = METHODS[method], np.random.default_rng(seed)
    found = [
        (refusal(g, why), None) if why else minimum_of(g, how, drawing, rng) for g, why in cleaned
    ]
    minima = tuple(m for m, _ in found)
    n, d, without = _power_laws(minima, [sample for _, sample in found], how.weighted, level)
    return Isoflop(
        minima=minima,
        N=n,
        D=d,
        method=method,
        resample=resample,
        noise=noise,
        level=level,
        draws=draws,
        seed=seed,
        leave_one_out=without,
        notes=(*_notes(minima, without), *_noise_and_budget_notes(table, resample, noise)),
    )


def _check_options(method: str, duplicates: str, resample: str, level: float) -> None:
    check_level(level)
    options: tuple[tuple[str, str, Collection[str]], ...] = (
        ("method", method, METHODS),
        ("duplicates", duplicates, DUPLICATES),
        ("resample", resample, RESAMPLE),
    )
    for name, value, known in options:
        if value not in known:
            raise UserError(f"{name}={value!r}: unknown; {nearest(value, known)}")


def _check_akima(noise: float | None, resample: str, duplicates: str, weights: str | None) -> None:
    if noise is None or resample != "noise" or duplicates == "keep" or weights:
        raise UserError(
            "method='akima': interpolation has no residuals, weights or repeated N; give "
            "noise=<s.d. of loss between seeds>, resample='noise', duplicates='best' or 'mean', "
            "and no weights"
        )


def _power_laws(
    minima: tuple[Minimum, ...], drawn: list[np.ndarray | None], weighted: bool, level: float
) -> tuple[PowerLaw | None, PowerLaw | None, tuple[tuple[float, float], ...]]:
    """The laws of N* and D*, and the exponents of N* without one budget each."""
    good = [i for i, m in enumerate(minima) if not m.refused]
    if len(good) < 3:
        return None, None, ()
    c = np.array([minima[i].C for i in good])
    errors = np.array([minima[i].se_log_n for i in good], float)
    w = 1 / np.square(errors) if weighted else np.ones(len(good))
    samples = [drawn[i] for i in good]
    laws = []
    for k, name in enumerate(("N", "D")):
        stars = np.array([getattr(minima[i], name) for i in good])
        many = [sample[k] for sample in samples if sample is not None]
        copies = np.exp(np.stack(many, 1)) if many else None
        named = ("C", f"{name}*")
        laws.append(power_law(c, stars, names=named, weights=w, level=level, draws=copies))
    without = ()
    if len(good) > 3:
        stars = np.array([minima[i].N for i in good], float)
        without = tuple(
            (float(c[i]), power_law(c[keep], stars[keep], weights=w[keep]).exponent)
            for i, keep in enumerate(~np.eye(len(good), dtype=bool))
        )
    return laws[0], laws[1], without


def _notes(minima: tuple[Minimum, ...], without: tuple[tuple[float, float], ...]) -> list[str]:
    notes = [f"left out: C = {m.C:.4g}: {m.refused}" for m in minima if m.refused]
    found = len(minima) - len(notes)
    if found < 3:
        notes.append(f"{found} minima: no power law")
    if without:
        low, high = min(v for _, v in without), max(v for _, v in without)
        notes.append(f"the exponent of N* is {low:.4f} to {high:.4f} when one budget is left out")
    return notes


def _noise_and_budget_notes(table: pd.DataFrame, resample: str, noise: float | None) -> list[str]:
    notes = []
    if resample == "noise" and noise is None:
        notes.append("no intervals: as many points as coefficients in every budget; give noise")
    c = table.groupby("group")["C"]
    wide = float((c.max() / c.min()).max()) - 1
    if wide > 1e-3:
        notes.append(
            f"budgets hold compute that differs by up to {wide:.1%}; losses are not corrected for "
            "it"
        )
    return notes


def _grouped(points: pd.DataFrame, weights: str | None, tolerance: float) -> pd.DataFrame:
    """Columns C, N, D, loss, w and group, the number of the budget."""
    exact = "budget" in points
    columns = ["budget" if exact else "C", "N", "D", "loss", *([weights] if weights else [])]
    values = positive_values(points, columns)
    c = values[:, 0]
    table = pd.DataFrame(values[:, :4], columns=["C", "N", "D", "loss"])
    group = np.unique(c, return_inverse=True)[1] if exact else budgets(c, tolerance)
    return table.assign(w=values[:, 4] if weights else 1.0, group=group)


def _clean(group: pd.DataFrame, min_points: int, duplicates: str) -> tuple[pd.DataFrame, str]:
    """A budget's points by rising N, and why it cannot have a minimum."""
    group = group.sort_values(["N", "loss"], ignore_index=True)
    log_n = np.log(group["N"].to_numpy(float))
    size = pd.Series(np.cumsum(np.diff(log_n, prepend=log_n[:1]) > SAME_N), group.index)
    sizes, c = size.nunique(), float(group["C"].iloc[0])
    if group["C"].nunique() > 1:
        c = float(np.exp(np.log(group["C"]).mean()))
    if sizes < len(group):
        combine = DUPLICATES[duplicates]
        if combine is None:
            twice = group["N"][size.duplicated()].iloc[0]
            why = f"duplicated N={twice:.6g}: choose duplicates='best', 'mean' or 'keep'"
            return group.assign(C=c), why
        group = combine(group, size).reset_index(drop=True)
    least = max(min_points, 3)
    return group.assign(C=c), f"{sizes} sizes, fewer than {least}" if sizes < least else ""


def _pooled(groups: list[pd.DataFrame]) -> tuple[float | None, int | None]:
    """S.d. of one loss of weight 1 about the budgets' parabolas, and its degrees of freedom."""
    square, freedom = 0.0, 0
    for g in groups:
        x, root = np.log(g["N"].to_numpy(float)), np.sqrt(g["w"].to_numpy(float))
        x -= x.mean()
        design = np.stack([np.ones_like(x), x, x * x], 1) * root[:, None]
        y = g["loss"].to_numpy(float) * root
        square += float(((y - design @ np.linalg.lstsq(design, y, rcond=None)[0]) ** 2).sum())
        freedom += len(g) - 3
    return (float(np.sqrt(square / freedom)), freedom) if freedom > 0 else (None, None)
