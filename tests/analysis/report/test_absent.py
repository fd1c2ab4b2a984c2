"""The lines of what a study could not say."""

from stepladder.analysis.report.absent import MOST, absent_lines


def test_few_lines_are_all_there_and_many_are_counted():
    few = [f"x{i}" for i in range(MOST)]
    assert absent_lines(few) == [f"not here: x{i}" for i in range(MOST)]
    many = absent_lines([*few, "y", "z"])
    assert many[:-1] == absent_lines(few)
    assert many[-1] == "not here: 2 more (all listed in the report)"
