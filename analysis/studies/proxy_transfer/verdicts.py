"""The five acceptance checks of the study, each with its number, interval, threshold and one of
three words.

seen: the claim holds and its whole interval is on the right side. not seen at this scale: the claim
fails at the estimate itself. not settled: it holds at the estimate but not over the interval, or a
guard says that the numbers behind it are no evidence. Thresholds in (c) are ours; the checks are
agreement in kind with arXiv 2512.24503, not a replication of its numbers.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stepladder.analysis.studies.proxy_transfer.measures.arms import LEARNING_RATE, Range
from stepladder.analysis.studies.proxy_transfer.measures.bootstrap_draws import (
    Estimate,
    difference,
    estimate,
)
from stepladder.analysis.studies.proxy_transfer.measures.flips import (
    ADJACENT,
    BEYOND,
    chance,
    total_flips,
)
from stepladder.analysis.studies.proxy_transfer.measures.grid import Grid
from stepladder.analysis.studies.proxy_transfer.measures.rank_agreement import (
    Agreements,
    Sample,
    change,
)
from stepladder.analysis.studies.proxy_transfer.measures.target_truth import (
    nearest_rate,
    standard_rate,
)
from stepladder.analysis.studies.proxy_transfer.read_table import MEAN

SEEN, NOT_SEEN, NOT_SETTLED = "seen", "not seen at this scale", "not settled"
RHO = 0.9  # of (c)
FALSE_ALARM = 0.05  # chance of so many flips by noise alone
REDUCTIONS = (3, 10, 30)


@dataclass(frozen=True)
class Verdict:
    """One claim.

    `size`: the proxy it is about, or "" for all. number, low, high, threshold: in the unit that
    `measure` names.
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


@dataclass(frozen=True)
class Rates:
    """Of one proxy: the standard rate, its reductions (divisor -> nearest rate of the grid, None
    when none is within a factor of 2), and the tiny rate of the checks."""

    size: str
    standard: float
    note: str
    reduced: Mapping[int, float | None]
    tiny: float | None

    def named(self) -> dict[str, float | None]:
        return {"eta_std": self.standard if math.isfinite(self.standard) else None} | {
            f"eta_std/{k}": r for k, r in self.reduced.items()
        }


def choose_rates(
    grid: Grid, eta_std: float | None, eta_tiny: float | None, arms: Sequence[float] = ()
) -> Rates:
    """The given rates; else the highest and the lowest that the size's `arms` were run at (A6 is at
    the standard and the tiny rate); else that of `standard_rate` and a thirtieth of it (where check
    (c) wants rho > 0.9)."""
    said = "given"
    if eta_std is None and len(set(arms)) > 1:
        eta_std, said = max(arms), "the highest rate of the arms"
        eta_tiny = min(arms) if eta_tiny is None else eta_tiny
    standard, note = (float(eta_std), said) if eta_std is not None else standard_rate(grid)
    near = nearest_rate(grid, standard)
    if eta_std is not None and near is not None and abs(near / standard - 1) > 1e-4:
        note, standard = f"{said}, {eta_std:g}; the grid's nearest", near
    reduced = {k: nearest_rate(grid, standard / k) for k in REDUCTIONS}
    tiny = nearest_rate(grid, eta_tiny) if eta_tiny is not None else reduced[REDUCTIONS[-1]]
    return Rates(grid.size, standard, note, reduced, tiny if tiny != standard else None)


def word(holds: bool, clear: bool) -> str:
    """The word for a claim that holds at the estimate, or not, and whose interval is clear of the
    threshold, or not.
    """
    return NOT_SEEN if not holds else SEEN if clear else NOT_SETTLED


def flips_verdict(
    grids: Sequence[Grid], rates: Sequence[Mapping], left_out: Mapping[str, str], sample: Sample
) -> Verdict:
    """(a): flips on the mean domain over rates at most 3.3x apart, against the number that noise
    alone would make (Poisson).
    """
    claim = (
        "at least one pair of recipes flips between two learning rates at most 3.3x apart, beyond "
        "seed noise"
    )
    grids = [g for g in grids if g.size not in left_out]
    found, pairs = total_flips(grids, sample)
    expected = sum(
        r["by_chance"]
        for r in rates
        if r["domain"] == MEAN
        and r["size"] not in left_out
        and r["rate_high"] / r["rate_low"] <= ADJACENT
    )
    threshold = f"at least 1, and more than noise makes ({expected:.2g} expected)"
    if not pairs:
        why = (
            "; ".join(left_out.values())
            or "no size has repeated seeds, or no two rates are that close"
        )
        return _unsettled("a", claim, "", "flips", threshold, why)
    count = int(found.value)
    luck = _poisson_tail(count, expected)
    lower_bound = any("lower bound" in g.noise_source for g in grids)
    why = (
        f"{count} of {pairs} pair steps flip by more than {BEYOND:g} sqrt(sA^2 + sB^2); noise "
        f"alone makes so many with probability {luck:.2g}"
    )
    why += "; without repeated seeds the noise is only a lower bound" if lower_bound else ""
    clear = luck < FALSE_ALARM and not lower_bound
    return Verdict(
        "a",
        claim,
        "",
        word(count > 0, clear),
        "flips",
        count,
        found.low,
        found.high,
        threshold,
        why,
    )


def argmin_verdict(grids: Sequence[Grid], left_out: Mapping[str, str], level: float) -> Verdict:
    """(b): recipes, over all sizes, whose best rate is not their size's most common one and whose
    loss there is worse beyond seed noise.

    At equal losses a recipe would be beyond the limit at one of the other rates with probability
    (rates - 1) Phi(-2 sqrt(seeds)).
    """
    claim = "the best learning rate differs across recipes"
    threshold = "at least 1 recipe beyond seed noise, and more than noise makes"
    differ = beyond = known = tested = 0
    expected, said = 0.0, []
    for grid in (g for g in grids if g.size not in left_out):
        loss = grid.mean()[0]
        filled = np.where(np.isnan(loss), np.inf, loss)
        here = np.isfinite(filled).any(-1)
        if not here.any():
            continue
        best = filled.argmin(-1)
        common = int(np.bincount(best[here]).argmax())
        limit = BEYOND * math.sqrt(2) * grid.noise[common, 0]
        others, known = int((best[here] != common).sum()), known + int(here.sum())
        differ += others
        line = (
            f"{grid.size}: {others} of {int(here.sum())} recipes have another best rate than "
            f"{grid.rates[common]:g}"
        )
        if math.isfinite(limit):
            with np.errstate(invalid="ignore"):
                mine = int((here & (loss[:, common] - filled.min(-1) > limit)).sum())
            beyond, tested = beyond + mine, tested + int(here.sum())
            expected += int(here.sum()) * (len(grid.rates) - 1) * math.sqrt(chance(grid) / 2)
            line += f", for {mine} it costs more than {BEYOND:g} sqrt(2) seed SD"
        said.append(line)
    why = "; ".join(said) or "no recipe has a finite loss at a size that counts"
    if not known:
        return _unsettled("b", claim, "", "recipes", threshold, why)
    if not tested:
        number = differ / known
        why = why + "; without repeated seeds none of it can be told from noise"
        low, high = _wilson(differ, known, level)
        return Verdict(
            "b",
            claim,
            "",
            word(differ > 0, False),
            "share of recipes",
            number,
            low,
            high,
            threshold,
            why,
        )
    low, high = _wilson(beyond, tested, level)
    lower_bound = any("lower bound" in g.noise_source for g in grids)
    why += f"; noise alone would do this to {expected:.2g} of {tested}" + (
        "; the noise of some size is only a lower bound" if lower_bound else ""
    )
    clear = _poisson_tail(beyond, expected) < FALSE_ALARM and not lower_bound
    return Verdict(
        "b",
        claim,
        "",
        word(differ > 0, clear),
        "share of recipes",
        beyond / tested,
        low,
        high,
        threshold,
        why,
    )


def rise_verdict(rates: Rates, found: Agreements, sample: Sample, blocked: str) -> Verdict:
    """(c): rho at eta_std / 30 above rho at eta_std, and above 0.9."""
    claim = (
        "rho rises as the learning rate falls below about eta_std / 3, and exceeds 0.9 by eta_std "
        "/ 30"
    )
    threshold = f"rho > {RHO} at eta_tiny, and above rho at eta_std"
    pair = _pair(rates, found.points)
    if isinstance(pair, str):
        return _unsettled("c", claim, rates.size, "rho at eta_tiny", threshold, pair)
    tiny, standard = pair
    rise = change(tiny, standard, sample)
    holds, clear = tiny.rho.value > RHO and rise.value > 0, tiny.rho.low > RHO and rise.low > 0
    why = (
        f"rho {_said(tiny.rho)} at {rates.tiny:g} and {_said(standard.rho)} at {rates.standard:g}: "
        f"change {_said(rise)}; {_count(tiny.rho)}"
    )
    return _guarded(
        Verdict(
            "c",
            claim,
            rates.size,
            word(holds, clear),
            "rho at eta_tiny",
            tiny.rho.value,
            tiny.rho.low,
            tiny.rho.high,
            threshold,
            why,
        ),
        blocked,
    )


def regret_verdict(rates: Rates, found: Agreements, sample: Sample, blocked: str) -> Verdict:
    """(d): regret@1 at the tiny rate minus regret@1 at the standard one."""
    claim = "regret@1 is lower at the tiny learning rate than at the standard one"
    pair = _pair(rates, found.regret_draws)
    if isinstance(pair, str):
        return _unsettled("d", claim, rates.size, "nats per token", "below 0", pair)
    (tiny, many), (standard, others) = pair
    with np.errstate(invalid="ignore"):
        gain = estimate(
            tiny - standard, many - others, sample.level, len(sample.recipes), len(sample.recipes)
        )
    why = f"regret@1 {tiny:.4f} at {rates.tiny:g} and {standard:.4f} at {rates.standard:g}"
    why += "; both pick the best recipe" if tiny == standard == 0 else ""
    return _guarded(
        Verdict(
            "d",
            claim,
            rates.size,
            word(gain.value < 0, gain.high < 0),
            "nats per token",
            gain.value,
            gain.low,
            gain.high,
            "below 0",
            why,
        ),
        blocked,
    )


def range_verdict(rates: Rates, ranges: Sequence[Range], sample: Sample, blocked: str) -> Verdict:
    """(e): range of rho over the standard rate and its reductions minus the largest range of the
    other families.
    """
    claim = (
        "the learning rate moves rho more than batch size, weight decay or tokens per parameter do"
    )
    mine = [r for r in ranges if r.size == rates.size]
    own = next((r for r in mine if r.family == LEARNING_RATE), None)
    others = [r for r in mine if r.family != LEARNING_RATE]
    if own is None or not others:
        return _unsettled(
            "e",
            claim,
            rates.size,
            "range of rho",
            "above 0",
            "no arm of another setting was run"
            if own
            else "fewer than two of the rates are in the grid",
        )
    top = max(others, key=lambda r: r.range.value)
    gain = difference(
        own.range, top.range, own.draws, np.stack([r.draws for r in others]).max(0), sample.level
    )
    why = (
        f"range {own.range.value:.3f} over {len(own.settings)} learning rates; the largest other "
        f"is {top.range.value:.3f} over {top.family} ({', '.join(top.settings)}) at {top.rate:g}"
    )
    return _guarded(
        Verdict(
            "e",
            claim,
            rates.size,
            word(gain.value > 0, gain.low > 0),
            "range of rho",
            gain.value,
            gain.low,
            gain.high,
            "above 0",
            why,
        ),
        blocked,
    )


def overall(verdicts: Sequence[Verdict], left_out: Mapping[str, str]) -> list[dict]:
    """Per claim, one word over its proxies: theirs when they agree, else not settled. A size that
    does not count (left_out), or that the question could not be put to (no number), has no vote
    while another one has."""
    out = []
    for key in dict.fromkeys(v.id for v in verdicts):
        mine = [v for v in verdicts if v.id == key]
        words = {v.verdict for v in mine if v.size not in left_out and math.isfinite(v.number)}
        out.append(
            {
                "id": key,
                "claim": mine[0].claim,
                "verdict": words.pop() if len(words) == 1 else NOT_SETTLED,
                "by_size": {v.size: v.verdict for v in mine if v.size},
            }
        )
    return out


def _pair(rates: Rates, values: Mapping):
    """The entries at the tiny and the standard rate, or why there are none."""
    if rates.tiny is None or not math.isfinite(rates.standard):
        return (
            f"the grid has no rate near eta_std / {REDUCTIONS[-1]}"
            if math.isfinite(rates.standard)
            else f"no standard rate: {rates.note}"
        )
    found = [
        next(
            (v for (s, r), v in values.items() if s == rates.size and abs(r / rate - 1) < 1e-4),
            None,
        )
        for rate in (rates.tiny, rates.standard)
    ]
    return "one of the two rates has no ranking" if any(v is None for v in found) else tuple(found)


def _guarded(verdict: Verdict, blocked: str) -> Verdict:
    """Numbers that a guard rejects settle nothing, whichever way they point."""
    if not blocked:
        return verdict
    return Verdict(
        **{**verdict.__dict__, "verdict": NOT_SETTLED, "why": f"{blocked}; {verdict.why}"}
    )


def _unsettled(key: str, claim: str, size: str, measure: str, threshold: str, why: str) -> Verdict:
    return Verdict(
        key, claim, size, NOT_SETTLED, measure, math.nan, math.nan, math.nan, threshold, why
    )


def _said(e: Estimate) -> str:
    return f"{e.value:.3f} [{e.low:.3f}, {e.high:.3f}]"


def _count(e: Estimate) -> str:
    return f"{e.used} of {e.of} recipes"


def _poisson_tail(count: int, expected: float) -> float:
    """P(at least `count`) of a Poisson number."""
    term, below = math.exp(-expected), 0.0
    for k in range(count):
        below += term
        term *= expected / (k + 1)
    return max(0.0, 1 - below)


def _wilson(count: int, of: int, level: float) -> tuple[float, float]:
    """Wilson's interval of a share."""
    from statistics import NormalDist

    z = NormalDist().inv_cdf((1 + level) / 2)
    middle = (count + z * z / 2) / (of + z * z)
    half = z / (of + z * z) * math.sqrt(count * (of - count) / of + z * z / 4)
    # rounding at 0 and 1
    return max(0.0, min(middle - half, count / of)), min(1.0, max(middle + half, count / of))
