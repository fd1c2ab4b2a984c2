"""The last stage: one verdict for every claim, with the numbers it rests on.

A claim is "seen" where the numbers show it over their intervals, "not seen at this scale" where
they show that it fails, "not settled" in between, and "not testable here" without the rows it
needs. The claims are those of arXiv 2603.19149 as its abstract and secondary sources give them; how
each becomes a number is ours.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stepladder.analysis.studies.split.measures import Row
from stepladder.analysis.studies.split.measures.best_split import ALL
from stepladder.analysis.studies.split.measures.comparisons import (
    EARLY_LATE,
    EQUAL_SEPARATE,
    EQUAL_SHARED,
    SPLIT_DENSE,
)
from stepladder.analysis.studies.split.measures.held_out import SIZE, TOTAL
from stepladder.analysis.studies.split.measures.phonebook import CLAIMED
from stepladder.analysis.studies.split.result import Found
from stepladder.analysis.tables.numbers import human

SEEN, NOT_SEEN = "seen", "not seen at this scale"
NOT_SETTLED, NOT_TESTABLE = "not settled", "not testable here"
OFTEN = 0.5  # "often" is at more than half of the sizes and totals


@dataclass(frozen=True)
class Verdict:
    """One claim. parts: the same question in parts: (what, word, numbers)."""

    id: str
    claim: str
    word: str
    why: str
    parts: tuple[tuple[str, str, str], ...] = ()

    def row(self) -> Row:
        """As a row of results.json."""
        parts = [dict(zip(("of", "verdict", "numbers"), part)) for part in self.parts]
        return {"id": self.id, "claim": self.claim, "verdict": self.word, "why": self.why} | {
            "parts": parts
        }


def judge(found: Found) -> list[Verdict]:
    """All claims, in the order of the page."""
    return [make(found) for make in _CLAIMS]


def overall(words: Sequence[str]) -> str:
    """One word of many: theirs where those that could be tested agree."""
    tested = set(words) - {NOT_TESTABLE}
    if not tested:
        return NOT_TESTABLE
    return tested.pop() if len(tested) == 1 else NOT_SETTLED


def span(row: Row, name: str, digits: int = 3) -> str:
    """0.95 [0.88, 0.98] of the columns name, name_low and name_high."""
    value, low, high = (row.get(k) for k in (name, f"{name}_low", f"{name}_high"))
    if value is None or not math.isfinite(value):
        return "unknown"
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return f"{value:.{digits}g} [no interval]"
    return f"{value:.{digits}g} [{low:.{digits}g}, {high:.{digits}g}]"


def below(row: Row, name: str, mark: float = 0.0) -> str:
    """Whether a number is below a mark: over its interval, above over it, or neither."""
    low, high = row.get(f"{name}_low", math.nan), row.get(f"{name}_high", math.nan)
    if not (math.isfinite(low) and math.isfinite(high)):
        return NOT_TESTABLE
    if high < mark:
        return SEEN
    return NOT_SEEN if low >= mark else NOT_SETTLED


def early(found: Found) -> Verdict:
    """A split before half of the budget is better than a late one at most sizes and totals."""
    claim = "splitting before half of the budget often beats full pretraining plus a short finetune"
    rows = [r for r in found.comparisons if r["comparison"] == EARLY_LATE]
    means = _mean_of(found, EARLY_LATE)
    if means is None:
        why = "needs a split fraction between 0 and 0.5 and one from 0.7 to below 1"
        return Verdict("a", claim, NOT_TESTABLE, why)
    word = _often(means)
    why = (
        f"better at {span(means, 'wins', 2)} of {means['curves']} sizes and totals; early minus "
        f"late {span(means, 'difference')} nats on average"
    )
    if word == NOT_TESTABLE:
        why += "; no noise is known, so no interval"
    return Verdict("a", claim, word, why, tuple(_by_size(rows)))


def _often(means: Row) -> str:
    low, high = means["wins_low"], means["wins_high"]
    if not (math.isfinite(low) and math.isfinite(high)):
        return NOT_TESTABLE
    if low > OFTEN:
        return SEEN
    return NOT_SEEN if high <= OFTEN else NOT_SETTLED


def _by_size(rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    return [
        (
            f"N {human(r['N'])}, T {human(r['T'])}",
            below(r, "difference"),
            f"split at {r['s']:g}: {span(r, 'difference')} nats",
        )
        for r in rows
    ]


def extrapolates(found: Found) -> Verdict:
    """The law with the least error on held-out fractions predicts what lies beyond the fit."""
    claim = "the law extrapolates to larger N and longer training"
    parts: list[tuple[str, str, str]] = []
    for split in (SIZE, TOTAL):
        rows = [r for r in found.law_held_out if r["held_out"] == split]
        regrets = {r["law"]: r for r in found.regrets if r["fit"] == split}
        for row in (r for r in rows if r["law"] == found.chosen):
            numbers = (
                f"{row['law']}: error {span(row, 'rmse')} nats ({span(row, 'mre')} relative), "
                f"nearest seen cell's minus it {span(_flipped(row, 'above_nearest'), 'above')}; "
                f"place {row['rank']} of {len(rows)}"
            )
            if row["law"] in regrets:
                numbers += f"; regret of its split {span(regrets[row['law']], 'regret')} nats"
            parts.append((split, below(row, "above_nearest"), numbers))
        if not rows:
            parts.append((split, NOT_TESTABLE, "not held out: too few sizes or totals"))
    words = [p[1] for p in parts]
    word = NOT_SETTLED if SEEN in words and NOT_TESTABLE in words else overall(words)
    why = (
        f"law {found.chosen} (ours), taken for its error on held-out fractions; seen where it "
        "beats the nearest seen cell"
        if found.chosen
        else "no law could be held out"
    )
    return Verdict("b", claim, word, why, tuple(parts))


def _flipped(row: Row, name: str) -> Row:
    return {
        "above": -row[name],
        "above_low": -row[f"{name}_high"],
        "above_high": -row[f"{name}_low"],
    }


def beats_dense(found: Found) -> Verdict:
    """Split models are better than the dense model of equal tokens; equal FLOPs stand beside."""
    claim = "split models beat full pretraining at equal tokens"
    rows = [r for r in found.comparisons if r["comparison"] == SPLIT_DENSE]
    means = _mean_of(found, SPLIT_DENSE)
    if means is None:
        return Verdict("c", claim, NOT_TESTABLE, "needs dense models (own empty) at equal tokens")
    why = (
        f"split minus dense {span(means, 'difference')} nats on average, better at "
        f"{span(means, 'wins', 2)} of {means['curves']} sizes and totals"
    )
    for name in (EQUAL_SHARED, EQUAL_SEPARATE):
        equal = _mean_of(found, name)
        label = name.removeprefix("split - dense, ")
        why += (
            f"; at {label}: no dense run of so many tokens"
            if equal is None
            else f"; at {label}: {span(equal, 'difference')} nats over {equal['curves']}"
        )
    return Verdict("c", claim, below(means, "difference"), why, tuple(_by_size(rows)))


def best_predicted(found: Found) -> Verdict:
    """Following the chosen law costs little: less than one standard error at most cells."""
    claim = "the law finds the split point"
    row = next((r for r in found.regrets if (r["law"], r["fit"]) == (found.chosen, ALL)), None)
    if row is None:
        return Verdict("d", claim, NOT_TESTABLE, "no law that chooses a split could be fitted")
    share = row["right"] / row["curves"]
    known = math.isfinite(row["regret_low"])
    word = SEEN if share > OFTEN else NOT_SEEN
    parts = tuple(
        (
            f"{r['law']}, fitted to {'all' if r['fit'] == ALL else 'all but the ' + r['fit']}",
            _found_word(r),
            f"regret {span(r, 'regret')} nats, at most {r['largest']:.3g}; {r['right']} of "
            f"{r['curves']} choices within one standard error of the best",
        )
        for r in found.regrets
    )
    why = (
        f"{found.chosen}: {row['right']} of {row['curves']} choices within one standard error of "
        f"the observed best, regret {span(row, 'regret')} nats"
    )
    for code, states in found.corners.items():
        why += f"; {code} has no interior split point ({', '.join(states)})"
    return Verdict("d", claim, word if known else NOT_TESTABLE, why, parts)


def _found_word(row: Row) -> str:
    if not math.isfinite(row["regret_low"]):
        return NOT_TESTABLE
    return SEEN if row["right"] / row["curves"] > OFTEN else NOT_SEEN


def phonebook(found: Found) -> Verdict:
    """The phonebook is learned with a split after 20 to 40 % of the budget."""
    claim = "a phonebook is learned when the split is at 20 to 40 % of the budget"
    parts: list[tuple[str, str, str]] = []
    for row in found.phonebook:
        low, high = row["s_low"], row["s_high"]
        inside = [s for s in row["near"] if CLAIMED[0] <= s <= CLAIMED[1]]
        word = NOT_SETTLED
        if not math.isfinite(low):
            word = NOT_TESTABLE
        elif CLAIMED[0] <= low and high <= CLAIMED[1]:
            word = SEEN
        elif not inside and (high < CLAIMED[0] or low > CLAIMED[1]):
            word = NOT_SEEN
        numbers = f"best at {span(row, 's')} ({row['of']} {row['best']:.3g})"
        parts.append((f"N {human(row['N'])}, T {human(row['T'])}", word, numbers))
    if not parts:
        why = "no rows whose own domain is a phonebook, at three fractions"
        return Verdict("e", claim, NOT_TESTABLE, why)
    words = [p[1] for p in parts]
    why = f"of {len(words)} sizes and totals: {words.count(SEEN)} seen, {words.count(NOT_SEEN)} not"
    return Verdict("e", claim, overall(words), why, tuple(parts))


def _mean_of(found: Found, name: str) -> Row | None:
    return next((r for r in found.comparison_means if r["comparison"] == name), None)


_CLAIMS: tuple[Callable[[Found], Verdict], ...] = (
    early,
    extrapolates,
    beats_dense,
    best_predicted,
    phonebook,
)
