"""Learning-rate curves, each with its optimum.

The runs of a curve differ in the learning rate and the seeds alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pandas as pd

from stepladder.analysis.records.load import Runs
from stepladder.analysis.studies.learning_rate.optimum import Optimum, misfit, optimum
from stepladder.analysis.studies.learning_rate.points import RatePoints, rate_points, why
from stepladder.analysis.tables.checks import joined

LEAST_RATES = 3
_MEDIAN_OF_SQUARE = 0.4549  # median of a squared standard normal
# a variance from the median of squares is as well known as one from the mean of this share of them
_MEDIAN_WORTH = 0.37


@dataclass(frozen=True)
class Curve:
    """Final loss against learning rate at one setting, and the optimum or why there is none.

    Attributes:
        rates: learning rates at which no run diverged, ascending; with a diverged run the mean of
            the survivors would be too low.
        losses: mean final losses at `rates`, nats per token.
        seeds: runs at each of `rates`.
        optimum: the best learning rate; low, high: its interval at `level` (optimum.py).
        curvature: nats per token per squared natural log of the rate.
        noise: standard deviation of one run, nats per token.
        noise_source: repeated seeds, the evaluation's standard error, or the misfit of the curves.
        diverged: (rate, diverged runs, runs) of each rate with a diverged run.
        settings: the other columns of points.SETTINGS.
    """

    size: str
    N: float
    D: float
    rates: tuple[float, ...]
    losses: tuple[float, ...]
    seeds: tuple[int, ...]
    optimum: float | None
    low: float | None
    high: float | None
    level: float
    loss_at_optimum: float | None
    curvature: float | None
    noise: float | None
    noise_source: str
    refused: str  # empty when there is an optimum
    diverged: tuple[tuple[float, int, int], ...]
    settings: Mapping[str, str | float]

    @property
    def best(self) -> float:
        """The optimum of a curve that has one; raises ValueError for others."""
        if self.optimum is None:
            raise ValueError(f"size {self.size}, D = {self.D:.3g}: no optimum, {self.refused}")
        return self.optimum

    @property
    def interval(self) -> tuple[float, float]:
        """Low and high end of the optimum; the optimum itself twice where nothing tells them."""
        if self.low is None or self.high is None:
            return self.best, self.best
        return self.low, self.high

    @property
    def sd(self) -> float | None:
        """Standard deviation of ln lr*, from the width of its interval."""
        if self.optimum is None or self.low is None or self.high is None:
            return None
        return float(
            np.log(self.high / self.low) / (2 * NormalDist().inv_cdf((1 + self.level) / 2))
        )


def curves(
    source: Runs | RatePoints | pd.DataFrame | str | Path, *, level: float = 0.9, seed: int = 0
) -> tuple[list[Curve], pd.DataFrame]:
    """The curve of every setting with at least three rates, smallest N first.

    Points are final decayed losses of all roles but the target: a proxy joins the curve of its
    sweep when it differs in nothing but the rate and the seeds (points.SETTINGS, those that the
    source has); a cooldown branch never does.

    Returns:
        The curves, and what was left out (run_id, step, domain, reason).
    """
    points = rate_points(source)
    groups, few = [], []
    for rows in points.groups():
        enough = rows["learning_rate"].nunique() >= LEAST_RATES
        (groups if enough else few).append(rows)
    left = [why(rows, "fewer than three learning rates with these settings") for rows in few]
    tables = [_by_rate(rows) for rows in groups]
    shared = _shared_noise(tables)
    found = [
        _curve(rows, table, points.settings, shared, level, seed + i)
        for i, (rows, table) in enumerate(zip(groups, tables))
    ]
    return found, joined([points.excluded, *left])


def _by_rate(rows: pd.DataFrame) -> pd.DataFrame:
    """A row for each learning rate, ascending: mean, count and var of the loss, runs, lost."""
    grouped = rows.groupby("learning_rate")
    table = grouped["loss"].agg(["mean", "count", "var"]).sort_index()
    return table.assign(runs=grouped.size(), lost=grouped["diverged"].sum())


def _shared_noise(tables: list[pd.DataFrame]) -> tuple[float, float]:
    """Variance of one run from the misfits of all curves, and its degrees of freedom.

    The last resort of curves without seeds. It is the median over curves, as a few that break up
    at a large rate would set the mean; each curve has one degree of freedom.
    """
    alive = [_alive(table) for table in tables]
    each = [
        misfit(t.index.to_numpy(float), t["mean"].to_numpy(), t["count"].to_numpy(float))
        for t in alive
        if len(t) >= 5
    ]
    squares = [value for value, freedom in each if freedom]
    if not squares:
        return 0.0, 0.0
    return float(np.median(squares)) / _MEDIAN_OF_SQUARE, max(1.0, _MEDIAN_WORTH * len(squares))


def _alive(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["lost"] == 0]


def _noise(
    rows: pd.DataFrame, table: pd.DataFrame, shared: tuple[float, float]
) -> tuple[float | None, float, str]:
    """Standard deviation of one run's loss, its degrees of freedom, and where it comes from."""
    freedom = (table["count"] - 1).clip(lower=0)
    if freedom.sum():
        pooled = (table["var"].fillna(0) * freedom).sum() / freedom.sum()
        return float(np.sqrt(pooled)), float(freedom.sum()), "repeated seeds"
    variance, count = shared
    known = rows["loss_se"].astype(float).dropna() if "loss_se" in rows else rows["loss"].iloc[:0]
    if len(known):
        # Two lower bounds: windows of the evaluation alone, and how far points are from their
        # curves. The larger one is nearer.
        se = float(known.median())
        if count >= 3 and variance > se**2:
            return (
                float(np.sqrt(variance)),
                float(count),
                "misfit of the curves (no repeated seeds)",
            )
        return se, np.inf, "evaluation standard error (no repeated seeds: a lower bound)"
    if count:
        return float(np.sqrt(variance)), float(count), "misfit of the curves (no repeated seeds)"
    return None, np.inf, "unknown: no repeated seeds"


def _curve(
    rows: pd.DataFrame,
    table: pd.DataFrame,
    settings: list[str],
    shared: tuple[float, float],
    level: float,
    seed: int,
) -> Curve:
    noise, freedom, origin = _noise(rows, table, shared)
    alive, lost = _alive(table), table[table["lost"] > 0]
    rates = alive.index.to_numpy(float)
    losses = alive["mean"].to_numpy()
    counts = alive["count"].to_numpy(float)
    beyond = lost.index[lost.index > rates[-1]].min() if len(rates) else np.nan
    if len(rates) < LEAST_RATES:
        best = Optimum(
            refused=f"{len(rates)} rates without a diverged run, a parabola needs {LEAST_RATES}: "
            "add smaller rates"
        )
    else:
        best = optimum(
            rates,
            losses,
            counts,
            noise,
            freedom,
            level=level,
            seed=seed,
            beyond=None if np.isnan(beyond) else float(beyond),
        )
    first = rows.iloc[0]
    return Curve(
        size=str(first.get("size", f"{first['N']:.3g}")),
        N=float(first["N"]),
        D=float(first["D"]),
        rates=tuple(map(float, rates)),
        losses=tuple(map(float, losses)),
        seeds=tuple(map(int, counts)),
        optimum=best.rate,
        low=best.low,
        high=best.high,
        level=level,
        loss_at_optimum=best.loss,
        curvature=best.curvature,
        noise=noise,
        noise_source=origin,
        refused=best.refused,
        diverged=tuple(
            (float(r), int(n), int(runs))
            for r, n, runs in zip(lost.index, lost["lost"], lost["runs"])
        ),
        settings={
            name: first[name] if isinstance(first[name], str) else float(first[name])
            for name in settings
            if name not in ("N", "D")
        },
    )
