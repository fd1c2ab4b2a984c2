"""A1: flips, and where pairs cross.

A flip is a pair of recipes whose order by loss changes between two neighbouring learning rates,
where both gaps are larger than the noise of the seeds.
"""

import itertools
import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from stepladder.analysis.studies.proxy_transfer.measures import Row
from stepladder.analysis.studies.proxy_transfer.measures.bootstrap_draws import (
    Estimate,
    estimate,
    unknown,
)
from stepladder.analysis.studies.proxy_transfer.measures.grid import Grid
from stepladder.analysis.studies.proxy_transfer.measures.rank_agreement import Sample, flat

BEYOND = 2.0  # a gap counts above this times sqrt(sA^2 + sB^2), s the seed SD of one run
ADJACENT = 3.34  # the protocol's 3.3: a grid of 1, 3, 10 has steps of 3 and 3.33


def gaps(grid: Grid, domain: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Gap of every ordered pair at each rate [R, R, E], the row's loss minus the column's, and its
    size in units of sqrt(sA^2 + sB^2).

    A diverged run is infinitely worse; two diverged runs, and missing ones, have no gap (NaN).
    """
    loss = grid.mean(None, domain)[0]
    with np.errstate(invalid="ignore", divide="ignore"):
        gap = loss[:, None, :] - loss[None, :, :]
        return gap, np.abs(gap) / (math.sqrt(2) * grid.noise[None, None, :, domain])


def chance(grid: Grid) -> float:
    """Probability that a pair of equal recipes flips between two rates by noise alone.

    Both gaps must be beyond the limit, with opposite signs. They are gaps of means over S seeds,
    and the limit is in units of one run: P = 2 Phi(-2 sqrt(S))^2.
    """
    count = np.isfinite(grid.losses[:, :, 0, :]).sum(-1)
    seeds = float(np.median(count[count > 0])) if (count > 0).any() else 1.0
    return 2 * NormalDist().cdf(-BEYOND * math.sqrt(seeds)) ** 2


def flip_rates(grids: Sequence[Grid], sample: Sample) -> list[Row]:
    """Share of pairs that flip between neighbouring rates, by size and domain."""
    rows = []
    for grid in grids:
        for v, domain in enumerate(grid.domains):
            flipped, both, gap = _flips(grid, v)
            for e in range(len(grid.rates) - 1):
                mine, pairs = flipped[..., e], both[..., e]
                count, of = int(mine.sum()) // 2, int(pairs.sum()) // 2
                found = _share(mine, pairs, sample)
                rows.append(
                    {
                        "size": grid.size,
                        "role": grid.role,
                        "N": grid.N,
                        "domain": domain,
                        "rate_low": grid.rates[e],
                        "rate_high": grid.rates[e + 1],
                        "flips": count,
                        "pairs": of,
                        "sign_changes": _changes(gap[..., e], gap[..., e + 1]),
                        **flat("flip_rate", found),
                        "by_chance": of * chance(grid),
                        "noise_source": grid.noise_source,
                    }
                )
    return rows


def total_flips(grids: Sequence[Grid], sample: Sample) -> tuple[Estimate, int]:
    """The flips on the mean domain between neighbouring rates at most ADJACENT apart, summed over
    these sizes, and the number of pairs looked at, a step of the grid each.
    """
    mine, both = np.zeros((2, len(sample.recipes), len(sample.recipes)))
    for grid in grids:
        flipped, there, _ = _flips(grid, 0)
        near = [
            e for e in range(len(grid.rates) - 1) if grid.rates[e + 1] / grid.rates[e] <= ADJACENT
        ]
        mine, both = mine + flipped[..., near].sum(-1), both + there[..., near].sum(-1)
    of = int(both.sum()) // 2
    if not of:
        return unknown(0, len(sample.recipes)), 0
    share = _share(mine, both, sample)
    count, low, high = round(share.value * of), share.low * of, share.high * of
    return Estimate(count, low, high, share.used, share.of, share.note), of


def flip_events(grids: Sequence[Grid]) -> list[Row]:
    """Every flip on the mean domain: the pair, the two rates, and both gaps, in nats per token (the
    first recipe minus the second) and in units of the noise.
    """
    rows = []
    for grid in grids:
        flipped, _, gap = _flips(grid, 0)
        size = gaps(grid)[1]
        for a, b, e in zip(*np.nonzero(flipped)):
            if a < b:
                rows.append(
                    {
                        "size": grid.size,
                        "role": grid.role,
                        "first": grid.recipes[a],
                        "second": grid.recipes[b],
                        "rate_low": grid.rates[e],
                        "rate_high": grid.rates[e + 1],
                        "gap_low": gap[a, b, e],
                        "gap_high": gap[a, b, e + 1],
                        "sigmas_low": size[a, b, e],
                        "sigmas_high": size[a, b, e + 1],
                    }
                )
    return rows


def crossings(grid: Grid, domain: int = 0) -> dict[tuple[int, int], float]:
    """Pair (a < b) -> the lowest learning rate at which its order changes beyond the noise.

    Rates with a gap inside of the noise are passed over. The crossing is where the line through the
    two gaps around it, in log rate, is zero; the middle in logs when one of them is infinite.
    """
    gap, size = gaps(grid, domain)
    out, logs = {}, np.log(grid.rates)
    for a, b in zip(*np.triu_indices(len(grid.recipes), 1)):
        sure = np.flatnonzero(size[a, b] > BEYOND)
        for low, high in itertools.pairwise(sure):
            one, two = gap[a, b, low], gap[a, b, high]
            if one * two < 0:
                share = one / (one - two) if np.isfinite([one, two]).all() else 0.5
                out[int(a), int(b)] = float(np.exp(logs[low] + share * (logs[high] - logs[low])))
                break
    return out


def _flips(grid: Grid, domain: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whether a pair flips [R, R, E - 1], whether it has both gaps, and the gaps [R, R, E]."""
    gap, size = gaps(grid, domain)
    beyond = size > BEYOND
    with np.errstate(invalid="ignore"):
        flipped = (
            (np.sign(gap[..., 1:]) * np.sign(gap[..., :-1]) < 0)
            & beyond[..., 1:]
            & beyond[..., :-1]
        )
    there = ~np.isnan(size)
    off = ~np.eye(len(grid.recipes), dtype=bool)[..., None]
    return flipped & off, there[..., 1:] & there[..., :-1] & off, gap


def _share(mine: np.ndarray, pairs: np.ndarray, sample: Sample) -> Estimate:
    """The share `mine` [R, R] of `pairs` [R, R], counts of ordered pairs, over recipes."""
    mine, pairs, w = mine.astype(float), pairs.astype(float), sample.draws.weights
    with np.errstate(invalid="ignore", divide="ignore"):
        draws = ((w @ mine) * w).sum(-1) / ((w @ pairs) * w).sum(-1)
    count, of = mine.sum(), pairs.sum()
    used = int(pairs.any(-1).sum())
    share = count / of if of else np.nan
    return estimate(share, draws, sample.level, used, len(sample.recipes), kind="share")


def _changes(low: np.ndarray, high: np.ndarray) -> int:
    """Pairs whose gap changes its sign, whatever the noise."""
    with np.errstate(invalid="ignore"):
        return int((np.sign(low) * np.sign(high) < 0).sum()) // 2
