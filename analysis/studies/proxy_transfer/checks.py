"""The five claims of the study, each checked: a number, its interval, a threshold and a verdict.

The three verdicts are
- seen: the claim holds, and so does its whole interval;
- not seen at this scale: the claim fails at the estimate itself;
- not settled: it holds at the estimate but not over the whole interval, or the numbers behind it
  are no evidence (validity.py).

The threshold in (c) is ours. The checks are agreement in kind with arXiv 2512.24503, not a
replication of its numbers. docs/proxy_transfer.md says what each claim means.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from stepladder.analysis.studies.proxy_transfer.measures import Row
from stepladder.analysis.studies.proxy_transfer.measures.arms import LEARNING_RATE, Range
from stepladder.analysis.studies.proxy_transfer.measures.bootstrap_draws import (
    Estimate,
    difference,
    estimate,
    unknown,
)
from stepladder.analysis.studies.proxy_transfer.measures.flips import (
    ADJACENT,
    BEYOND,
    chance,
    total_flips,
)
from stepladder.analysis.studies.proxy_transfer.measures.grid import Grid, same_rate
from stepladder.analysis.studies.proxy_transfer.measures.learning_rates import (
    REDUCTIONS,
    ProxyRates,
)
from stepladder.analysis.studies.proxy_transfer.measures.rank_agreement import (
    Agreements,
    Sample,
    change,
)
from stepladder.analysis.studies.proxy_transfer.read_table import MEAN

SEEN, NOT_SEEN, NOT_SETTLED = "seen", "not seen at this scale", "not settled"
RHO = 0.9  # threshold of (c)
FALSE_ALARM = 0.05  # largest chance that noise alone makes so many flips, or other best rates
CLAIMS = {
    "a": (
        "at least one pair of recipes flips between two learning rates at most 3.3x apart, beyond "
        "seed noise"
    ),
    "b": "the best learning rate differs across recipes",
    "c": (
        "rho rises as the learning rate falls below about eta_std / 3, and exceeds 0.9 by eta_std "
        "/ 30"
    ),
    "d": "regret@1 is lower at the tiny learning rate than at the standard one",
    "e": (
        "the learning rate moves rho more than batch size, weight decay or tokens per parameter do"
    ),
}

T = TypeVar("T")


@dataclass(frozen=True)
class Verdict:
    """One claim about one proxy.

    Attributes:
        id: letter of the claim in CLAIMS.
        size: of the proxy, or "" for all sizes together.
        measure: unit of number, low, high and threshold.
        why: what the verdict rests on.
    """

    id: str
    claim: str
    size: str
    verdict: str
    measure: str
    number: float
    low: float
    high: float
    threshold: str
    why: str


def word(holds: bool, clear: bool) -> str:
    """The verdict on a claim that holds at the estimate (or not), with an interval that is clear
    of the threshold (or not).
    """
    if not holds:
        return NOT_SEEN
    return SEEN if clear else NOT_SETTLED


def flips_verdict(
    grids: Sequence[Grid], rates: Sequence[Row], no_vote: Mapping[str, str], sample: Sample
) -> Verdict:
    """Claim (a): flips on the mean domain, against the number that noise alone would make.

    Args:
        grids: the main arm of every size.
        rates: rows of `flips.flip_rates`.
        no_vote: size -> why its numbers do not count.
        sample: the recipes and their draws.
    """
    grids = [g for g in grids if g.size not in no_vote]
    found, pairs = total_flips(grids, sample)
    expected = sum(
        r["by_chance"]
        for r in rates
        if r["domain"] == MEAN
        and r["size"] not in no_vote
        and r["rate_high"] / r["rate_low"] <= ADJACENT
    )
    threshold = f"at least 1, and more than noise makes ({expected:.2g} expected)"
    if not pairs:
        why = "no size has repeated seeds, or no two rates are that close"
        return _unsettled("a", "", "flips", threshold, "; ".join(no_vote.values()) or why)
    count = int(found.value)
    luck = at_least(count, expected)
    why = (
        f"{count} of {pairs} pair steps flip by more than {BEYOND:g} sqrt(sA^2 + sB^2); noise "
        f"alone makes so many with probability {luck:.2g}"
    )
    lower_bound = _noise_is_lower_bound(grids)
    if lower_bound:
        why += "; without repeated seeds the noise is only a lower bound"
    verdict = word(count > 0, luck < FALSE_ALARM and not lower_bound)
    return _verdict("a", "", verdict, "flips", found, threshold, why)


@dataclass(frozen=True)
class OtherBest:
    """Recipes of one size whose best learning rate is not their size's most common one."""

    recipes: int  # with a finite loss
    other: int  # with another best rate
    beyond: int | None  # those that lose more than noise at the common rate; None: noise unknown
    by_noise: float  # how many of them noise alone would make
    said: str


def argmin_verdict(grids: Sequence[Grid], no_vote: Mapping[str, str], level: float) -> Verdict:
    """Claim (b): recipes, over all sizes, whose best rate is not their size's most common one and
    whose loss at that rate is worse beyond seed noise.
    """
    threshold = "at least 1 recipe beyond seed noise, and more than noise makes"
    counted = [g for g in grids if g.size not in no_vote]
    found = [f for f in map(_other_best, counted) if f is not None]
    why = "; ".join(f.said for f in found) or "no recipe has a finite loss at a size that counts"
    known, differ = sum(f.recipes for f in found), sum(f.other for f in found)
    if not known:
        return _unsettled("b", "", "recipes", threshold, why)
    checked = [f for f in found if f.beyond is not None]
    tested = sum(f.recipes for f in checked)
    if not tested:
        share = _share(differ, known, level)
        verdict = word(differ > 0, False)
        why += "; without repeated seeds none of it can be told from noise"
        return _verdict("b", "", verdict, "share of recipes", share, threshold, why)
    beyond = sum(f.beyond or 0 for f in checked)
    expected = sum(f.by_noise for f in checked)
    why += f"; noise alone would do this to {expected:.2g} of {tested}"
    lower_bound = _noise_is_lower_bound(counted)
    if lower_bound:
        why += "; the noise of some size is only a lower bound"
    clear = at_least(beyond, expected) < FALSE_ALARM and not lower_bound
    share = _share(beyond, tested, level)
    return _verdict("b", "", word(differ > 0, clear), "share of recipes", share, threshold, why)


def _other_best(grid: Grid) -> OtherBest | None:
    """Count the recipes of one size with another best rate; None where no loss is finite.

    At equal losses a recipe would be beyond the limit at one of the other rates with probability
    (rates - 1) Phi(-2 sqrt(seeds)).
    """
    loss = grid.mean()[0]
    filled = np.where(np.isnan(loss), np.inf, loss)
    here = np.isfinite(filled).any(-1)
    count = int(here.sum())
    if not count:
        return None
    best = filled.argmin(-1)
    common = int(np.bincount(best[here]).argmax())
    other = int((best[here] != common).sum())
    said = (
        f"{grid.size}: {other} of {count} recipes have another best rate than "
        f"{grid.rates[common]:g}"
    )
    limit = BEYOND * math.sqrt(2) * grid.noise[common, 0]
    if not math.isfinite(limit):
        return OtherBest(count, other, None, 0.0, said)
    with np.errstate(invalid="ignore"):
        beyond = int((here & (loss[:, common] - filled.min(-1) > limit)).sum())
    by_noise = count * (len(grid.rates) - 1) * math.sqrt(chance(grid) / 2)
    said += f", for {beyond} it costs more than {BEYOND:g} sqrt(2) seed SD"
    return OtherBest(count, other, beyond, by_noise, said)


def rise_verdict(rates: ProxyRates, found: Agreements, sample: Sample, blocked: str) -> Verdict:
    """Claim (c): rho at eta_std / 30 is above rho at eta_std, and above 0.9.

    `blocked`: why the numbers of this proxy are no evidence, "" when they are.
    """
    measure = "rho at eta_tiny"
    threshold = f"rho > {RHO} at eta_tiny, and above rho at eta_std"
    pair = _pair(rates, found.points)
    if isinstance(pair, str):
        return _unsettled("c", rates.size, measure, threshold, pair)
    tiny, standard = pair
    rise = change(tiny, standard, sample)
    holds, clear = tiny.rho.value > RHO and rise.value > 0, tiny.rho.low > RHO and rise.low > 0
    why = (
        f"rho {_said(tiny.rho)} at {rates.tiny:g} and {_said(standard.rho)} at {rates.standard:g}: "
        f"change {_said(rise)}; {tiny.rho.used} of {tiny.rho.of} recipes"
    )
    verdict = word(holds, clear)
    return _verdict("c", rates.size, verdict, measure, tiny.rho, threshold, why, blocked)


def regret_verdict(rates: ProxyRates, found: Agreements, sample: Sample, blocked: str) -> Verdict:
    """Claim (d): regret@1 at the tiny rate minus regret@1 at the standard one is negative."""
    measure, threshold = "nats per token", "below 0"
    pair = _pair(rates, found.regret_draws)
    if isinstance(pair, str):
        return _unsettled("d", rates.size, measure, threshold, pair)
    (tiny, tiny_draws), (standard, standard_draws) = pair
    count = len(sample.recipes)
    with np.errstate(invalid="ignore"):
        gain = estimate(tiny - standard, tiny_draws - standard_draws, sample.level, count, count)
    why = f"regret@1 {tiny:.4f} at {rates.tiny:g} and {standard:.4f} at {rates.standard:g}"
    if tiny == standard == 0:
        why += "; both pick the best recipe"
    verdict = word(gain.value < 0, gain.high < 0)
    return _verdict("d", rates.size, verdict, measure, gain, threshold, why, blocked)


def range_verdict(
    rates: ProxyRates, ranges: Sequence[Range], sample: Sample, blocked: str
) -> Verdict:
    """Claim (e): the range of rho over the standard rate and its reductions, minus the largest
    range over the settings of another family, is positive.
    """
    measure, threshold = "range of rho", "above 0"
    mine = [r for r in ranges if r.size == rates.size]
    own = next((r for r in mine if r.family == LEARNING_RATE), None)
    others = [r for r in mine if r.family != LEARNING_RATE]
    if own is None:
        why = "fewer than two of the rates are in the grid"
        return _unsettled("e", rates.size, measure, threshold, why)
    if not others:
        why = "no arm of another setting was run"
        return _unsettled("e", rates.size, measure, threshold, why)
    top = max(others, key=lambda r: r.range.value)
    largest_draws = np.stack([r.draws for r in others]).max(0)
    gain = difference(own.range, top.range, own.draws, largest_draws, sample.level)
    why = (
        f"range {own.range.value:.3f} over {len(own.settings)} learning rates; the largest other "
        f"is {top.range.value:.3f} over {top.family} ({', '.join(top.settings)}) at {top.rate:g}"
    )
    verdict = word(gain.value > 0, gain.low > 0)
    return _verdict("e", rates.size, verdict, measure, gain, threshold, why, blocked)


def at_least(count: int, expected: float) -> float:
    """Probability that a Poisson number with mean `expected` is `count` or more."""
    from scipy.stats import poisson

    return float(poisson.sf(count - 1, expected))


def wilson(count: int, of: int, level: float) -> tuple[float, float]:
    """Wilson's interval of the share count / of."""
    from scipy.stats import binomtest

    found = binomtest(count, of).proportion_ci(level, method="wilson")
    return float(found.low), float(found.high)


def _share(count: int, of: int, level: float) -> Estimate:
    return Estimate(count / of, *wilson(count, of, level), of, of)


def _noise_is_lower_bound(grids: Iterable[Grid]) -> bool:
    return any("lower bound" in g.noise_source for g in grids)


def _pair(rates: ProxyRates, values: Mapping[tuple[str, float], T]) -> tuple[T, T] | str:
    """The entries at the tiny and at the standard rate, or why there are none."""
    if not math.isfinite(rates.standard):
        return f"no standard rate: {rates.note}"
    if rates.tiny is None:
        return f"the grid has no rate near eta_std / {REDUCTIONS[-1]}"
    mine = {rate: value for (size, rate), value in values.items() if size == rates.size}
    tiny, standard = (
        next((value for r, value in mine.items() if same_rate(r, rate)), None)
        for rate in (rates.tiny, rates.standard)
    )
    if tiny is None or standard is None:
        return "one of the two rates has no ranking"
    return tiny, standard


def _verdict(
    claim: str,
    size: str,
    verdict: str,
    measure: str,
    found: Estimate,
    threshold: str,
    why: str,
    blocked: str = "",
) -> Verdict:
    """A verdict with its number; `blocked` numbers settle nothing, whichever way they point."""
    made = Verdict(
        id=claim,
        claim=CLAIMS[claim],
        size=size,
        verdict=verdict,
        measure=measure,
        number=found.value,
        low=found.low,
        high=found.high,
        threshold=threshold,
        why=why,
    )
    if blocked:
        return dataclasses.replace(made, verdict=NOT_SETTLED, why=f"{blocked}; {why}")
    return made


def _unsettled(claim: str, size: str, measure: str, threshold: str, why: str) -> Verdict:
    return _verdict(claim, size, NOT_SETTLED, measure, unknown(0, 0), threshold, why)


def _said(e: Estimate) -> str:
    return f"{e.value:.3f} [{e.low:.3f}, {e.high:.3f}]"
