"""Means over seeds and draws with their standard errors, on a grid of budgets and strengths.

A cell is one arm, size, budget, change and strength. The draws of noise of one pretraining seed are
averaged first. The standard error of the mean over seeds comes

- from the cell's own seeds, where there are three or more;
- else from the seeds of all budgets at that strength, pooled, where any budget has two or more;
- else from the draws alone: noise of another pretraining seed is then not in it;
- else, for a loss after the change, from the windows of the evaluation.

Intervals are Student's, with the degrees of freedom of that estimate. What is computed from several
cells is computed again from redrawn means (`Sample.draws`): mean + standard error times t.
"""

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from stepladder.analysis.fit.levels import percentiles
from stepladder.analysis.studies.overtraining.changes import size_of
from stepladder.analysis.studies.overtraining.measures import Row

SEEDS, POOLED = "seeds", "seeds, pooled over budgets"
DRAWS, WINDOWS, NONE = "draws only", "evaluation windows only", ""
QUANTITIES = "base_loss loss delta ppl_base ppl delta_ppl tuned_loss trace_sigma".split()
_ERRORS = {"loss": "loss_se", "trace_sigma": "trace_sigma_se"}  # an error that the table gives
_ENOUGH = 3  # seeds, for an error of their own
_LEAST_FREEDOM = 1.0


@dataclass(frozen=True)
class Measured:
    """One quantity over a grid: arrays [T, S], NaN where there is no cell.

    se is NaN, and `how` NONE, where nothing says how large the error is.
    """

    mean: np.ndarray
    se: np.ndarray
    freedom: np.ndarray
    how: np.ndarray

    def at(self, budgets: slice | np.ndarray, strengths: slice | np.ndarray) -> "Measured":
        """A part of the grid; indices are as NumPy takes them."""
        parts = (self.mean, self.se, self.freedom, self.how)
        return Measured(*(a[budgets][:, strengths] for a in parts))


@dataclass(frozen=True)
class Grid:
    """All cells of one arm, family of changes and size.

    Attributes:
        D: budgets in tokens, ascending [T].
        strengths: by the size of the change, ascending [S].
        seeds, draws: how many [T, S]; draws are the fewest of a seed.
        measured: a name of QUANTITIES -> its means and errors.
    """

    arm: str
    family: str
    N: float
    D: np.ndarray
    strengths: np.ndarray
    seeds: np.ndarray
    draws: np.ndarray
    measured: Mapping[str, Measured] = field(repr=False)

    @property
    def key(self) -> Row:
        """Arm, family and size, as the first columns of a row."""
        return {"arm": self.arm, "change": self.family, "N": self.N}

    def mean(self, name: str) -> np.ndarray:
        """The means [T, S] of a quantity."""
        return self.measured[name].mean

    def there(self, strength: int, name: str = "loss") -> np.ndarray:
        """Which budgets have the quantity at a strength [T]."""
        return np.isfinite(self.mean(name)[:, strength])


@dataclass(frozen=True)
class Estimate:
    """A number with its interval, NaN where there is none; how: what the interval comes from."""

    value: float
    low: float = math.nan
    high: float = math.nan
    how: str = NONE

    def row(self, name: str) -> Row:
        """As three columns of a row."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


@dataclass(frozen=True)
class Sample:
    """How means are redrawn."""

    resamples: int
    level: float
    seed: int

    def draws(self, grid: Grid, name: str, *, shared: bool = False, stream: str = "") -> np.ndarray:
        """Means redrawn from their errors [B, T, S]; a cell without an error stays as it is.

        shared: the same luck at every strength of a budget, as cells of the same models have: an
            average over strengths is then not too sure. Otherwise all cells are independent, which
            makes a comparison of strengths less sure than it is, never more.
        stream: what else the luck belongs to; equal streams of one grid have the same.
        """
        m = grid.measured[name]
        noise = np.empty((self.resamples, *m.mean.shape))
        whole = f"{grid.arm} {stream}" if shared else f"{grid.arm} {grid.family} {name} {stream}"
        for i, d in enumerate(grid.D):
            for j, strength in enumerate(grid.strengths):
                text = f"{whole} {grid.N:.6g} {d:.6g}" + ("" if shared else f" {strength:.6g}")
                rng = np.random.default_rng([self.seed, zlib.crc32(text.encode())])
                freedom = m.freedom[i, j]
                z = rng.standard_normal(self.resamples)
                if np.isfinite(freedom):
                    z *= np.sqrt(freedom / rng.chisquare(freedom, self.resamples))
                noise[:, i, j] = z
        return m.mean + np.nan_to_num(m.se) * noise

    def interval(self, values: np.ndarray, *, known: bool = True) -> tuple[float, float]:
        """Percentiles of draws [B] that are ends of the draws themselves; NaN unless `known`."""
        values = np.sort(values[~np.isnan(values)])
        if not known or not len(values):
            return math.nan, math.nan
        low, high = percentiles(self.level)
        last = len(values) - 1
        return float(values[math.floor(low * last)]), float(values[math.ceil(high * last)])

    def estimate(
        self, value: float, draws: np.ndarray, *, known: bool = True, how: str = NONE
    ) -> Estimate:
        """A number with the percentiles of its draws [B]; no interval unless `known`."""
        return Estimate(float(value), *self.interval(draws, known=known), how if known else NONE)


def cell_estimate(m: Measured, i: int, j: int, level: float) -> Estimate:
    """A mean of the grid with Student's interval."""
    from scipy.stats import t

    value, se, freedom = float(m.mean[i, j]), float(m.se[i, j]), float(m.freedom[i, j])
    if not np.isfinite(se):
        return Estimate(value)
    half = se * float(t.ppf(percentiles(level)[1], freedom))
    return Estimate(value, value - half, value + half, str(m.how[i, j]))


def has_error(m: Measured, where: np.ndarray) -> bool:
    """Whether all cells of `where` (a mask [T, S] or [T], with m cut to match) have an error."""
    return bool(where.any() and np.isfinite(m.se[where]).all())


def said_how(m: Measured, where: np.ndarray) -> str:
    """What the errors of these cells come from."""
    return "; ".join(dict.fromkeys(str(h) for h in m.how[where] if h))


def grids(frame: pd.DataFrame) -> list[Grid]:
    """The grids of a checked table, by arm, family and size."""
    return [
        _grid(str(arm), str(family), float(n), rows)  # pyright: ignore[reportArgumentType]
        for (arm, family, n), rows in frame.groupby(["arm", "family", "N"], sort=True)
    ]


def _grid(arm: str, family: str, n: float, rows: pd.DataFrame) -> Grid:
    D = np.sort(rows["D"].unique())
    strengths = np.array(sorted(rows["strength"].unique(), key=lambda s: size_of(family, s)))
    place = {"i": np.searchsorted(D, rows["D"]), "j": _index(strengths, rows["strength"])}
    rows = rows.assign(**place)
    shape = (len(D), len(strengths))
    by_seed = rows.groupby(["i", "j", "seed"], sort=True)
    counts = by_seed.size().reset_index(name="draws")
    return Grid(
        arm=arm,
        family=family,
        N=n,
        D=D,
        strengths=strengths,
        seeds=_table(counts.groupby(["i", "j"])["draws"].size(), shape, 0.0),
        draws=_table(counts.groupby(["i", "j"])["draws"].min(), shape, 0.0),
        measured={name: _measured(rows, name, shape) for name in QUANTITIES},
    )


def _index(strengths: np.ndarray, values: pd.Series) -> np.ndarray:
    return values.map({s: j for j, s in enumerate(strengths)}).to_numpy(int)


def _table(values: pd.Series, shape: tuple[int, int], empty: float) -> np.ndarray:
    out = np.full(shape, empty)
    for (i, j), value in values.items():  # pyright: ignore[reportGeneralTypeIssues]
        out[i, j] = value
    return out


def _measured(rows: pd.DataFrame, name: str, shape: tuple[int, int]) -> Measured:
    rows = rows[rows[name].notna()]
    if not len(rows):
        empty = np.full(shape, np.nan)
        return Measured(empty, empty, empty, np.full(shape, NONE, dtype=object))
    seeds = rows.groupby(["i", "j", "seed"])[name].agg(["mean", "var", "size"]).reset_index()
    cells = seeds.groupby(["i", "j"])
    mean = _table(cells["mean"].mean(), shape, np.nan)
    count = _table(cells["mean"].size(), shape, 0.0)
    variance = _table(cells["mean"].var(), shape, np.nan)
    # The variance of a seed's mean over its draws; that of the cell's is the mean over its seeds.
    seeds["of_draws"] = seeds["var"] / seeds["size"]
    of_draws = _table(seeds.groupby(["i", "j"])["of_draws"].mean(), shape, np.nan)
    freedom_draws = _table(seeds.groupby(["i", "j"])["size"].sum(), shape, 0.0) - count
    given = np.full(shape, np.nan)
    if (column := _ERRORS.get(name, "")) and rows[column].notna().any():
        given = _table(rows.groupby(["i", "j"])[column].mean(), shape, np.nan)
    se, freedom, how = (
        np.full(shape, np.nan),
        np.full(shape, np.inf),
        np.full(shape, NONE, dtype=object),
    )
    for j in range(shape[1]):
        repeated = count[:, j] > 1
        pooled_freedom = float((count[repeated, j] - 1).sum())
        pooled = (
            float((variance[repeated, j] * (count[repeated, j] - 1)).sum() / pooled_freedom)
            if pooled_freedom
            else np.nan
        )
        for i in np.flatnonzero(count[:, j]):
            n = count[i, j]
            options = (
                (variance[i, j] if n >= _ENOUGH else np.nan, n - 1, SEEDS),
                (pooled, pooled_freedom, POOLED),
                (of_draws[i, j], freedom_draws[i, j], DRAWS),
                (given[i, j] ** 2, np.inf, WINDOWS),
            )
            for square, degrees, what in options:
                if np.isfinite(square) and degrees >= _LEAST_FREEDOM:
                    se[i, j], freedom[i, j], how[i, j] = math.sqrt(square / n), degrees, what
                    break
    return Measured(mean, se, freedom, how)
