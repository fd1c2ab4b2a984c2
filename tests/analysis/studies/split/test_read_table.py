"""Bad tables: what is refused, and what is left out and listed."""

import numpy as np
import pandas as pd
import pytest

from stepladder.analysis.studies.split.measures.cells import cells_of
from stepladder.analysis.studies.split.read_table import check_table
from stepladder.analysis.studies.split.study import study
from stepladder.configs.core.errors import UserError
from tests.support import synthetic_split as made

FEW = {"sizes": (1e4, 2e4), "ratios": (15, 60)}


@pytest.mark.parametrize("column", ["N", "D", "D2", "domain", "own", "loss"])
def test_a_missing_column_is_named(column):
    with pytest.raises(UserError, match=f"column '{column}': missing"):
        check_table(made.table(**FEW).drop(columns=column))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"arm": "shard"}, "arm='shard': unknown; did you mean 'shared'"),
        ({"router": "oracel"}, "router='oracel': unknown; did you mean 'oracle'"),
        ({"loss": np.nan}, "no row of an expert is left.*the loss is missing"),
        ({"D2": -1.0}, "D2 is negative"),
        ({"K": 0.0}, "K=0: a split model has 1 expert or more"),
    ],
)
def test_bad_tables_are_refused_in_one_line(change, said):
    with pytest.raises(UserError, match=said) as error:
        check_table(made.table(**FEW).assign(**change))
    assert "\n" not in str(error.value)


def test_two_split_fractions_are_too_few():
    with pytest.raises(UserError, match="2 split fractions"):
        check_table(made.table(**FEW, shares=(0.4, 0.8)))
    with pytest.raises(UserError, match="more than one number of experts"):
        table = made.table(**FEW)
        table.loc[0, "K"] = 9
        check_table(table)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"N": "many"}, "N is not a positive number"),
        ({"D": -5.0}, "D is negative"),
        ({"D2": -5.0}, "D2 is negative"),
        ({"D2": 0.0}, "an expert without tokens of specialisation"),
        ({"domain": ""}, "domain is empty"),
        ({"arm": "dense"}, "arm dense, but with an own domain"),
        ({"own": ""}, "a model without own domain, but not of the arm dense"),
        ({"own": "", "arm": ""}, "a dense model with tokens of specialisation"),
        ({"loss": np.nan}, "the loss is missing"),
        ({"loss": np.inf}, "diverged"),
        ({"loss": -1.0}, "loss is not a positive number"),
    ],
)
def test_rows_that_cannot_be_used_are_listed(change, reason):
    table = made.table(**FEW).astype({"N": object})
    for name, value in change.items():
        table.loc[7, name] = value
    found = check_table(table)
    assert len(found.frame) == len(table) - 1
    assert found.excluded["reason"].str.contains(reason, regex=False).tolist() == [True]


def test_a_cell_that_lacks_a_domain_is_listed():
    table = made.table(**FEW)
    table.loc[7, "loss"] = np.nan
    found = check_table(table)
    cells = cells_of(found.frame, found.experts, "shared")
    assert len(cells.frame) == 27
    (reason,) = cells.excluded["reason"]
    assert f"no loss on {table['domain'][7]}" in reason


def test_a_domain_with_too_few_rows_is_listed():
    table = made.table(**FEW)
    rare = pd.concat([table, made.table(sizes=(1e4,), ratios=(15,), domains=("rare",), K=4)])
    found = check_table(rare.assign(K=4))
    own = (found.excluded["own"] == "rare") | (found.excluded["domain"] == "rare")
    assert own.all() or len(found.excluded) == 0
    few = rare[(rare["domain"] != "rare") | (rare["D"] == 0) | (rare["D2"] == 0)].assign(K=4)
    found = check_table(few)
    assert len(found.excluded) == 2 and "fewer than 6 rows" in found.excluded["reason"].iloc[0]
    assert set(found.frame["domain"]) == set(made.DOMAINS)
    assert any("K = 4, of which 3 own domains are here" in n for n in found.notes)


def test_rows_given_twice_are_listed_and_rounded_steps_are_one_level():
    table = made.table(**FEW)
    again = pd.concat([table, table.iloc[[3]].assign(loss=2.5)], ignore_index=True)
    found = check_table(again)
    assert found.excluded["reason"].tolist() == [
        "a second row of the same model and domain: the last stands"
    ]
    assert (found.frame["loss"] == 2.5).sum() == 1
    moved = table["domain"] == "web"
    table.loc[moved, "D"] *= 1.003
    found = check_table(table)
    assert found.frame["s"].nunique() == len(made.SHARES)
    assert found.frame["T"].nunique() == check_table(made.table(**FEW)).frame["T"].nunique()
    assert any("count as one" in n for n in found.notes)


def test_defaults_are_said():
    table = made.table(**FEW).drop(columns=["K", "seed", "arm", "router"])
    found = check_table(table.rename(columns={"N": "params"}))
    assert found.experts == 3
    assert set(found.frame["arm"]) == {"shared", "dense"}
    said = " ".join(found.notes)
    for part in ("no column K", "no column of seeds", "N is column 'params'"):
        assert part in said


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"level": 1.5}, "level=1.5"),
        ({"resamples": 3}, "resamples=3"),
        ({"refits": 3}, "refits=3"),
        ({"laws": ("H7",)}, "laws='H7'"),
    ],
)
def test_options_that_do_not_fit_are_refused(option, said):
    with pytest.raises(UserError, match=said):
        study(made.table(**FEW), **option)
