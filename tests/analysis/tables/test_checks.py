"""The checks that every reader of a table shares, and the names it goes by."""

import numpy as np
import pandas as pd
import pytest

from stepladder.analysis.fit.levels import check_level, intervals, percent, percentile_interval
from stepladder.analysis.tables.checks import distinct, joined, positive_values, require_columns
from stepladder.analysis.tables.columns import (
    LEARNING_RATE_ALIASES,
    PROXY_TRANSFER_ALIASES,
    first_usual_columns,
    usual_column,
)
from stepladder.analysis.tables.numbers import human
from stepladder.configs.core.errors import UserError


def test_a_missing_column_is_named_with_the_nearest():
    table = pd.DataFrame({"loss": [1.0]})
    with pytest.raises(UserError, match="column 'los': missing from points.*'loss'"):
        require_columns(table, ("loss", "los"), "points")


def test_bad_values_are_named_with_their_row():
    table = pd.DataFrame({"a": [1.0, 2.0], "b": [0.0, 3.0]}, index=["x", "y"])
    np.testing.assert_array_equal(
        positive_values(table, ("a", "b"), may_be_zero=[1]), [[1, 0], [2, 3]]
    )
    with pytest.raises(UserError, match=r"column 'b'=0.0: not a positive finite number \(row x\)"):
        positive_values(table, ("a", "b"))
    for bad in (-1.0, np.nan, np.inf):
        with pytest.raises(UserError, match="row y"):
            positive_values(table.assign(b=[0.0, bad]), ("a", "b"), may_be_zero=[1])
    with pytest.raises(
        UserError, match=r"column 'b'=x: not a finite number of 0 or more \(row y\)"
    ):
        positive_values(table.assign(b=[0.0, "x"]), ("a", "b"), may_be_zero=[1])


def test_values_equal_to_a_millionth_are_one():
    assert distinct(np.array([1e9, 1e9 * (1 + 1e-8), 2e9])) == 2
    assert distinct(np.array([0.0, 0.0, 1.0])) == 2
    middle = np.exp(20.7232655)  # where a logarithm rounded to six digits changes
    assert distinct(middle * np.array([1 - 1e-9, 1 + 1e-9])) == 1


def test_numbers_as_people_write_them():
    values = (0.5, 999.4, 999.9e3, 1234567, 999.6e6, 7e9, 1.4e12)
    assert [human(v) for v in values] == ["0.5", "999", "1M", "1.23M", "1B", "7B", "1.4T"]


def test_joined_tables_are_numbered_anew_and_empty_ones_set_no_type():
    empty = pd.DataFrame({"a": pd.Series([], dtype=object)})
    found = joined([empty, pd.DataFrame({"a": [1]}), pd.DataFrame({"a": [2]})])
    assert found["a"].tolist() == [1, 2] and found["a"].dtype == int
    assert found.index.tolist() == [0, 1]
    assert list(joined([empty, empty])) == ["a"]


def test_levels():
    values = np.arange(101.0)
    assert percentile_interval(values, 0.9) == pytest.approx((5.0, 95.0))
    low, high = percentile_interval(np.stack([values, 2 * values], 1), 0.5, axis=0)
    np.testing.assert_allclose([low, high], [[25, 50], [75, 150]])
    assert intervals({"a": values}, 0.8) == {"a": pytest.approx((10.0, 90.0))}
    for level in (0.0, 1.0, -1.0, 90, float("nan")):
        for check in (check_level, lambda level: percentile_interval(values, level)):
            with pytest.raises(UserError, match="must lie between 0 and 1"):
                check(level)
    assert [percent(v) for v in (0.5, 0.9, 0.975, 0.995)] == ["50%", "90%", "97.5%", "99.5%"]


def test_a_column_goes_by_its_usual_names():
    table = pd.DataFrame(columns=["Peak LR", "wd", "loss"])
    assert usual_column(table, "learning_rate", LEARNING_RATE_ALIASES) == "Peak LR"
    assert usual_column(table, "width", LEARNING_RATE_ALIASES) == ""
    with pytest.raises(UserError, match="'lr' and 'max_lr' could both be learning_rate"):
        usual_column(pd.DataFrame(columns=["lr", "max_lr"]), "learning_rate", LEARNING_RATE_ALIASES)
    found = first_usual_columns(
        pd.DataFrame(columns=["mixture", "Dataset", "lr"]), PROXY_TRANSFER_ALIASES
    )
    assert found == {"recipe": "Dataset", "learning_rate": "lr"}
