"""A2 to A5: how a proxy's ranking at one learning rate agrees with the tuned target (A4, A5), with
the tuned proxy (A2) and with the target at that rate (A3).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from stepladder.analysis.studies.proxy_transfer.measures import Row
from stepladder.analysis.studies.proxy_transfer.measures.bootstrap_draws import (
    Draws,
    Estimate,
    difference,
    estimate,
    fisher,
)
from stepladder.analysis.studies.proxy_transfer.measures.grid import Grid
from stepladder.analysis.studies.proxy_transfer.measures.rank import (
    accuracy_of,
    decision_accuracy,
    regret_at_k,
    row_sums,
    signs,
    spearman,
    spearman_of,
)
from stepladder.analysis.studies.proxy_transfer.measures.target_truth import TargetTruth, least
from stepladder.analysis.studies.proxy_transfer.read_table import MEAN

KS = (1, 2, 3, 4, 5)
# What the ranking at one rate is compared with: in A4 and A5, in A2, in A3.
TUNED_TARGET, TUNED_PROXY, SAME_RATE = "tuned target", "tuned proxy", "target at the same rate"
AVERAGE = "average over domains"


@dataclass(frozen=True)
class Sample:
    """The recipes, their bootstrap draws, and the level of all intervals."""

    recipes: tuple[str, ...]
    draws: Draws
    level: float


@dataclass(frozen=True)
class Side:
    """One score of the recipes, to be compared with another.

    Attributes:
        value: [R], as observed; NaN where a recipe has none.
        draws: [B or 1, R], in the bootstrap draws.
    """

    value: np.ndarray
    draws: np.ndarray = field(repr=False)
    _kept: dict[tuple[Draws, bytes, bool], np.ndarray] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @cached_property
    def there(self) -> np.ndarray:
        """[R], whether a recipe has the score."""
        return ~np.isnan(self.value)

    @cached_property
    def signs(self) -> np.ndarray:
        """[B or 1, R, R], see `rank.signs`."""
        return signs(_filled(self.draws))

    def sums(self, draws: Draws, there: np.ndarray, absolute: bool = False) -> np.ndarray:
        """Row sums [B, R] of the signs, or of their absolute values, over the recipes `there`.

        They are kept: every score that this one is compared with asks for them again. The key holds
        the draws themselves, so that they live as long as their entry.
        """
        key = (draws, there.tobytes(), absolute)
        if key not in self._kept:
            self._kept[key] = row_sums(
                np.abs(self.signs) if absolute else self.signs, draws.weights * there
            )
        return self._kept[key]


def side(grid: Grid, rate: int, domain: int, sample: Sample) -> Side:
    """The losses of a grid at the rate of index `rate`."""
    return Side(grid.mean(None, domain)[0, :, rate], grid.mean(sample.draws, domain)[:, :, rate])


def tuned_side(tuned: TargetTruth, domain: int, sample: Sample) -> Side:
    """The target's tuned losses."""
    return Side(tuned.loss[:, domain], tuned.draw(sample.draws, domain))


def fixed(values: np.ndarray) -> Side:
    """A score without seeds."""
    values = np.asarray(values, float)
    return Side(values, values[None])


@dataclass(frozen=True)
class Agreement:
    """Spearman's rho and pairwise decision accuracy of two scores.

    draws: [B], rho in each draw, for paired differences.
    """

    rho: Estimate
    accuracy: Estimate
    draws: np.ndarray = field(repr=False)


def agreement(one: Side, two: Side, sample: Sample) -> Agreement:
    """The agreement of two scores over the recipes that have both."""
    there = one.there & two.there
    count, of = int(there.sum()), len(there)
    rho = float(spearman(one.value, two.value, there.astype(float)))
    accuracy = float(decision_accuracy(one.value, two.value, there.astype(float)))
    draws, weights = sample.draws, sample.draws.weights * there
    rhos = spearman_of(one.sums(draws, there), two.sums(draws, there), weights)
    decided = two.sums(draws, there, absolute=True)
    accuracies = accuracy_of(one.signs, two.signs, decided, weights)
    return Agreement(
        estimate(rho, rhos, sample.level, count, of, kind="rho"),
        estimate(accuracy, accuracies, sample.level, count, of, kind="share"),
        rhos,
    )


@dataclass(frozen=True)
class Agreements:
    """The agreement of every proxy at every rate.

    Attributes:
        rows: one a (size, learning rate, domain, against).
        regret: one a (size, learning rate, k, reading).
        points: (size, rate) -> agreement with the tuned target on the mean domain (A4).
        regret_draws: (size, rate) -> regret@1, as observed and in the draws [B].
    """

    rows: list[Row]
    regret: list[Row]
    points: Mapping[tuple[str, float], Agreement]
    regret_draws: Mapping[tuple[str, float], tuple[float, np.ndarray]]


def agreements(
    proxies: Sequence[Grid],
    target: Grid,
    tuned: TargetTruth,
    nulls: Mapping[str, np.ndarray],
    sample: Sample,
) -> Agreements:
    """A2 to A5 of every proxy at every rate and domain.

    nulls: name -> score [R, V] whose rho stands beside each rho (the n-gram rankings).
    """
    rows, regret, points, drawn = [], [], {}, {}
    for v, domain in enumerate(tuned.domains):
        truth = tuned_side(tuned, v, sample)
        null = {name: agreement(fixed(score[:, v]), truth, sample) for name, score in nulls.items()}
        for grid in proxies:
            plain, many = grid.mean(None, v)[0], grid.mean(sample.draws, v)
            best = Side(least(plain), least(many))
            for e, rate in enumerate(grid.rates):
                x = Side(plain[:, e], many[:, :, e])
                same = target.at(rate)
                others = {TUNED_TARGET: truth, TUNED_PROXY: best} | (
                    {SAME_RATE: side(target, same, v, sample)} if same is not None else {}
                )
                for against, y in others.items():
                    found = agreement(x, y, sample)
                    beside = null if against == TUNED_TARGET else {}
                    rows.append(_row(grid, rate, domain, against, x, y, found, beside, sample))
                    if against == TUNED_TARGET:
                        points[grid.size, rate, domain] = found
                if v == 0:
                    more, drawn[grid.size, rate] = _regret(grid, rate, x, truth, sample)
                    regret += more
    rows += _averages(proxies, tuned.domains, points, sample)
    return Agreements(
        rows, regret, {(s, r): a for (s, r, d), a in points.items() if d == MEAN}, drawn
    )


def _row(
    grid: Grid,
    rate: float,
    domain: str,
    against: str,
    x: Side,
    y: Side,
    found: Agreement,
    nulls: Mapping[str, Agreement],
    sample: Sample,
) -> Row:
    gone = [name for name, there in zip(sample.recipes, x.there & y.there) if not there]
    low, high = fisher(found.rho.value, found.rho.used, sample.level)
    out = {
        "size": grid.size,
        "N": grid.N,
        "learning_rate": rate,
        "domain": domain,
        "against": against,
        **flat("rho", found.rho),
        **flat("accuracy", found.accuracy),
        "fisher_low": low,
        "fisher_high": high,
        "recipes": found.rho.used,
        "of": found.rho.of,
        "missing": gone,
        "diverged": [n for n, value in zip(sample.recipes, x.value) if np.isposinf(value)],
        "note": found.rho.note,
    }
    for name, other in nulls.items():
        out |= flat(f"{name}_rho", other.rho) | flat(f"above_{name}", change(found, other, sample))
    return out


def _regret(
    grid: Grid, rate: float, x: Side, truth: Side, sample: Sample
) -> tuple[list[Row], tuple[float, np.ndarray]]:
    """A5 at one rate: its rows, and regret@1 as observed and in the draws."""
    there = x.there & truth.there
    weights, used = sample.draws.weights * there, int(there.sum())
    rows, first = [], (np.nan, np.full(len(weights), np.nan))
    for reading in ("best", "mean"):
        for k in KS:
            if k > used:
                continue
            value = regret_at_k(
                _filled(x.value), _filled(truth.value), k, there.astype(float), reading=reading
            )
            draws = regret_at_k(_filled(x.draws), _filled(truth.draws), k, weights, reading=reading)
            found = estimate(float(value), draws, sample.level, used, len(there))
            rows.append(
                {
                    "size": grid.size,
                    "N": grid.N,
                    "learning_rate": rate,
                    "k": k,
                    "reading": reading,
                    **flat("regret", found),
                    "recipes": used,
                    "of": len(there),
                }
            )
            if (k, reading) == (1, "best"):
                first = (float(value), draws)
    return rows, first


def _averages(
    proxies: Sequence[Grid],
    domains: Sequence[str],
    points: Mapping[tuple[str, float, str], Agreement],
    sample: Sample,
) -> list[Row]:
    """Rho of each domain, averaged over the domains, where other rows rank the averaged loss."""
    rows = []
    for grid in proxies if len(domains) > 2 else ():
        for rate in grid.rates:
            mine = [points[grid.size, rate, d] for d in domains[1:]]
            used = min(a.rho.used for a in mine)
            rho = estimate(
                float(np.mean([a.rho.value for a in mine])),
                np.mean([a.draws for a in mine], 0),
                sample.level,
                used,
                mine[0].rho.of,
                kind="rho",
            )
            rows.append(
                {
                    "size": grid.size,
                    "N": grid.N,
                    "learning_rate": rate,
                    "domain": AVERAGE,
                    "against": TUNED_TARGET,
                    **flat("rho", rho),
                    "recipes": used,
                    "of": rho.of,
                    "missing": [],
                    "diverged": [],
                    "note": rho.note,
                }
            )
    return rows


def above_standard(found: Agreements, standard: Mapping[str, float], sample: Sample) -> list[Row]:
    """`found.rows`; those of A4 on the mean domain also say how far rho lies above the same proxy's
    at its standard rate, paired.
    """
    usual = {size: found.points.get((size, rate)) for size, rate in standard.items()}

    def more(row: Row) -> Row:
        mine, other = found.points.get((row["size"], row["learning_rate"])), usual.get(row["size"])
        if (row["domain"], row["against"]) != (MEAN, TUNED_TARGET):
            return {}
        if mine is None or other is None or mine is other:
            return {}
        return flat("above_standard", change(mine, other, sample))

    return [row | more(row) for row in found.rows]


def change(one: Agreement, two: Agreement, sample: Sample) -> Estimate:
    """rho of `one` minus rho of `two`, paired."""
    return difference(one.rho, two.rho, one.draws, two.draws, sample.level)


def flat(name: str, found: Estimate) -> Row:
    """An estimate as three columns: name, name_low, name_high."""
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}


def _filled(values: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(values), np.inf, values)
