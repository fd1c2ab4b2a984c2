"""What a wrong learning rate costs: the sensitivity of Wortsman et al. (arXiv 2309.14322).

A run that diverged is worth the loss it began with.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
import pandas as pd

from stepladder.analysis.fit.levels import percentile_interval

_DRAWS = 2000


@dataclass(frozen=True)
class Sensitivity:
    """Mean over the rates of min(l, l0) - l*, nats per token; or why there is none.

    Only sensitivities over the same rates compare.

    Attributes:
        initial_loss: l0, nats per token; initial_source: where it is from.
        rates: lowest, highest, how many.
        diverged: runs counted as l0.
        interval: what low and high hold.
    """

    value: float | None
    low: float | None
    high: float | None
    initial_loss: float | None
    initial_source: str
    rates: tuple[float, float, int]
    runs: int
    diverged: int
    interval: str
    refused: str


def sensitivity(losses: np.ndarray, initial_loss: float) -> float:
    """Mean of min(l, l0) - l*, l* the lowest of them.

    losses: [rates], nats per token, not finite where the run diverged.
    """
    capped = np.where(np.isfinite(losses), np.minimum(losses, initial_loss), initial_loss)
    return float((capped - capped.min()).mean())


def initial_loss(rows: pd.DataFrame) -> tuple[float | None, str]:
    """l0 of runs of one setting, and where it is from.

    It is their evaluation at step 0, else ln(vocabulary): a fresh model's guess is about
    uniform.
    """
    if "initial_loss" in rows and rows["initial_loss"].notna().any():
        return float(rows["initial_loss"].median()), "measured at initialisation"
    if "vocab_size" in rows and rows["vocab_size"].notna().any():
        return float(np.log(float(rows["vocab_size"].median()))), "ln(vocabulary)"
    return None, "unknown"


def sensitivity_of(
    rows: pd.DataFrame, noise: float | None, *, level: float = 0.9, seed: int = 0
) -> Sensitivity:
    """The sensitivity of runs of one setting (a group of rate_points).

    Seeds are averaged at each rate before the lowest is taken. The interval resamples at each rate
    which of its seeds diverged, and draws the others with `noise`, the standard deviation of one
    run's loss.
    """
    l0, origin = initial_loss(rows)
    rates = np.sort(rows["learning_rate"].unique())
    found = Sensitivity(
        value=None,
        low=None,
        high=None,
        initial_loss=l0,
        initial_source=origin,
        rates=(float(rates[0]), float(rates[-1]), len(rates)),
        runs=len(rows),
        diverged=int(rows["diverged"].sum()),
        interval="",
        refused="",
    )
    if l0 is None:
        why = (
            "the loss at initialisation is unknown: add a column initial_loss (nats per token) or "
            "vocab_size"
        )
        return dataclasses.replace(found, refused=why)
    if rows["diverged"].all():
        return dataclasses.replace(found, refused="every run diverged: add smaller rates")
    alive = rows.assign(alive=np.where(rows["diverged"], np.nan, rows["loss"]))
    by_rate = [
        group["alive"].to_numpy(float) for _, group in alive.groupby("learning_rate", sort=True)
    ]
    value = sensitivity(np.array([_mean(runs, l0) for runs in by_rate]), l0)
    if noise is None:
        why = "none: one run a rate, and nothing tells its noise"
        return dataclasses.replace(found, value=value, interval=why)
    low, high = _interval(by_rate, l0, value, noise, level, np.random.default_rng(seed))
    said = "noise of the seeds, and which of them diverge"
    return dataclasses.replace(found, value=value, low=low, high=high, interval=said)


def _mean(runs: np.ndarray, l0: float) -> float:
    """Mean loss of the runs at one rate, each at most l0; NaN stands for a diverged one."""
    return float(np.mean(np.where(np.isfinite(runs), np.minimum(runs, l0), l0)))


def _interval(
    by_rate: list[np.ndarray],
    l0: float,
    value: float,
    noise: float,
    level: float,
    rng: np.random.Generator,
) -> tuple[float, float]:
    drawn = []
    for runs in by_rate:
        again = np.broadcast_to(runs, (_DRAWS, len(runs)))
        if np.isnan(runs).any():
            again = runs[rng.integers(0, len(runs), (_DRAWS, len(runs)))]
        noisy = again + noise * rng.standard_normal(again.shape)
        drawn.append(np.where(np.isnan(again), l0, np.minimum(noisy, l0)).mean(1))
    table = np.stack(drawn, 1)
    spread = (table - table.min(1, keepdims=True)).mean(1)
    # Redrawn around noisy losses, the lowest of the rates is lower again: the draws are moved back
    # to the value by their median.
    low, high = np.array(percentile_interval(spread, level)) - np.median(spread) + value
    return max(0.0, float(low)), float(high)
