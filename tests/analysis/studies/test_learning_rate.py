"""The learning-rate study: sensitivity, drift, divergence, laws near the best, from losses whose
truth is known.
"""

import math

import numpy as np
import pandas as pd
import pytest

from stepladder.analysis.studies.learning_rate.curves import curves
from stepladder.analysis.studies.learning_rate.divergence import boundaries, boundary_law
from stepladder.analysis.studies.learning_rate.drift import compare, drifts
from stepladder.analysis.studies.learning_rate.points import rate_points
from stepladder.analysis.studies.learning_rate.rule import near_best
from stepladder.analysis.studies.learning_rate.sensitivity import sensitivity, sensitivity_of
from stepladder.configs.core.errors import UserError
from tests.support.synthetic_learning_rates import ladder

# --- Sensitivity, 2309.14322


def test_sensitivity_of_three_losses():
    assert sensitivity(np.array([4.5, 4.0, 9.0]), 7.0) == pytest.approx(3.5 / 3)
    # diverged: worth the initial loss
    assert sensitivity(np.array([4.5, 4.0, np.nan]), 7.0) == pytest.approx(3.5 / 3)
    assert sensitivity(np.array([4.5, 4.0, np.inf]), 7.0) == pytest.approx(3.5 / 3)


def three(losses, **more):
    rates = {
        "N": 1e6,
        "D": 2e7,
        "lr": [1e-3, 1e-2, 1e-1],
        "loss": losses,
        "run_id": ["a", "b", "c"],
    }
    return rate_points(pd.DataFrame(rates).assign(**more)).groups()[0]


def test_a_diverged_run_counts_as_the_initial_loss_and_is_said():
    found = sensitivity_of(three([4.5, 4.0, math.inf], initial_loss=7.0), 0.01)
    assert (
        found.value == pytest.approx(3.5 / 3)
        and found.diverged == 1
        and found.initial_source == "measured at initialisation"
    )
    assert found.low < found.value < found.high
    assert found.rates == (1e-3, 1e-1, 3)


def test_the_initial_loss_is_the_log_of_the_vocabulary_or_refused():
    found = sensitivity_of(three([4.5, 4.0, 9.0], vocab_size=512), 0.01)
    assert (
        found.initial_loss == pytest.approx(math.log(512))
        and found.initial_source == "ln(vocabulary)"
    )
    assert "add a column initial_loss" in sensitivity_of(three([4.5, 4.0, 9.0]), 0.01).refused
    lost = three([math.inf] * 3, vocab_size=512)
    assert "every run diverged" in sensitivity_of(lost, 0.01).refused
    assert sensitivity_of(three([4.5, 4.0, 9.0], vocab_size=512), None).low is None


def test_the_sensitivity_interval_covers():
    rates, truth = np.geomspace(1e-4, 1e-1, 7), np.array([3.4, 3.2, 3.05, 3.0, 3.1, 3.5, 6.0])
    want, rng, hits = sensitivity(truth, 6.2), np.random.default_rng(0), []
    for k in range(120):
        losses = truth[:, None] + 0.05 * rng.standard_normal((7, 3))
        table = pd.DataFrame(
            {
                "N": 1e6,
                "D": 2e7,
                "lr": np.repeat(rates, 3),
                "loss": losses.ravel(),
                "seed": [0, 1, 2] * 7,
                "initial_loss": 6.2,
            }
        )
        found = sensitivity_of(
            rate_points(table).groups()[0], math.sqrt(losses.var(1, ddof=1).mean()), seed=k
        )
        hits.append(found.low <= want <= found.high)
    assert 0.78 <= np.mean(hits) <= 0.98


# --- Drift


def test_the_drift_of_each_parametrisation_and_their_order():
    found, notes = drifts(curves(ladder({"mup": 0.0, "standard": -0.8}))[0], "width")
    slopes = {d.parametrization: d for d in found}
    assert (
        notes == ()
        and slopes["mup"].slope[0] == pytest.approx(0, abs=0.1)
        and slopes["standard"].slope[0] == pytest.approx(-0.8, abs=0.1)
    )
    for d in found:
        assert (
            d.slope[1] < d.slope[0] < d.slope[2]
            and d.factor[0] == pytest.approx(8 ** d.slope[0])
            and d.span == pytest.approx((64, 512))
        )
    assert slopes["mup"].factor[1] < 1 < slopes["mup"].factor[2]
    (answer,) = compare(found)
    assert answer.probability > 0.99 and answer.verdict.startswith(
        "mup drifts less than standard with width"
    )
    assert answer.less[1] > 0.3


def test_equal_drifts_are_not_settled():
    (answer,) = compare(
        drifts(curves(ladder({"mup": -0.4, "standard": -0.4}, noise=0.003))[0], "width")[0]
    )
    assert (
        answer.verdict.startswith("not settled whether mup drifts less")
        and answer.less[1] < 0 < answer.less[2]
    )


def test_the_wrong_way_round_is_said():
    (answer,) = compare(drifts(curves(ladder({"mup": -0.8, "standard": 0.0}))[0], "width")[0])
    assert answer.probability < 0.01 and answer.verdict.startswith("standard drifts less than mup")


def test_two_recipes_are_compared_one_by_one_and_together():
    found = compare(
        drifts(
            curves(ladder({"mup": 0.0, "standard": -0.8}, recipes=("code", "prose")))[0], "width"
        )[0]
    )
    assert [c.recipe for c in found] == ["code", "prose", "mean of 2 recipes"]
    assert found[2].less[2] - found[2].less[1] < max(c.less[2] - c.less[1] for c in found[:2])


def test_the_drift_interval_covers():
    hits = []
    for k in range(40):
        (found,), _ = drifts(
            curves(
                ladder(
                    {"standard": -0.5}, noise=0.006, seeds=2, seed=k, widths=(64, 90, 128, 180, 256)
                ),
                seed=k,
            )[0],
            "width",
        )
        hits.append(found.slope[1] <= -0.5 <= found.slope[2])
    assert np.mean(hits) >= 0.78


def test_one_width_has_no_drift_and_says_what_to_add():
    found, notes = drifts(curves(ladder({"mup": 0.0}, widths=(64,)))[0], "width")
    assert found == [] and "a drift needs two; add sizes" in notes[0]
    with pytest.raises(UserError, match="axis='breadth'"):
        drifts([], "breadth")


def test_d_is_held_where_it_moves_on_its_own():
    rows = [
        ladder({"": -0.6}, noise=1e-4).assign(D=d, lr=lambda t, d=d: t["lr"] * (d / 1e7) ** 0.3)
        for d in (1e7, 1e8)
    ]
    for part in rows:
        part["size"] = part["size"] + "x"
    (with_n,), _ = drifts(curves(pd.concat(rows, ignore_index=True))[0], "N")
    assert (
        with_n.held == ("D",)
        and with_n.slope[0] == pytest.approx(-0.3, abs=0.03)
        and with_n.held_slope == pytest.approx(0.3, abs=0.03)
    )


# --- Divergence


def test_the_boundary_is_bracketed_with_its_seeds():
    for b in boundaries(rate_points(ladder({"standard": -0.6}))):
        truth = 10 * 4e-3 * (b.settings["width"] / 64) ** -0.6
        assert (
            b.survives <= truth < b.diverges
            and b.lost == (2, 2)
            and b.survivors == 2
            and not b.note
        )


def test_the_boundary_law_recovers_its_exponent():
    law = boundary_law(boundaries(rate_points(ladder({"standard": -0.6}))))
    assert (
        law.brackets == 4
        and law.a[0] == pytest.approx(-0.3, abs=0.12)
        and law.a[1] <= -0.3 <= law.a[2]
    )
    assert (
        law.at(48 * 64**2) == pytest.approx(0.04, rel=0.5)
        and law.rate[1] < law.rate[0] < law.rate[2]
    )
    with pytest.raises(UserError, match="brackets=2 of 2 sizes"):
        boundary_law(boundaries(rate_points(ladder({"standard": -0.6}, widths=(64, 128)))))


def bracket(losses, **more):
    table = pd.DataFrame(
        {"N": 1e6, "D": 2e7, "lr": [1e-3, 2e-3, 4e-3, 8e-3], "loss": losses, "run_id": list("abcd")}
    )
    (found,) = boundaries(rate_points(table.assign(**more)))
    return found


def test_what_counts_as_broken():
    assert (
        bracket([3.1, 3.0, 3.2, 3.3]).diverges is None
        and "add larger rates" in bracket([3.1, 3.0, 3.2, 3.3]).note
    )
    assert bracket([3.1, 3.0, 3.2, 6.0]).diverges == 8e-3  # a nat above the lowest
    assert bracket([3.1, 3.0, 3.6, 3.3], initial_loss=3.5).mixed == (8e-3,)
    assert "add smaller rates" in bracket([math.inf, 3.0, 3.2, 3.3]).note


# --- Laws near the best


def grid(a=-0.7, b=0.3, g=0.5, noise=2e-4):
    rng, rows = np.random.default_rng(0), []
    for n in (1e8, 3e8, 1e9):
        for d in (2e9, 1e10, 5e10):
            lr, batch = (
                1.8 * n**a * d**b * 2.0 ** rng.uniform(-0.3, 0.3),
                d**g / 1000 * 2.0 ** rng.uniform(-0.3, 0.3),
            )  # grids never meet the optimum
            for i in range(-3, 4):
                for j in range(-2, 3):
                    x, z = 2.0 ** (i / 1.5), 2.0 ** (j / 1.5)
                    loss = (
                        2
                        + (4e8 / n) ** 0.3
                        + 0.01 * math.log(lr * x / (1.8 * n**a * d**b)) ** 2
                        + 0.01 * math.log(batch * z * 1000 / d**g) ** 2
                        + noise * rng.standard_normal()
                    )
                    rows.append(
                        {"N": n, "D": d, "lr": lr * x, "bs": round(batch * z), "loss": loss}
                    )
    return pd.DataFrame(rows)


@pytest.mark.parametrize("resample", ["cells", "rows"])
def test_laws_near_the_best_recover_both_exponents(resample):
    found = near_best(rate_points(grid().assign(seq_len=2048)), resample=resample, draws=300)
    assert found.cells == 9 and found.batch_unit == "tokens"
    for span, truth in ((found.rate["a"], -0.7), (found.rate["b"], 0.3), (found.batch["b"], 0.5)):
        assert span[1] <= truth <= span[2] and span[0] == pytest.approx(truth, abs=0.08)
    assert found.batch["ln c"][0] == pytest.approx(math.log(2.048), abs=0.1)


def test_laws_near_the_best_refuse_what_they_cannot_tell():
    with pytest.raises(UserError, match="cells=1"):
        near_best(rate_points(grid().query("N == 1e8 and D == 2e9")))
    tied = pd.concat(
        [grid().query("N == 1e8 and D == 2e9").assign(N=n, D=20 * n) for n in (1e7, 1e8, 1e9, 1e10)]
    )
    with pytest.raises(UserError, match="cannot be told apart"):
        near_best(rate_points(tied))
    with pytest.raises(UserError, match="resample='columns'"):
        near_best(rate_points(grid()), resample="columns")


# --- Anyone's table


def test_every_excluded_row_is_listed_with_its_reason():
    table = pd.DataFrame(
        {
            "params": [1e6] * 7,
            "tokens": [2e7] * 6 + [0],
            "peak_lr": [1e-3, 2e-3, 4e-3, -1, 1e-3, 2e-3, 4e-3],
            "val_loss": [3.1, 3.0, np.nan, 3.0, 3.1, "x", 3.0],
        }
    )
    points = rate_points(table)
    assert len(points.frame) == 2 and len(points.excluded) == 5
    said = dict(zip(points.excluded["run_id"], points.excluded["reason"]))
    assert (
        "say so in a column `diverged`" in said["row 2"] and "learning_rate is -1" in said["row 3"]
    )
    assert (
        "duplicate" in said["row 4"] and "loss is x" in said["row 5"] and "D is 0" in said["row 6"]
    )


def test_divergence_is_told_by_state_column_or_infinity():
    base = {"N": 1e6, "D": 2e7, "lr": [1e-3, 2e-3]}
    for more in (
        {"loss": [3.0, np.nan], "state": ["done", "diverged"]},
        {"loss": [3.0, 9.0], "diverged": ["no", "Yes"]},
        {"loss": [3.0, np.inf]},
    ):
        frame = rate_points(pd.DataFrame(base | more)).frame
        assert frame["diverged"].tolist() == [False, True] and np.isnan(frame["loss"].iloc[1])
    with pytest.raises(UserError, match="column 'diverged'='perhaps'"):
        rate_points(pd.DataFrame(base | {"loss": [3.0, 3.1], "diverged": ["perhaps", "no"]}))


@pytest.mark.parametrize(
    "table, said",
    [
        ({"N": [1.0], "D": [1.0], "loss": [3.0]}, "no column of learning_rate"),
        (
            {"N": [1.0], "D": [1.0], "lr": [1.0], "peak_lr": [1.0], "loss": [3.0]},
            "could both be learning_rate",
        ),
        ({"N": [1.0], "D": [1.0], "lr": [1.0], "loss": [np.nan]}, "no row is left"),
    ],
)
def test_tables_that_cannot_be_read(table, said):
    with pytest.raises(UserError, match=said):
        rate_points(pd.DataFrame(table))
