"""Back-tests on synthetic families whose law is known: what is hidden, what trains, what is
refused, what is weighed.
"""

import numpy as np
import pandas as pd
import pytest

from stepladder.analysis.decide.backtest.backtest import Backtest, backtest, choose
from stepladder.analysis.decide.backtest.error_map import cheapest, error_map
from stepladder.analysis.decide.backtest.fitting import LAW, Block, params_of
from stepladder.analysis.decide.backtest.rules import REFERENCE, SETS, Rules
from stepladder.analysis.figures.error_map import draw
from stepladder.analysis.figures.style import svg
from stepladder.analysis.fit.exponent_grid import starts_from_grid
from stepladder.analysis.fit.reference import BORROWED, reference_fit, reference_predict
from stepladder.analysis.laws import LAWS
from stepladder.configs.core.errors import UserError

TRUE = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}
SIZES = (1e7, 3e7, 1e8, 3e8, 1e9)
TOKENS = np.linspace(1e9, 2e10, 20)


def law(n, d, p=TRUE):
    return p["E"] + p["A"] / n ** p["alpha"] + p["B"] / d ** p["beta"]


def family(sizes=SIZES, tokens=TOKENS, noise=0.0, name=None):
    rows = [
        {"model": f"m{n:.0e}", "N": n, "D": d, "loss": law(n, d)} for n in sizes for d in tokens
    ]
    table = pd.DataFrame(rows)
    table["loss"] *= np.exp(noise * np.random.default_rng(0).standard_normal(len(table)))
    return table.assign(family=name) if name else table


def only(found: Backtest):
    (cell,) = found.cells
    return cell


@pytest.mark.parametrize("objective", ["squared", "squared_log", "huber_log"])
def test_an_exact_law_is_forecast_exactly(objective):
    cell = only(backtest(family(), rules=Rules(objective=objective)))
    assert cell.identified and cell.reason == "" and cell.are < 1e-6 and abs(cell.last) < 1e-6
    assert cell.params == pytest.approx(TRUE, rel=1e-3)
    assert (cell.sizes, cell.target, cell.n_test) == (
        4,
        "m1e+09",
        int((TOKENS >= 0.7 * 2e10).sum()),
    )
    assert cell.best_seen > 0.01 and cell.power_law > 0.001


def test_cut_fraction_and_strictness_choose_the_rows():
    points, tenth = family(), TOKENS.max() / 10

    def rows(**rules):
        return only(backtest(points, fractions=[rules.pop("p", 1.0)], rules=Rules(**rules))).n_train

    assert rows() == 4 * 19  # strict: the rows at T are dropped
    assert rows(strict=False) == 4 * 20
    assert rows(cut=tenth, strict=False) == 4 * 18  # a row at exactly the cut is dropped
    assert rows(cut_share=0.1, strict=False) == 4 * 18  # a tenth of the longest training run
    assert rows(p=0.5) == 4 * 9
    cell = only(backtest(points, rules=Rules(cut=1.9e10, unidentified="report")))
    assert cell.n_test == 7 and cell.n_train == 0  # the cut never touches hidden rows


def test_pooled_and_own_last_tokens():
    points = family()
    # the smallest model was trained for less than half as long
    points = points[(points["N"] > 2e7) | (points["D"] < 1e10)]
    short = points["N"] == 1e7
    rows = {
        pool: only(backtest(points, fractions=[0.5], rules=Rules(pool=pool))).n_train
        for pool in ("selected", "own")
    }
    assert rows["selected"] == (points["N"] < 1e9).sum() - 3 * 11
    assert (
        rows["own"]
        == rows["selected"] - (points[short]["D"] >= 0.5 * points[short]["D"].max()).sum()
    )


def test_two_sizes_are_refused_unless_asked():
    points = family(noise=0.002)
    cell = backtest(points, sets="smallest").cells[0]
    assert (
        not cell.identified
        and "2 sizes" in cell.reason
        and np.isnan(cell.are)
        and cell.params == {}
    )
    assert np.isfinite(cell.best_seen) and cell.flops > 0  # the baselines need no law
    told = backtest(points, sets="smallest", rules=Rules(unidentified="report")).cells[0]
    assert not told.identified and np.isfinite(told.are)
    assert "token counts" in backtest(points[points["D"] > 1.85e10]).cells[0].reason
    assert np.isnan(only(backtest(points, rules=Rules(cut=1e12))).are)


def test_cost_counts_every_model_once():
    cell = only(backtest(family(), fractions=[0.5]))
    assert cell.flops == pytest.approx(6 * sum(SIZES[:4]) * TOKENS[TOKENS < 1e10].max())


def test_sets_of_models():
    models = [("a", 1.0), ("b", 2.0), ("c", 2.0), ("d", 3.0), ("e", 4.0)]
    assert SETS["all"](models) == [("a", "b", "c", "d", "e")]
    assert [len(s) for s in SETS["smallest"](models)] == [2, 3, 4, 5]
    # three sizes; both models of a size
    assert SETS["window3"](models) == [("a", "b", "c", "d"), ("b", "c", "d", "e")]
    assert SETS["one"](models)[2] == ("c",)
    with pytest.raises(UserError, match="no model of family"):
        backtest(family(), sets=[["m1e+07", "nobody"]])


def test_weights_repeat_rows():
    points = family(noise=0.01)
    one = only(backtest(points, rules=Rules(weights="models")))
    same = only(backtest(points))
    assert one.are == pytest.approx(same.are, rel=1e-6)  # equally many rows a model: the same fit
    points = family(noise=0.01, tokens=np.append(TOKENS[:18], 2e10))
    sparse = points[(points["N"] != 1e7) | (points.index % 3 == 0)]  # 6 training rows instead of 18
    tripled = pd.concat([sparse, *[sparse[sparse["N"] == 1e7]] * 2])
    assert only(backtest(sparse, rules=Rules(weights="models"))).are == pytest.approx(
        only(backtest(tripled)).are, rel=1e-5
    )
    assert only(backtest(sparse, rules=Rules(weights="models"))).are != pytest.approx(
        only(backtest(sparse)).are, rel=1e-5
    )
    assert only(backtest(points, rules=Rules(weights="tokens"))).are != pytest.approx(
        only(backtest(points)).are, rel=1e-5
    )


def test_borrowed_parameters_forecast_from_one_model():
    cells = backtest(family(), sets="one", rules=Rules(borrow=(TRUE["A"], TRUE["alpha"]))).cells
    assert len(cells) == 4 and all(c.identified and c.are < 1e-5 for c in cells)
    assert cells[0].params == pytest.approx(TRUE, rel=1e-3)
    assert all(c.reason.startswith("1 sizes") for c in backtest(family(), sets="one").cells)
    with pytest.raises(UserError, match="loss units"):
        backtest(family(), sets="one", rules=Rules(borrow=(1.0, 0.3), objective="huber_log"))


def test_other_ways_to_hide():
    points = family()
    own = only(backtest(points, rules=Rules(hide="own_end")))
    assert own.sizes == 5 and own.models[-1] == "m1e+09" and own.are < 1e-6
    assert own.n_train == 4 * 19 + (TOKENS < 0.3 * 2e10).sum()
    points = pd.concat(
        [
            points,
            pd.DataFrame(
                [{"model": "long", "N": 1e7, "D": d, "loss": law(1e7, d)} for d in TOKENS * 5]
            ),
        ]
    )
    long = only(backtest(points, rules=Rules(hide="longest")))
    assert long.target == "long" and long.sizes == 5 and long.are < 1e-6


def test_baselines():
    points = family()
    cell = only(backtest(points, rules=Rules(strict=False)))
    train, hidden = (
        points[points["N"] < 1e9],
        points[(points["N"] == 1e9) & (points["D"] >= 1.4e10)],
    )

    def are(forecast):
        return np.mean(np.abs(forecast - hidden["loss"]) / hidden["loss"])

    assert cell.best_seen == pytest.approx(are(train["loss"].min()))
    compute = train["N"] * train["D"]
    assert cell.most_compute == pytest.approx(are(train["loss"][compute.idxmax()]))
    slope, level = np.polyfit(np.log(compute), np.log(train["loss"]), 1)
    assert cell.power_law == pytest.approx(
        are(np.exp(level + slope * np.log(hidden["N"] * hidden["D"])))
    )


def test_families_do_not_touch_each_other():
    points = family(noise=0.01)
    other = family(sizes=(2e7, 6e7, 2e8, 6e8), tokens=TOKENS[::4], name="other")
    alone = only(backtest(points))
    both = backtest(pd.concat([points.assign(family="one"), other]))
    assert [c.family for c in both.cells] == ["one", "other"]
    assert both.cells[0].are == pytest.approx(alone.are, rel=1e-6) and both.cells[1].are < 1e-6
    assert len(both.table()) == 2 and {"num_models", "alpha", "are"} <= set(both.table())


@pytest.mark.slow
def test_the_cut_is_chosen_without_the_target():
    points = family(tokens=np.linspace(1e8, 2e10, 60))
    early = points["D"] < 2e9
    # warm-up: not on the law
    points.loc[early, "loss"] *= 1 + 0.3 * (2e9 - points["D"][early]) / 2e9
    candidates = [Rules(cut=c) for c in (0.0, 5e8, 2e9)]
    rules, errors = choose(points, candidates)
    assert rules.cut == 2e9 and errors[2] < errors[0]
    spoiled = points.assign(loss=points["loss"].where(points["N"] < 1e9, 7.0))
    assert choose(spoiled, candidates) == (rules, errors)
    assert choose(points)[0].cut_share in (0.1, 0.2, 0.3, 0.5)  # the default candidates
    # two sizes are left to train on
    nothing, errors = choose(points[points["N"] < 2e8], candidates)
    assert nothing == candidates[0] and np.isnan(errors).all()


def test_parameters_of_a_fit_that_wandered_off_are_right_or_infinite():
    """A = e^6 at alpha = 60, where its term at the centre of the points is e^-1074; B = e^1500."""
    block = Block(np.zeros((0, 2)), np.zeros(0), np.zeros((0, 0)), np.array([18.0, 24.0]), 2.0)
    theta = np.array([0.0, 6.0 - 60 * 18, 1500 - 50 * 24, np.log(60.0), np.log(50.0)])
    found = params_of(theta, block)
    want = {"E": 2.0, "A": 2 * np.exp(6.0), "B": np.inf, "alpha": 60.0, "beta": 50.0}
    assert found == pytest.approx(want, rel=1e-12)


def test_parameters_of_a_bounded_fit_are_the_laws():
    block = Block(np.zeros((0, 2)), np.zeros(0), np.zeros((0, 0)), np.array([18.0, 24.0]), 2.0)
    theta = np.log([0.6, 0.3, 0.2, 0.35, 0.28])
    law = LAWS[LAW].to_data_units(theta, block.centre, block.scale)
    assert params_of(theta, block) == pytest.approx(law, rel=1e-12)


def test_reference_mode_agrees_where_the_law_is_identified():
    points = family(noise=0.003)
    assert only(backtest(points, rules=Rules(fitter="reference"))).are == pytest.approx(
        only(backtest(points)).are, abs=1e-5
    )
    rows = points[points["N"] < 1e9]
    params = reference_fit(*(rows[c].to_numpy() for c in ("N", "D", "loss")))
    np.testing.assert_allclose(reference_predict(params, 1e9, 2e10), law(1e9, 2e10), rtol=0.01)
    assert reference_fit(np.array([]), np.array([]), np.array([])) is None
    cells = backtest(
        points, sets="smallest", rules=Rules(fitter="reference", unidentified="report")
    ).cells
    assert [c.identified for c in cells] == [False, True, True] and np.isfinite(cells[0].are)
    assert REFERENCE.cut == 1e10 and BORROWED[1] == 0.3526596
    with pytest.raises(UserError, match="use 'batched'"):
        backtest(points, rules=Rules(fitter="reference", weights="models"))


def test_starts_are_near_the_optimum():
    points = family()
    x = np.log(points[["N", "D"]].to_numpy())
    centre = x.mean(0)
    starts = starts_from_grid(x - centre, points["loss"].to_numpy(), np.ones((2, len(points))))
    assert starts.shape == (2, 3, 5)
    np.testing.assert_allclose(np.exp(starts[:, 0, 3:]), [[0.34, 0.28]] * 2, rtol=0.25)


def test_map_and_its_cheapest_cells():
    found = error_map(family(noise=0.005), fractions=(0.5, 1.0))
    assert (
        found.are.shape == (3, 2)
        and np.isnan(found.are[0]).all()
        and found.rows == ("2 smallest", "3 smallest", "4 smallest")
    )
    first = found.cheapest.iloc[0]
    good = found.cells[found.cells["are"] < 0.04]
    assert (
        first["flops"] == good["flops"].min()
        and first["are"] < 0.04
        and 0 < first["share"] <= 1
        and 0 < first["steady"] <= 1
    )
    assert cheapest(found.cells, [1e-9]).iloc[0].isna().sum() == 7
    text = svg(draw(found, "A map"), "map")
    assert text.startswith("<svg") and len(text) < 100_000
    windows = error_map(family(), sets="window3", fractions=(1.0,))
    assert windows.rows == ("10M to 100M", "30M to 300M")
    with pytest.raises(UserError, match="ordered sets"):
        error_map(family(), sets="one")
    with pytest.raises(UserError, match="2 families"):
        error_map(pd.concat([family(name="a"), family(name="b")]))


@pytest.mark.parametrize(
    "change, rules, message",
    [
        (lambda t: t.drop(columns="model"), {}, "column 'model'"),
        (lambda t: t.assign(loss=-t["loss"]), {}, "row 0"),
        (lambda t: t.assign(model=t["model"].where(t.index != 1)), {}, "column 'model'.*row 1"),
        (lambda t: t, {"hide": "target"}, "hide='target'.*did you mean 'target_end'"),
        (lambda t: t, {"weights": "model"}, "weights='model'"),
        (lambda t: t, {"objective": "mse"}, "objective='mse'"),
        (lambda t: t, {"known": 0.9}, "hidden rows would be seen"),
    ],
)
def test_bad_tables_and_rules_are_refused_in_one_line(change, rules, message):
    with pytest.raises(UserError, match=message) as caught:
        backtest(change(family()), rules=Rules(**rules))
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="sets: 'al' is not among them; did you mean 'all'"):
        backtest(family(), sets="al")
