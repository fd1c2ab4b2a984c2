"""What a wrong learning rate costs: Wortsman's sensitivity (arXiv 2309.14322), where a run that
diverged is worth the loss it began with.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from stepladder.analysis.fit.levels import percentile_interval

_DRAWS = 2000


@dataclass(frozen=True)
class Sensitivity:
    """E over the rates of min(l, l0) - l*, nats per token, with an interval over seeds; or why
    there is none.

    rates: (lowest, highest, how many); initial_loss l0 in nats per token and where it is from;
    diverged: runs counted as l0. interval says what the interval holds. Only sensitivities over the
    same rates compare.
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
    """Mean over losses [rates] (nats per token; not finite where the run diverged) of min(l, l0) -
    l*, l* the lowest of them.
    """
    capped = np.where(np.isfinite(losses), np.minimum(losses, initial_loss), initial_loss)
    return float((capped - capped.min()).mean())


def initial_loss(rows: pd.DataFrame) -> tuple[float | None, str]:
    """l0 of runs of one setting: their evaluation at step 0, else ln(vocabulary): a fresh model's
    guess is about uniform.
    """
    if "initial_loss" in rows and rows["initial_loss"].notna().any():
        return float(rows["initial_loss"].median()), "measured at initialisation"
    if "vocab_size" in rows and rows["vocab_size"].notna().any():
        return float(np.log(float(rows["vocab_size"].median()))), "ln(vocabulary)"
    return None, "unknown"


def sensitivity_of(
    rows: pd.DataFrame, noise: float | None, *, level: float = 0.9, seed: int = 0
) -> Sensitivity:
    """Sensitivity of runs of one setting (a group of rate_points): seeds are averaged at each rate
    before the lowest is taken.

    The interval resamples at each rate which of its seeds diverged, and draws the others with
    `noise`, the s.d. of one run's loss.
    """
    l0, origin = initial_loss(rows)
    capped = rows.assign(capped=np.where(rows["diverged"], np.nan, rows["loss"]))
    rates = np.sort(rows["learning_rate"].unique())
    about = {
        "initial_loss": l0,
        "initial_source": origin,
        "rates": (float(rates[0]), float(rates[-1]), len(rates)),
        "runs": len(rows),
        "diverged": int(rows["diverged"].sum()),
    }
    if l0 is None:
        why = (
            "the loss at initialisation is unknown: add a column initial_loss (nats per token) or "
            "vocab_size"
        )
        return Sensitivity(None, None, None, **about, interval="", refused=why)
    if rows["diverged"].all():
        return Sensitivity(
            None, None, None, **about, interval="", refused="every run diverged: add smaller rates"
        )
    by_rate = [
        group["capped"].to_numpy(float) for _, group in capped.groupby("learning_rate", sort=True)
    ]

    def per_rate(runs):
        return float(np.mean(np.where(np.isfinite(runs), np.minimum(runs, l0), l0)))

    value = sensitivity(np.array([per_rate(runs) for runs in by_rate]), l0)
    if noise is None:
        return Sensitivity(
            value,
            None,
            None,
            **about,
            interval="none: one run a rate, and nothing tells its noise",
            refused="",
        )
    rng, drawn = np.random.default_rng(seed), []
    for runs in by_rate:
        again = (
            runs[rng.integers(0, len(runs), (_DRAWS, len(runs)))]
            if np.isnan(runs).any()
            else np.broadcast_to(runs, (_DRAWS, len(runs)))
        )
        noisy = again + noise * rng.standard_normal(again.shape)
        drawn.append(np.where(np.isnan(again), l0, np.minimum(noisy, l0)).mean(1))
    table = np.stack(drawn, 1)
    spread = (table - table.min(1, keepdims=True)).mean(1)
    # Redrawn around noisy losses, the lowest of the rates is lower again: the draws are moved back
    # to the value by their median.
    low, high = np.array(percentile_interval(spread, level)) - np.median(spread) + value
    return Sensitivity(
        value,
        max(0.0, float(low)),
        float(high),
        **about,
        interval="noise of the seeds, and which of them diverge",
        refused="",
    )
