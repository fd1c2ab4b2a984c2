"""Every filter step on one text that it keeps (or changes) and one that it drops."""

import pytest

from stepladder.configs.errors import UserError
from stepladder.train.data import filters

PROSE = "The quick brown fox jumps over the lazy dog while a slow green turtle walks under some old bridge nearby. " * 2
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
}


@pytest.mark.parametrize("name", filters.FILTERS)
def test_step(name):
    before, after, dropped = CASES[name]
    assert filters.FILTERS[name](before) == after
    assert filters.FILTERS[name](after) == after  # a step applied twice changes nothing more
    if dropped is not None:
        assert filters.FILTERS[name](dropped) is None


def test_steps_apply_in_order_and_the_dropping_one_is_named():
    assert filters.apply(("lower_case", "cut_500"), "AB") == ("ab", "")
    assert filters.apply(("lower_case", "min_length", "cut_500"), "AB") == (None, "min_length")


def test_unknown_name():
    with pytest.raises(UserError, match=r"filters=lowercase: .*'lower_case'"):
        filters.check(("lowercase",))
