"""The parts of the study on examples whose answer is known."""

import numpy as np
import pandas as pd
import pytest

from stepladder.analysis.studies.overtraining.measures.cells import (
    DRAWS,
    NONE,
    POOLED,
    SEEDS,
    WINDOWS,
    Sample,
    cell_estimate,
    grids,
)
from stepladder.analysis.studies.overtraining.measures.inflection import (
    ABSENT,
    FOUND,
    SHORT,
    UNKNOWN,
    inflection_rows,
    rule_row,
)
from stepladder.analysis.studies.overtraining.measures.kendall import tau
from stepladder.analysis.studies.overtraining.measures.matched import matched, matched_rows
from stepladder.analysis.studies.overtraining.measures.tuning import (
    rate_rows,
    slope_rows,
    trend,
    tuned_rows,
)
from stepladder.analysis.studies.overtraining.read_table import check_table
from tests.support import synthetic_overtraining as made

SAMPLE = Sample(400, 0.95, 0)


def grid_of(table: pd.DataFrame):
    (found,) = grids(check_table(table).frame)
    return found


def test_tau_is_scipys():
    from scipy.stats import kendalltau

    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 4, (20, 7)), rng.integers(0, 5, (20, 7))
    np.testing.assert_allclose(tau(x, y), [kendalltau(a, b).statistic for a, b in zip(x, y)])
    assert tau(np.array([1.0, 2, 3]), np.array([np.inf, np.inf, 1])) < 0
    assert tau(np.arange(3), np.ones(3)) == 0
    assert np.isnan(tau(np.array([1.0]), np.array([2.0])))


@pytest.mark.parametrize(
    ("seeds", "draws", "how"), [(3, 1, SEEDS), (2, 3, POOLED), (1, 3, DRAWS), (1, 1, NONE)]
)
def test_what_an_interval_comes_from(seeds, draws, how):
    grid = grid_of(made.noise(sizes=(2e4,), seeds=seeds, draws=draws))
    found = grid.measured["delta"]
    assert set(found.how.ravel()) == {how}
    estimate = cell_estimate(found, 0, 0, 0.95)
    assert np.isfinite(estimate.low) == (how != NONE)


def test_a_budget_of_one_seed_borrows_the_noise_of_the_others():
    table = made.noise(sizes=(2e4,), gammas=(0.1,), seeds=3, draws=1)
    middle = (table["D"] == 2e4 * 180) & (table["seed"] > 0)
    found = grid_of(table[~middle]).measured["delta"]
    assert list(found.how[:, 0]) == [SEEDS, SEEDS, POOLED, SEEDS, SEEDS]
    assert found.freedom[2, 0] == 8 and found.se[2, 0] > 0


def test_without_seeds_or_draws_the_windows_of_the_evaluation_are_an_error_of_the_loss_alone():
    table = made.noise(sizes=(2e4,), seeds=1, draws=1).assign(loss_se=0.01)
    found = grid_of(table)
    assert set(found.measured["loss"].how.ravel()) == {WINDOWS}
    assert (found.measured["loss"].se == 0.01).all()
    assert set(found.measured["delta"].how.ravel()) == {NONE}


def test_intervals_of_cells_hold_the_truth_as_often_as_they_say():
    """Of 400 cells, whose luck is shared within a model, 95 % intervals hold about 95 %."""
    table = made.noise(sizes=(2e4,), gammas=tuple(np.geomspace(0.01, 0.2, 80)), seeds=3, draws=1)
    grid = grid_of(table)
    inside = 0
    for i, d in enumerate(grid.D):
        for j, gamma in enumerate(grid.strengths):
            found = cell_estimate(grid.measured["delta"], i, j, 0.95)
            inside += found.low <= made.delta(2e4, d, gamma) <= found.high
    assert 0.85 < inside / (len(grid.D) * len(grid.strengths)) < 1


D = np.array([1.0, 2.0, 4.0, 8.0])


def row_of(mean, se):
    mean, se = np.asarray(mean, float), np.broadcast_to(np.asarray(se, float), (len(mean),))
    rng = np.random.default_rng(0)
    draws = mean + np.nan_to_num(se) * rng.standard_normal((2000, len(mean)))
    return rule_row(D[: len(mean)], mean, se, draws, SAMPLE)


@pytest.mark.parametrize(
    ("mean", "se", "state"),
    [
        ([3, 2, 2.5, 3], 0.01, FOUND),
        # 0.02 above the lowest: 1.4 standard errors of the difference of two means
        ([3, 2, 2.01, 2.02], 0.01, ABSENT),
        ([3, 2, 2.01, 2.03], 0.01, FOUND),  # 2.1 of them
        ([4, 3, 2, 1], 0.01, ABSENT),
        ([1, 2, 3, 4], 0.01, FOUND),
        ([3, 2, 2.5, 3], np.nan, UNKNOWN),
        ([4, 3, 2, 1], np.nan, ABSENT),
        ([3, 2], 0.01, SHORT),
    ],
)
def test_the_rule_of_two_standard_errors(mean, se, state):
    row = row_of(mean, se)
    assert row["state"] == state
    assert np.isfinite(row["T_star"]) == (state == FOUND)
    if state == FOUND:
        assert row["T_star_low"] <= row["T_star"] <= row["T_star_high"]


def test_noise_between_two_minima_widens_the_interval_of_the_inflection():
    row = row_of([3, 2.0, 2.001, 2.5], 0.01)
    assert (row["T_star"], row["T_star_low"], row["T_star_high"]) == (2, 2, 4)
    assert row["share"] == 1


def test_the_rule_declares_nothing_on_flat_noise():
    """Four equal budgets: declared on few of 200 tables, though one of them is always lowest."""
    rng = np.random.default_rng(1)
    rows = [row_of(2 + 0.01 * rng.standard_normal(4), 0.01) for _ in range(200)]
    assert sum(r["state"] == FOUND and r["share"] > 0.95 for r in rows) < 10


def test_a_known_u_shape_has_its_minimum_where_it_is():
    table = made.noise(gammas=(0.08, 0.16), seeds=2, draws=3)
    cells = grids(check_table(table).frame)
    rows = inflection_rows(cells, SAMPLE)
    assert len(rows) == 6
    for row in rows:
        truth = made.inflection(row["N"], row["strength"])
        budgets = row["N"] * np.array(made.RATIOS)
        losses = made.base(row["N"], budgets) + made.delta(row["N"], budgets, row["strength"])
        best = budgets[losses.argmin()]
        if best < budgets[-1]:
            assert (row["state"], row["T_star"]) == (FOUND, best)
            assert row["T_star_low"] / 3 <= truth <= row["T_star_high"] * 3
            assert row["tokens_per_parameter"] == pytest.approx(best / row["N"])
        else:
            assert row["state"] == ABSENT


def test_matched_loss_of_an_example_worked_by_hand():
    # two budgets, three rates; the second reaches 1.0 at best, so tau = 1.0
    task = np.array([[2.0, 1.2, 0.8], [2.0, 1.5, 1.0]])
    loss = np.array([[3.0, 3.1, 3.5], [2.9, 3.0, 3.8]])
    reach, least = matched(task, loss)
    # budget 1 crosses 1.0 half way from 1.2 to 0.8, where its loss is half way from 3.1 to 3.5
    assert reach == 1.0
    np.testing.assert_allclose(least, [3.3, 3.8])


def test_matched_loss_finds_the_low_end_of_a_falling_loss_and_skips_missing_rates():
    task = np.array([[1.0, 0.5, 1.5], [1.0, 1.0, np.nan]])
    loss = np.array([[3.0, 2.0, 1.0], [5.0, 4.0, 9.0]])
    reach, least = matched(task, loss)
    # from 0.5 to 1.5 the task's loss passes 1.0 half way, where the other loss is 1.5
    assert reach == 1.0
    np.testing.assert_allclose(least, [1.5, 4.0])
    np.testing.assert_allclose(matched(task[None], loss[None])[1], [least])


def test_matched_loss_from_rows_agrees_with_the_curves_they_were_made_of():
    fine = tuple(1e-4 * 2.0 ** (k / 4) for k in range(33))
    table = made.finetuned(slope=0, worse=0.1, noise=1e-5, rates=fine)
    rows, (summary,) = matched_rows([grid_of(table)], SAMPLE)
    assert [r["sets_tau"] for r in rows] == [False] * 4 + [True]
    reach = 1 + 0.1 * np.log10(1620 / 20)
    for r in rows:
        assert r["tau"] == pytest.approx(reach, abs=2e-3)
        ratio = r["D"] / r["N"]
        # the lowest rate whose parabola reaches tau
        spare = max(0.0, (reach - 1 - 0.1 * np.log10(ratio / 20)) / 0.1)
        exact = (20 * 1.6e-3 * np.exp(-np.sqrt(spare))) ** 1.5 * ratio**0.3
        assert r["forgetting"] == pytest.approx(exact, rel=0.05)
        assert r["forgetting_low"] <= r["forgetting"] <= r["forgetting_high"]
    assert summary["more_forgetting_low"] > 0


@pytest.mark.parametrize(
    ("slope", "word"), [(0.0, "constant"), (-0.3, "falls slowly"), (-0.8, "falls quickly")]
)
def test_the_slope_of_the_tuned_rate(slope, word):
    first = 1.28e-2 if slope < -0.5 else 3e-3
    grid = grid_of(made.finetuned(slope=slope, first=first, ratios=made.RATIOS[:4]))
    rates = rate_rows([grid], SAMPLE)
    (row,) = slope_rows(rates, SAMPLE)
    assert row["slope_low"] - 0.02 < slope < row["slope_high"] + 0.02
    assert abs(row["slope"] - slope) < 0.05 and row["trend"] == word
    assert row["settled"]


def test_a_trend_whose_interval_crosses_a_line_is_not_settled():
    from stepladder.analysis.studies.overtraining.measures.cells import Estimate

    assert trend(Estimate(-0.2, -0.3, -0.05)) == ("falls slowly", False)
    assert trend(Estimate(0.3, 0.2, 0.4)) == ("rises", True)
    assert trend(Estimate(float("nan"))) == ("unknown", False)
    assert trend(Estimate(-0.2)) == ("falls slowly", False)


def test_a_tuned_rate_at_an_edge_is_an_invalid_point():
    # the smallest rate of the grid, 1e-4, is best from the third budget on
    grid = grid_of(made.finetuned(slope=-1.5, first=3e-3))
    rates = rate_rows([grid], SAMPLE)
    assert [r["valid"] for r in rates] == [True, True, False, False, False]
    assert all("smallest rate tried" in r["why"] for r in rates[2:])
    (slope,) = slope_rows(rates, SAMPLE)
    assert (slope["valid"], slope["budgets"]) == (2, 5)
    assert {r["budgets"] for r in tuned_rows([grid], rates, SAMPLE)} == {2}


def test_a_task_that_gets_worse_at_its_tuned_rate_is_seen_on_the_task():
    grid = grid_of(made.finetuned(worse=0.05))
    rates = rate_rows([grid], SAMPLE)
    rows = {r["of"]: r for r in tuned_rows([grid], rates, SAMPLE)}
    assert rows["tuned_loss"]["state"] == FOUND and rows["tuned_loss"]["share"] > 0.99
    assert rows["tuned_loss"]["T_star"] == grid.D[0]
    assert rows["tuned_loss"]["rise"] == pytest.approx(0.05 * np.log10(81), abs=0.01)
