"""The last stage: one verdict for every claim, with the numbers it rests on.

A claim is "seen" where the numbers show it over their intervals, "not seen at this scale" where
they show that it fails, "not settled" in between, and "not testable here" without the rows it
needs.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stepladder.analysis.studies.overtraining.changes import (
    INIT,
    LARGE_RATE,
    NO_DECAY,
    SEPARATE,
    WEIGHTS,
    say,
    scale_of,
)
from stepladder.analysis.studies.overtraining.measures import Row
from stepladder.analysis.studies.overtraining.measures.inflection import FOUND
from stepladder.analysis.studies.overtraining.result import Found
from stepladder.analysis.tables.numbers import human

SEEN, NOT_SEEN = "seen", "not seen at this scale"
NOT_SETTLED, NOT_TESTABLE = "not settled", "not testable here"


@dataclass(frozen=True)
class Verdict:
    """One claim. parts: the same question by change, task and size: (what, word, numbers)."""

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


def above(row: Row, name: str) -> str:
    """Whether a number is above 0: over its interval, at the estimate only, or not."""
    value, low, high = (row.get(k, math.nan) for k in (name, f"{name}_low", f"{name}_high"))
    if not math.isfinite(value):
        return NOT_TESTABLE
    if low > 0:
        return SEEN
    return NOT_SEEN if high <= 0 else NOT_SETTLED


def progressive(found: Found) -> Verdict:
    """Delta, in perplexity, rises with the tokens of pretraining."""
    parts = []
    for row in _separate(found.families):
        if not _fixed(row):
            continue
        numbers = (
            f"tau {span(row, 'tau_delta_ppl')} in perplexity, {span(row, 'tau_delta')} in nats; "
            f"rises at every step for {row['rises']} of {row['strengths']} strengths"
        )
        word = above(row, "tau_delta_ppl") if row["budgets"] > 1 else NOT_TESTABLE
        parts.append((_named(row), word, numbers))
    return _of_parts("a", "the same change costs more perplexity the longer the pretraining", parts)


def catastrophic(found: Found) -> Verdict:
    """At the largest change the loss afterwards rises again with more pretraining."""
    parts = []
    rows = [r for r in _separate(found.inflections) if r["of"] == "loss" and _fixed(r)]
    for key in dict.fromkeys((r["change"], r["N"]) for r in rows):
        mine = [r for r in rows if (r["change"], r["N"]) == key]
        last = ([r for r in mine if math.isfinite(r["share"])] or mine)[-1]
        count = sum(r["state"] == FOUND for r in mine)
        numbers = (
            f"at {say(last['change'], last['strength'])}: {last['state']}, T* "
            f"{span(last, 'T_star')}, afterwards +{span(last, 'rise')} nats; an inflection at "
            f"{count} of {len(mine)} strengths"
        )
        parts.append((_named(last), _rule_word(last, count, found.level), numbers))
    return _of_parts(
        "b", "past an inflection more pretraining makes the changed model worse", parts, any_of=True
    )


def _rule_word(largest: Row, count: int, level: float) -> str:
    if not math.isfinite(largest["share"]):
        return NOT_TESTABLE
    if largest["state"] == FOUND and largest["share"] >= level:
        return SEEN
    return NOT_SETTLED if count else NOT_SEEN


def earlier(found: Found) -> Verdict:
    """T* falls with the size of the change."""
    parts = []
    for row in _separate(found.shifts):
        if not _fixed(row):
            continue
        numbers = (
            f"tau of T* and strength {span(row, 'tau')}; an inflection at {row['declared']} of "
            f"{row['strengths']} strengths"
        )
        word = above({"tau": -row["tau"]} | _flipped(row, "tau"), "tau")
        if not row["declared"]:
            word = NOT_TESTABLE
        parts.append((_named(row), word, numbers))
    return _of_parts("c", "a larger change has an earlier inflection", parts)


def _flipped(row: Row, name: str) -> Row:
    return {f"{name}_low": -row[f"{name}_high"], f"{name}_high": -row[f"{name}_low"]}


def tuned_worse(found: Found) -> Verdict:
    """With the learning rate tuned for every budget some tasks still end worse."""
    rows = [r for r in _separate(found.tuned) if "share" in r]
    parts = []
    for row in rows:
        what = "task" if row["of"] == "tuned_loss" else "pretraining text"
        numbers = (
            f"{row['state']}, lowest at {row['lowest_at']:.3g} tokens, afterwards "
            f"+{span(row, 'rise')} nats, {row['budgets']} valid budgets"
        )
        word = _rule_word(row, int(row["state"] == FOUND), found.level)
        parts.append((f"{_named(row)}, loss on the {what}", word, numbers))
    worse = sorted({p[0] for p in parts if p[1] == SEEN})
    verdict = _of_parts(
        "d", "with a tuned learning rate some tasks still get worse", parts, any_of=True
    )
    return _because(verdict, f"worse: {'; '.join(worse)}" if worse else "")


def by_trend(found: Found) -> Verdict:
    """Tasks whose tuned rate falls quickly do not get worse, and others do."""
    claim = "tasks get worse where the tuned rate does not fall quickly with the tokens"
    worse = {
        (r["change"], r["N"])
        for r in _separate(found.tuned)
        if "share" in r and r["state"] == FOUND
    }
    parts, right, settled = [], [], True
    for row in _separate(found.slopes):
        if row["trend"] == "unknown":
            continue
        bad = (row["change"], row["N"]) in worse
        right.append(bad != (row["trend"] == "falls quickly"))
        settled = settled and row["settled"]
        numbers = f"eta* ~ T^{span(row, 'slope')}: {row['trend']}; {'worse' if bad else 'no worse'}"
        parts.append((_named(row), SEEN if right[-1] else NOT_SEEN, numbers))
    kinds = {r["trend"] == "falls quickly" for r in found.slopes if r["trend"] != "unknown"}
    if len(parts) < 2 or len(kinds) < 2:
        why = "needs tasks of both kinds, with a tuned rate that falls quickly and that does not"
        return Verdict("e", claim, NOT_TESTABLE, why, tuple(parts))
    word = SEEN if all(right) else NOT_SEEN
    why = f"{sum(right)} of {len(right)} tasks and sizes as claimed"
    if not settled:
        return Verdict("e", claim, NOT_SETTLED, f"{why}; not all trends are settled", tuple(parts))
    return Verdict("e", claim, word, why, tuple(parts))


def forgets_at_equal_fit(found: Found) -> Verdict:
    """At equal loss on the task the longest pretraining has forgotten more than the shortest."""
    parts = [
        (
            _named(row),
            above(row, "more_forgetting"),
            f"last budget minus first {span(row, 'more_forgetting')} nats; loss on pretraining "
            f"text itself: {row['state']}",
        )
        for row in _separate(found.matched_summary)
    ]
    return _of_parts("f", "at equal fine-tuning loss longer pretraining forgets more", parts)


def _arm_claim(key: str, arm: str, claim: str) -> Callable[[Found], Verdict]:
    def make(found: Found) -> Verdict:
        parts = [
            (
                _named(row),
                above({"delta": -row["delta"]} | _flipped(row, "delta"), "delta"),
                f"Delta {span(row, 'delta')} nats against {SEPARATE}, {span(row, 'ratio')} times "
                f"it, over {row['cells']} cells; loss before {span(row, 'base_loss')}, after "
                f"{span(row, 'loss')}",
            )
            for row in found.arm_means
            if row["arm"] == arm
        ]
        return _of_parts(key, claim, parts)

    return make


def norms(found: Found) -> Verdict:
    """The rise is there with noise relative to the weights too."""
    parts = [
        (
            f"{row['init']}, N {human(row['N'])}",
            above(row, f"tau_{WEIGHTS}"),
            f"Delta in nats grows {span(row, f'growth_{INIT}')} times with noise of the "
            f"initialisation's size, {span(row, f'growth_{WEIGHTS}')} times with noise of the "
            f"weights' size (tau {span(row, f'tau_{WEIGHTS}')})",
        )
        for row in _separate(found.norms)
    ]
    return _of_parts(
        "i", "sensitivity rises with noise relative to the weights too (control for norms)", parts
    )


def base_falls(found: Found) -> Verdict:
    """The base loss falls with the tokens."""
    parts = [
        (
            f"N {human(row['N'])}",
            above({"tau": -row["tau"]} | _flipped(row, "tau"), "tau"),
            f"tau {span(row, 'tau')}, {'falls' if row['falls'] else 'does not fall'} at every "
            f"step, {span(row, 'gain')} nats in all",
        )
        for row in _separate(found.base)
    ]
    return _of_parts("j", "the loss before any change falls with the tokens (check)", parts)


def _of_parts(
    key: str, claim: str, parts: Sequence[tuple[str, str, str]], *, any_of: bool = False
) -> Verdict:
    """The verdict of a claim from its parts.

    any_of: the claim says that it happens somewhere, so one part is enough.
    """
    words = [p[1] for p in parts]
    word = SEEN if any_of and SEEN in words else overall(words)
    counts = [f"{words.count(w)} {w}" for w in (SEEN, NOT_SEEN, NOT_SETTLED) if w in words]
    why = f"of {len(words)} changes, tasks and sizes: {', '.join(counts)}"
    if word == NOT_TESTABLE:
        why = "no rows that could show it" if not parts else "no part has an interval or a range"
    return Verdict(key, claim, word, why, tuple(parts))


def _because(verdict: Verdict, more: str) -> Verdict:
    why = f"{verdict.why}; {more}" if more else verdict.why
    return Verdict(verdict.id, verdict.claim, verdict.word, why, verdict.parts)


def _separate(rows: Sequence[Row]) -> list[Row]:
    return [r for r in rows if r["arm"] == SEPARATE]


def _fixed(row: Row) -> bool:
    """Whether a change is of the claims: noise relative to the weights is their control."""
    return scale_of(row["change"]) != WEIGHTS


def _named(row: Row) -> str:
    return f"{row['change']}, N {human(row['N'])}"


_CLAIMS: tuple[Callable[[Found], Verdict], ...] = (
    progressive,
    catastrophic,
    earlier,
    tuned_worse,
    by_trend,
    forgets_at_equal_fit,
    _arm_claim("g", NO_DECAY, "runs without decay forget less"),
    _arm_claim("h", LARGE_RATE, "runs at a larger learning rate forget less"),
    norms,
    base_falls,
)
