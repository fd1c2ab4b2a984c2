"""Where training breaks: the bracket of the largest stable learning rate, and its law in N."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from stepladder.analysis.fit.levels import percentile_interval
from stepladder.analysis.studies.learning_rate.curves import Curve
from stepladder.analysis.studies.learning_rate.points import RatePoints
from stepladder.analysis.studies.learning_rate.sensitivity import initial_loss
from stepladder.configs.core.errors import UserError

_DRAWS = 2000
LEAST_BRACKETS = 3
EXCESS = 1.0  # nats per token


@dataclass(frozen=True)
class Boundary:
    """The bracket of one setting: the boundary lies between `survives` and `diverges`.

    Attributes:
        survives: the largest rate at which all runs survive; None: add smaller rates.
        survivors: runs at `survives`.
        diverges: the smallest rate at which a run diverged; None: add larger rates.
        lost: diverged runs, and runs, at `diverges`.
        mixed: rates above `diverges` at which every seed survived.
    """

    size: str
    N: float
    D: float
    settings: dict[str, str | float]
    survives: float | None
    survivors: int
    diverges: float | None
    lost: tuple[int, int]
    mixed: tuple[float, ...]
    note: str


@dataclass(frozen=True)
class BoundaryLaw:
    """lr_max = rate (N / centre)^a through the brackets; rate and a are (value, low, high).

    brackets: how many were used; notes: what was left out.
    """

    centre: float
    rate: tuple[float, float, float]
    a: tuple[float, float, float]
    brackets: int
    level: float
    notes: tuple[str, ...]

    def at(self, n: float) -> float:
        """The boundary for N parameters."""
        return float(self.rate[0] * (n / self.centre) ** self.a[0])


def kind_of(found: Curve | Boundary) -> str:
    """Recipe and parametrisation in words; '' when the source has neither."""
    return " ".join(
        str(found.settings[k]) for k in ("parametrization", "recipe") if found.settings.get(k)
    )


def boundaries(points: RatePoints, *, above: float = 0.0, excess: float = EXCESS) -> list[Boundary]:
    """The bracket of every setting with two rates or more.

    A run broke when its record says that it diverged, when it ends `above` nats per token over its
    initial loss, or `excess` over the lowest mean loss of its setting: it lived, and learned
    nothing of use.
    """
    return [
        _boundary(rows, points.settings, above, excess)
        for rows in points.groups()
        if rows["learning_rate"].nunique() > 1
    ]


def _boundary(rows: pd.DataFrame, settings: list[str], above: float, excess: float) -> Boundary:
    l0, _ = initial_loss(rows)
    limit = rows.groupby("learning_rate")["loss"].mean().min() + excess
    lost = rows["diverged"] | (rows["loss"] > (limit if l0 is None else min(limit, l0 + above)))
    table = (
        rows.assign(lost=lost).groupby("learning_rate")["lost"].agg(["sum", "count"]).sort_index()
    )
    rates = table.index.to_numpy(float).tolist()
    lost_at = dict(zip(rates, map(int, table["sum"])))
    runs_at = dict(zip(rates, map(int, table["count"])))
    diverges = next((rate for rate, diverged in lost_at.items() if diverged), None)
    below = [rate for rate in lost_at if diverges is None or rate < diverges]
    survives = below[-1] if below else None
    mixed = tuple(
        rate
        for rate, diverged in lost_at.items()
        if diverges is not None and rate > diverges and not diverged
    )
    note = ""
    if diverges is None:
        note = f"nothing diverged up to {survives:.3g}: add larger rates"
    elif survives is None:
        note = f"a run diverged at the smallest rate tried, {diverges:.3g}: add smaller rates"
    elif mixed:
        note = f"not monotone: {', '.join(f'{r:.3g}' for r in mixed)} survived above it; add seeds"
    first = rows.iloc[0]
    return Boundary(
        size=str(first.get("size", "")),
        N=float(first["N"]),
        D=float(first["D"]),
        settings={
            n: first[n] if isinstance(first[n], str) else float(first[n])
            for n in settings
            if n not in ("N", "D")
        },
        survives=survives,
        survivors=0 if survives is None else runs_at[survives],
        diverges=diverges,
        lost=(0, 0) if diverges is None else (lost_at[diverges], runs_at[diverges]),
        mixed=mixed,
        note=note,
    )


def boundary_law(found: list[Boundary], *, level: float = 0.9, seed: int = 0) -> BoundaryLaw:
    """Regress ln lr_max on ln N over three or more closed brackets.

    The boundary may lie anywhere in its bracket, and brackets are resampled.

    Raises:
        UserError: with fewer brackets, or sizes, than three.
    """
    brackets = [
        (b.N, b.survives, b.diverges)
        for b in found
        if b.survives is not None and b.diverges is not None
    ]
    sizes = {n for n, *_ in brackets}
    if len(sizes) < LEAST_BRACKETS:
        raise UserError(
            f"brackets={len(brackets)} of {len(sizes)} sizes: the law needs "
            f"{LEAST_BRACKETS} sizes with a surviving and a diverging rate; add rates until "
            "something diverges"
        )
    x = np.log([n for n, *_ in brackets])
    low, high = np.log([b[1:] for b in brackets]).T
    slope, level_0 = np.polyfit(x - x.mean(), (low + high) / 2, 1)
    rng, drawn = np.random.default_rng(seed), []
    while len(drawn) < _DRAWS:
        pick = rng.integers(0, len(x), len(x))
        if np.ptp(x[pick]) > 0:
            y = low[pick] + (high - low)[pick] * rng.uniform(size=len(x))
            a, b = np.polyfit(x[pick] - x.mean(), y, 1)
            drawn.append((np.exp(b), a))
    spans = np.array(percentile_interval(drawn, level, axis=0))
    notes = tuple(
        f"left out: size {b.size}, D = {b.D:.3g}: {b.note}"
        for b in found
        if b.survives is None or b.diverges is None
    )
    (rate_low, slope_low), (rate_high, slope_high) = spans.tolist()
    return BoundaryLaw(
        centre=float(np.exp(x.mean())),
        rate=(float(np.exp(level_0)), rate_low, rate_high),
        a=(float(slope), slope_low, slope_high),
        brackets=len(brackets),
        level=level,
        notes=notes,
    )
