"""Every filter step on one text that it keeps (or changes) and one that it drops."""

import re

import pytest

from stepladder.configs.core.errors import UserError
from stepladder.train.data.prepare import filters

PROSE = (
    "The quick brown fox jumps over the lazy dog while a slow green turtle walks under some "
    "old bridge nearby. "
) * 2
CASES = {
    "min_length": (PROSE, PROSE, "short"),
    "max_line_length": (PROSE, PROSE, "x" * 2001),
    "printable": (PROSE, PROSE, "\x00\x01binary" * 9),
    "mostly_letters": (PROSE, PROSE, "1, 2, 3, 4.5\n" * 20),
    "no_repeated_lines": ("a\nb\nc\nd\n", "a\nb\nc\nd\n", "same line\n" * 10),
    "no_repeated_words": (PROSE, PROSE, "one two three four " * 30),
    "word_length": (PROSE, PROSE, "a b c d e f"),
    "strip_trailing": ("\n\na  \n  b\t\n\n", "a\n  b\n", " \n \n"),
    "collapse_blank_lines": ("a\n\n\n \n\nb", "a\n\nb", None),
    "lower_case": ("Ab Ä", "ab ä", None),
    "cut_500": ("x" * 600, "x" * 500, None),
    "stop_words": (PROSE + "to be", PROSE + "to be", "x = y + z\n" * 30),
}
SPOIL = ("noise_5", "shuffle_half", "repeat_8", "repeat_some")  # not idempotent: tested below


def test_every_step_has_a_test():
    assert sorted(filters.FILTERS) == sorted([*CASES, *SPOIL])


@pytest.mark.parametrize("name", CASES)
def test_step(name):
    before, after, dropped = CASES[name]
    assert filters.FILTERS[name](before) == after
    assert filters.FILTERS[name](after) == after  # a step applied twice changes nothing more
    if dropped is not None:
        assert filters.FILTERS[name](dropped) is None


DOCUMENTS = [f"{PROSE} number {i} of many" for i in range(400)]


@pytest.mark.parametrize("name", SPOIL)
def test_spoiling_is_a_function_of_the_text_alone(name):
    step = filters.FILTERS[name]
    assert [step(d) for d in DOCUMENTS[:20]] == [step(d) for d in reversed(DOCUMENTS[:20])][::-1]


def test_noise_changes_five_percent_of_the_characters():
    changed = [
        sum(a != b for a, b in zip(d, filters.noise_5(d), strict=True)) / len(d) for d in DOCUMENTS
    ]
    assert 0.04 < sum(changed) / len(changed) < 0.055


def test_shuffling_keeps_the_words_and_spares_half_of_the_documents():
    spoilt = [filters.shuffle_half(d) for d in DOCUMENTS]

    def words(text):
        return sorted(re.findall(r"\w+", text))

    assert all(words(s) == words(d) for s, d in zip(spoilt, DOCUMENTS))
    assert 0.4 < sum(s == d for s, d in zip(spoilt, DOCUMENTS)) / len(DOCUMENTS) < 0.6


@pytest.mark.parametrize(
    ("name", "allowed", "share"), [("repeat_8", {8}, 1 / 8), ("repeat_some", {1, 2, 4, 8}, 15 / 32)]
)
def test_repetition_keeps_the_amount_of_text(name, allowed, share):
    spoilt = [filters.FILTERS[name](d) for d in DOCUMENTS]
    times = [len(s) // len(d) for s, d in zip(spoilt, DOCUMENTS) if s]
    assert (
        all(s == d * (len(s) // len(d)) for s, d in zip(spoilt, DOCUMENTS) if s)
        and set(times) == allowed
    )
    assert (
        0.7 < sum(times) / len(DOCUMENTS) < 1.3
        and 0.7 * share < len(times) / len(DOCUMENTS) < 1.3 * share
    )


def test_steps_apply_in_order_and_the_dropping_one_is_named():
    assert filters.apply(("lower_case", "cut_500"), "AB") == ("ab", "")
    assert filters.apply(("lower_case", "min_length", "cut_500"), "AB") == (None, "min_length")


def test_unknown_name():
    with pytest.raises(UserError, match=r"filters=lowercase: .*'lower_case'"):
        filters.check(("lowercase",))
