"""The published back-tests of arXiv 2410.11840 (table colpret): targets, the authors' own mode, and
every cell of their maps.
"""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from stepladder.analysis.decide.backtest.backtest import backtest
from stepladder.analysis.decide.backtest.rules import REFERENCE, Rules
from stepladder.analysis.fit.reference import BORROWED
from tests.support.published_rows import path, record_row

CUT = {True: Rules(cut=1e10), False: Rules()}
PERCENT = 1e-2  # tolerance of an ARE in per cent
EDGE = 5e-2  # relative tolerance where our box holds a parameter that their search lets go


@pytest.fixture(scope="module")
def folder():
    return path("colpret")


@pytest.fixture(scope="module")
def curves(folder):
    # Units differ by family (OPT perplexity, Pythia log2 perplexity, the rest nats): no error is
    # compared across families.
    names = {
        "scaled_set": "family",
        "model_name": "model",
        "num_params": "N",
        "tokens_seen": "D",
        "perf": "loss",
    }
    raw = pd.read_parquet(folder / "colpret_perf.parquet").rename(columns=names)[[*names.values()]]
    return raw.astype({"family": str, "model": str})


@pytest.fixture(scope="module")
def families(folder):
    return list(pd.read_csv(folder / "reference_hist.csv.gz")["scaled_set"].unique())


def reference(folder, name):
    return pd.read_csv(folder / f"reference_{name}.csv.gz")


def small_models(points, cut):
    """Names of the models below the largest size with a row above the cut, in the reference's
    order.
    """
    below = points[(points["N"] < points["N"].max()) & (points["D"] > cut)].drop_duplicates("model")
    # not stable, as theirs: it decides between models of one size
    return below.sort_values("N")["model"].tolist()


@pytest.mark.parametrize(
    "cut, family, published",
    [
        (True, "OPT", 7.42),
        (True, "gpt3", 2.72),
        (True, "pythia", 9.28),
        (True, "pythia-v0", 5.45),
        (True, "pythia-deduped", 12.99),
        (True, "chinchilla", 1.07),
        (True, "t5-pile", 9.16),
        (False, "OPT", 17.03),
        (False, "gpt3", 2.72),
        (False, "pythia", 164.0),
        (False, "chinchilla", 1.40),
    ],
)
def test_published_colpret_families(curves, cut, family, published):
    (cell,) = backtest(curves[curves["family"] == family], rules=CUT[cut]).cells
    assert cell.identified
    tolerance = PERCENT if published < 100 else 0.5  # 164 is given without decimals
    assert record_row(
        "colpret, 10B cut" if cut else "colpret, no cut",
        f"ARE % {family}",
        100 * cell.are,
        published,
        tolerance,
    ).within


def test_published_colpret_28_families_in_reference_mode(curves, families):
    table = backtest(curves[curves["family"].isin(families)], rules=REFERENCE).table()
    assert len(table) == 28 and (~table["identified"]).sum() == 19
    are = 100 * table["are"]
    # 19 families are continua of ties in which SciPy's end point depends on rounding: a family may
    # cross a level (1 of 28 = 3.6 %).
    found = [
        ("mean", are.mean(), 4.33, 0.25),
        ("median", are.median(), 2.36, 0.4),
        ("below 4 %", 100 * (are < 4).mean(), 64, 4),
        ("below 20 %", 100 * (are < 20).mean(), 96, 1),
    ]
    assert all([record_row("colpret, 28 families, reference mode", *row).within for row in found])
    default = backtest(curves[curves["family"].isin(families)], rules=CUT[True]).table()
    assert (default["are"].isna() == ~default["identified"]).all() and default[
        "identified"
    ].sum() == 9
    assert (
        default.loc[~default["identified"], "reason"]
        .str.contains("2 sizes: E, A and alpha need 3")
        .all()
    )


def test_published_colpret_borrowed(curves):
    rules = Rules(cut=1e10, borrow=BORROWED)
    table = backtest(
        curves[curves["family"].isin(["OPT", "olmo"])], sets="one", rules=rules
    ).table()
    are = {models[0].strip(): 100 * value for models, value in zip(table["models"], table["are"])}
    published = {"OLMo-1B": 0.9, "OPT-6.70B": 32.5, "OPT-13.00B": 24.9, "OPT-30.00B": 15.0}
    assert all(
        [
            record_row("colpret, borrowed (A, alpha), one model", m, are[m], v, 0.1).within
            for m, v in published.items()
        ]
    )


def compare(name, cells, ours, published):
    """Count the cells that agree to 1e-2 % and record the count; cells at a bound of our box,
    where the law they fit lies outside it, must come near theirs.
    """
    sure = cells["identified"] & cells[published].notna()
    away = (cells[ours] - cells[published]).abs()
    inside = sure & (cells["at_bound"].map(len) == 0)
    edge = sure & ~inside
    count(name, "within 1e-2 %, inside the box", 100 * away[inside] < PERCENT, 0.95)
    count(name, "within 5 % of theirs, at a bound", (away / cells[published])[edge] < EDGE, 0.85)
    return sure


def count(name, label, agrees, share):
    """Record how many cells agree; at least `share` of them must."""
    row = record_row(
        f"colpret reference_{name}",
        f"cells {label}",
        agrees.sum(),
        len(agrees),
        (1 - share) * len(agrees),
    )
    assert row.within


def grid(folder, curves, name, rules):
    """Every cell of a reference table, theirs (suffix _ref) beside ours."""
    theirs = reference(folder, name)
    points = curves[curves["family"].isin(theirs["scaled_set"])]
    order = {f: small_models(t, rules.cut) for f, t in points.groupby("family")}
    sets = {
        f: [order[f][:k] for k in t["num_models"].unique()] for f, t in theirs.groupby("scaled_set")
    }
    ours = backtest(points, sets=sets, fractions=theirs["percentage"].unique(), rules=rules).table()
    keys = ["family", "fraction", "num_models"]
    cells = theirs.merge(
        ours,
        left_on=["scaled_set", "percentage", "num_models"],
        right_on=keys,
        suffixes=("_ref", ""),
    )
    assert len(cells) == len(theirs) == 620
    assert (cells["n_train"] == cells["n_train_ref"]).all() and (
        cells["n_test"] == cells["n_test_ref"]
    ).all()
    return cells


@pytest.mark.slow
@pytest.mark.parametrize("name, cut", [("hist", True), ("hist_nocut", False)])
def test_published_colpret_every_cell(folder, curves, name, cut):
    cells = grid(folder, curves, name, CUT[cut])
    assert compare(name, cells, "are", "are_ref").sum() > 300
    if cut:
        best = reference(folder, "best").set_index(["scaled_set", "percentage", "num_models"])[
            "are"
        ]
        theirs = best.loc[
            list(zip(cells["scaled_set"], cells["percentage"], cells["num_models"]))
        ].to_numpy()
        have = ~np.isnan(theirs)
        agree = (100 * np.abs(cells["best_seen"].to_numpy() - theirs)[have] < PERCENT).sum()
        assert record_row(
            "colpret reference_best", "cells within 1e-2 %", agree, have.sum(), 0
        ).within


@pytest.mark.slow
@pytest.mark.parametrize("name, cut", [("hist", 1e10), ("hist_nocut", 0.0)])
def test_published_colpret_every_cell_in_reference_mode(folder, curves, name, cut):
    cells = grid(folder, curves, name, dataclasses.replace(REFERENCE, cut=cut))
    agrees = 100 * (cells["are"] - cells["are_ref"]).abs() < PERCENT
    published, identified = cells["are_ref"].notna(), cells["identified"]
    label = "within 1e-2 %, reference mode, "
    count(name, label + "identified", agrees[published & identified], 0.98)
    # ties, where SciPy's end point depends on rounding: 93 and 73 of 260 and 266 on one machine,
    # 98 and 71 on another
    count(name, label + "not identified", agrees[published & ~identified], 0.2)


@pytest.mark.slow
def test_published_colpret_every_borrowed_cell(folder, curves):
    table = reference(folder, "one")
    # the others learn from the hidden rows as well
    table = table[table["train_model"] != table["target"]]
    sets = {f: [[m] for m in t["train_model"].unique()] for f, t in table.groupby("scaled_set")}
    points = curves[curves["family"].isin(table["scaled_set"])]
    rules = Rules(cut=1e10, borrow=BORROWED)
    ours = backtest(points, sets=sets, fractions=table["percentage"].unique(), rules=rules).table()
    ours["train_model"] = ours["models"].str[0]
    keys = ["family", "fraction", "train_model"]
    cells = table.merge(
        ours,
        left_on=["scaled_set", "percentage", "train_model"],
        right_on=keys,
        suffixes=("_ref", ""),
    )
    assert len(cells) == len(table) and (cells["n_train"] == cells["n_train_ref"]).all()
    assert compare("one", cells, "are", "are_ref").sum() > 700
