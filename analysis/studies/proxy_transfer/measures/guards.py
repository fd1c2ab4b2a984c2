"""G1, G2, G5, G6: did the runs train, in which precision, is the model better than counting
bigrams, and is the spread more than noise.
"""

import functools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from stepladder.analysis.fit.levels import percentiles
from stepladder.analysis.studies.proxy_transfer.measures.agree import Sample, flat
from stepladder.analysis.studies.proxy_transfer.measures.draws import estimate
from stepladder.analysis.studies.proxy_transfer.measures.grid import Grid
from stepladder.analysis.studies.proxy_transfer.measures.tuned import least

TRAINED_SIGMAS = 10.0  # loss drop over the seed SD of a pair's gap
TRAINED_SHARE = (
    0.005  # of the initial loss; the degeneracy check of the follow-up cited in the protocol
)
SNR_GATE = 3.0  # times the spread that seeds alone would give


def trained_rows(grids: Sequence[Grid], sample: Sample) -> list[dict]:
    """G1, a row a (size, rate) on the mean domain: drop from initialisation (nats per token, mean
    over recipes), its share of the initial loss, its ratio to the seed SD of a pair's gap. trained:
    True, False, or None when neither can be checked."""
    rows = []
    for grid in grids:
        loss, start = grid.mean()[0], grid.init[0]
        for e, rate in enumerate(grid.rates):
            finite = np.isfinite(loss[:, e])
            drop = np.where(finite, start - loss[:, e], 0.0)
            weights = sample.many.weights * finite
            with np.errstate(invalid="ignore", divide="ignore"):
                value = drop[finite].mean() if finite.any() else np.nan
                draws = (weights @ drop) / weights.sum(1)
            found = estimate(value, draws, sample.level, int(finite.sum()), len(finite))
            sigmas = value / (math.sqrt(2) * grid.noise[e, 0]) if grid.noise[e, 0] > 0 else np.nan
            share = value / start
            rows.append(
                {
                    "size": grid.size,
                    "role": grid.role,
                    "learning_rate": rate,
                    "initial_loss": start,
                    **flat("drop", found),
                    "share": share,
                    "sigmas": sigmas,
                    "trained": _trained(value, share, sigmas),
                    "diverged": int(np.isposinf(loss[:, e]).sum()),
                    "recipes": found.used,
                    "of": found.of,
                }
            )
    return rows


def _trained(drop: float, share: float, sigmas: float) -> bool | None:
    if np.isnan(drop):
        return None
    return bool(share >= TRAINED_SHARE and not sigmas < TRAINED_SIGMAS)


def precision(frame: pd.DataFrame) -> dict:
    """G2: the precisions named in the table. float32 keeps an update of any size that float32 can
    hold; others are listed as a warning.
    """
    named = sorted(set(frame["precision"]) - {""})
    if not named:
        return {
            "precisions": [],
            "ok": None,
            "said": "the table does not say in which precision the weights were kept",
        }
    bad = [p for p in named if p not in ("float32", "fp32", "float64")]
    said = (
        f"{', '.join(bad)}: check that |update| / |w| stays above its epsilon at the lowest rates"
        if bad
        else "master weights in float32"
    )
    return {"precisions": named, "ok": not bad, "said": said}


def ngram_rows(
    grids: Sequence[Grid], nulls: Mapping[str, np.ndarray], sample: Sample
) -> list[dict]:
    """G5, a row a (size, n-gram, domain): best loss over the rates minus the n-gram model's
    cross-entropy, mean over recipes. counts: the whole interval is below zero, so the model of that
    size knows more than the counts its data came with."""
    rows = []
    for grid in grids:
        for name, score in nulls.items():
            for v, domain in enumerate(grid.domains):
                best = least(grid.mean(None, v))[0]
                gap = best - score[:, v]
                there = np.isfinite(gap)
                weights = sample.many.weights * there
                with np.errstate(invalid="ignore", divide="ignore"):
                    value = gap[there].mean() if there.any() else np.nan
                    draws = (weights @ np.where(there, gap, 0.0)) / weights.sum(1)
                found = estimate(value, draws, sample.level, int(there.sum()), len(there))
                rows.append(
                    {
                        "size": grid.size,
                        "role": grid.role,
                        "N": grid.N,
                        "null": name,
                        "domain": domain,
                        **flat("gap", found),
                        "counts": bool(found.high < 0) if there.any() else None,
                        "recipes_below": int((gap[there] < 0).sum()),
                        "recipes": found.used,
                        "of": found.of,
                    }
                )
    return rows


def snr_rows(grids: Sequence[Grid], level: float) -> list[dict]:
    """G6, a row a (size, rate, domain): SNR = (largest - smallest recipe mean) / seed SD (arXiv
    2508.13144, with seeds for checkpoints).

    by_noise: the SNR that equal recipes would show, E[range of n normals] / sqrt(seeds). passes:
    SNR is at least 3 times that. The interval is for the seed SD's own uncertainty (chi-square).
    """
    from scipy.stats import chi2

    rows = []
    for grid in grids:
        for v, domain in enumerate(grid.domains):
            loss = grid.mean(None, v)[0]
            for e, rate in enumerate(grid.rates):
                column = loss[np.isfinite(loss[:, e]), e]
                noise, freedom = grid.noise[e, v], grid.freedom[e, v]
                known = len(column) > 1 and noise > 0
                snr = float(np.ptp(column) / noise) if known else np.nan
                seeds = np.isfinite(grid.losses[:, e, v, :]).sum(-1)
                equal = (
                    normal_range(len(column)) / math.sqrt(seeds[seeds > 0].mean())
                    if known
                    else np.nan
                )
                ends = (
                    np.sqrt(chi2.ppf(percentiles(level), freedom) / freedom)
                    if known and freedom
                    else (np.nan, np.nan)
                )
                rows.append(
                    {
                        "size": grid.size,
                        "role": grid.role,
                        "learning_rate": rate,
                        "domain": domain,
                        "snr": snr,
                        "snr_low": snr * ends[0],
                        "snr_high": snr * ends[1],
                        "by_noise": equal,
                        "seed_sd": noise,
                        "noise_source": grid.noise_source,
                        "passes": bool(snr >= SNR_GATE * equal) if known else None,
                        "recipes": len(column),
                        "of": len(loss),
                    }
                )
    return rows


@functools.cache
def normal_range(n: int) -> float:
    """Expected range of n standard normals: the integral of 1 - F^n - (1 - F)^n."""
    x = np.linspace(-9, 9, 4001)
    f = np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in x])
    return float(np.trapezoid(1 - f**n - (1 - f) ** n, x))
