"""Mean losses of split models on a grid of sizes, totals and split fractions, and their noise.

A cell is one size N, total T and split fraction s; its loss is the mean, over the experts' own
domains, of the expert's loss on its own domain, first averaged over seeds. s = 1 is the dense model
of T tokens. The standard error of a cell comes

- from repeated seeds, pooled over cells, where there are three spare ones or more;
- else from the residuals of the law that fits best: they hold the luck of a run and what the law
  misses;
- else from the windows of the evaluation, which are the same text for all models: too wide for
  differences, and without the luck of a run.

Cells are redrawn as independent, though the splits of one trunk share some of its luck:
differences are known a little better than said.
"""

import math
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from stepladder.analysis.fit.levels import percentile_interval
from stepladder.analysis.studies.split.measures import Row
from stepladder.analysis.studies.split.read_table import (
    DENSE,
    EXCLUDED,
    ORACLE,
    PHONEBOOK,
    SHARED,
    UNSHARED,
)

SEEDS, RESIDUALS = "repeated seeds, pooled", "residuals of the best law"
WINDOWS, NONE = "evaluation windows", ""
_SPARE = 3  # degrees of freedom from which on seeds give the noise


@dataclass(frozen=True)
class Cells:
    """The grid, a row a cell, in the order of N, T and s.

    Attributes:
        arm: of the experts: SHARED, or UNSHARED where there is no other.
        experts: K.
        domains: the experts' own ones.
        frame: N, T, s, D, D2, seeds, loss (mean over domains), windows_se.
        by_domain: losses [domains, cells], NaN where there is none.
        se: of the loss [cells], NaN where unknown.
        how, freedom: what se comes from.
    """

    arm: str
    experts: float
    domains: tuple[str, ...]
    frame: pd.DataFrame
    by_domain: np.ndarray
    se: np.ndarray
    how: str
    freedom: float
    excluded: pd.DataFrame = field(repr=False)

    @property
    def loss(self) -> np.ndarray:
        """Mean loss over domains [cells]."""
        return self.frame["loss"].to_numpy(float)

    def curves(self) -> list["Curve"]:
        """The cells of each size and total, ascending."""
        parts = [rows for _, rows in self.frame.groupby(["N", "T"])]
        return [
            Curve(
                float(rows["N"].iloc[0]),
                float(rows["T"].iloc[0]),
                rows.index.to_numpy(),
                rows["s"].to_numpy(float),
            )
            for rows in parts
        ]

    def with_residuals(self, relative: float) -> "Cells":
        """The same, with the noise that a law's residuals of log loss show, where seeds do not."""
        if self.how == SEEDS or not math.isfinite(relative):
            return self
        se = relative * self.loss / np.sqrt(self.frame["seeds"].to_numpy(float))
        return replace(self, se=se, how=RESIDUALS, freedom=math.inf)


@dataclass(frozen=True)
class Curve:
    """Loss against the split fraction at one size and total: rows of the cells, and their s."""

    N: float
    T: float
    at: np.ndarray
    s: np.ndarray

    @property
    def key(self) -> Row:
        """Size and total, as the first columns of a row."""
        return {"N": self.N, "T": self.T}


@dataclass(frozen=True)
class Estimate:
    """A number with its interval, NaN where there is none."""

    value: float
    low: float = math.nan
    high: float = math.nan

    def row(self, name: str) -> Row:
        """As three columns of a row."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


@dataclass(frozen=True)
class Sample:
    """How means are redrawn."""

    resamples: int
    level: float
    seed: int

    def draws(self, cells: Cells) -> np.ndarray:
        """Losses redrawn from their errors [B, cells]; a cell without an error stays as it is."""
        rng = np.random.default_rng([self.seed, 1])
        shape = (self.resamples, len(cells.loss))
        finite = math.isfinite(cells.freedom)
        luck = rng.standard_t(cells.freedom, shape) if finite else rng.standard_normal(shape)
        return cells.loss + np.nan_to_num(cells.se) * luck

    def estimate(self, value: float, draws: np.ndarray, *, known: bool = True) -> Estimate:
        """A number with the percentiles of its redrawn values; known: whether the noise is."""
        good = draws[np.isfinite(draws)]
        if not known or len(good) < 0.5 * max(len(draws), 1) or not math.isfinite(value):
            return Estimate(float(value))
        low, high = percentile_interval(good, self.level)
        return Estimate(float(value), float(low), float(high))

    def mean_over(self, values: np.ndarray, fewest: int = 3) -> Estimate:
        """The mean of values, resampled; no interval with fewer than `fewest`."""
        values = values[np.isfinite(values)]
        if not len(values):
            return Estimate(math.nan)
        rng = np.random.default_rng([self.seed, 2])
        pick = rng.integers(0, len(values), (self.resamples, len(values)))
        return self.estimate(values.mean(), values[pick].mean(1), known=len(values) >= fewest)


def text_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of the study proper: not those of the phonebook toy."""
    return frame[~_toy(frame)]


def toy_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of the phonebook toy."""
    return frame[_toy(frame)]


def _toy(frame: pd.DataFrame) -> pd.Series:
    return frame["own"].str.contains(PHONEBOOK) | (
        frame["domain"].str.contains(PHONEBOOK) & (frame["own"] == "")
    )


def on_own(frame: pd.DataFrame, arm: str, router: str = ORACLE) -> pd.DataFrame:
    """Experts of an arm on their own domains, and dense models on the same ones.

    An expert that starts from nothing shares nothing: with D = 0 it belongs to both arms.
    """
    own = frame[
        (frame["own"] == frame["domain"])
        & ((frame["arm"] == arm) | (frame["D"] == 0))
        & (frame["router"] == router)
    ]
    dense = frame[(frame["arm"] == DENSE) & frame["domain"].isin(set(own["own"]))]
    return pd.concat([own, dense])


def main_arm(frame: pd.DataFrame) -> str:
    """The arm that the laws are fitted to."""
    apart = frame["arm"].isin([SHARED, UNSHARED]) & (frame["D"] > 0)
    arms = set(frame.loc[apart, "arm"])
    return UNSHARED if arms == {UNSHARED} else SHARED


def cells_of(frame: pd.DataFrame, experts: float, arm: str) -> Cells:
    """The grid of an arm; cells without all own domains are listed in `excluded`."""
    rows = on_own(frame, arm)
    domains = tuple(sorted(set(rows["own"]) - {""}))
    keys = ["N", "T", "s"]
    mean = rows.groupby([*keys, "domain"])["loss"].mean().unstack("domain")
    mean = mean.reindex(columns=list(domains)).sort_index()
    whole = mean.notna().all(axis=1)
    excluded = [
        _incomplete(key, [d for d in domains if pd.isna(values[d])], arm)
        for key, values in mean[~whole].iterrows()
    ]
    mean = mean[whole]
    grouped = rows.groupby(keys)
    frame_of = pd.DataFrame(
        {
            "D": grouped["D"].mean(),
            "D2": grouped["D2"].mean(),
            "seeds": rows.groupby([*keys, "domain"])["seed"].nunique().groupby(keys).min(),
            "windows_se": rows.groupby([*keys, "domain"])["loss_se"].mean().groupby(keys).agg(_rms),
        }
    ).reindex(mean.index)
    # The fractions of one level have one D a total, so that a curve is exactly of one T.
    frame_of = frame_of.assign(loss=mean.mean(axis=1)).reset_index()
    se, how, freedom = _noise(rows, domains, frame_of)
    return Cells(
        arm=arm,
        experts=experts,
        domains=domains,
        frame=frame_of,
        by_domain=mean.to_numpy(float).T,
        se=se,
        how=how,
        freedom=freedom,
        excluded=pd.DataFrame(excluded, columns=list(EXCLUDED)),
    )


def _rms(errors: pd.Series) -> float:
    """The error of a mean of independent numbers."""
    return float(np.sqrt((errors**2).sum(skipna=False)) / len(errors))


def _incomplete(key: object, lacking: list[str], arm: str) -> Row:
    n, t, s = key if isinstance(key, tuple) else (math.nan,) * 3
    row: Row = {**dict.fromkeys(EXCLUDED, math.nan), "N": n, "D": s * t, "D2": (1 - s) * t}
    why = f"cell T={t:g}, s={s:g} has no loss on {', '.join(lacking)}: no mean over domains"
    return row | {"arm": arm, "reason": why}


def _noise(
    rows: pd.DataFrame, domains: tuple[str, ...], frame: pd.DataFrame
) -> tuple[np.ndarray, str, float]:
    """Standard error of each cell, what it is from, and its degrees of freedom."""
    keys = ["N", "T", "s"]
    by_seed = rows.groupby([*keys, "seed"])["loss"].agg(["mean", "size"])
    full = by_seed[by_seed["size"] == len(domains)]["mean"]
    spread = full.groupby(keys).agg(["var", "size"])
    spare = spread["size"] - 1
    freedom = float(spare.sum())
    count = frame["seeds"].to_numpy(float)
    if freedom >= _SPARE:
        pooled = float((spread["var"].fillna(0) * spare).sum() / freedom)
        return np.sqrt(pooled / count), SEEDS, freedom
    windows = frame["windows_se"].to_numpy(float)
    if np.isfinite(windows).all():
        return windows / np.sqrt(count), WINDOWS, math.inf
    return np.full(len(frame), np.nan), NONE, math.inf
