"""The study on tables from H1: the best split, its cost, and intervals are those of the law."""

import numpy as np
import pandas as pd
import pytest

from stepladder.analysis.decide.split import ALL_GENERAL, ALL_SPECIAL
from stepladder.analysis.studies.split.measures.best_split import ALL
from stepladder.analysis.studies.split.measures.cells import (
    NONE,
    RESIDUALS,
    SEEDS,
    WINDOWS,
    Sample,
    cells_of,
)
from stepladder.analysis.studies.split.measures.comparisons import (
    EARLY_LATE,
    EQUAL_SEPARATE,
    EQUAL_SHARED,
    SPLIT_DENSE,
    arm_rows,
    comparison_rows,
    router_rows,
)
from stepladder.analysis.studies.split.measures.held_out import SHARE, SIZE, TOTAL
from stepladder.analysis.studies.split.measures.laws import LAWS, POOLED, agreement
from stepladder.analysis.studies.split.measures.phonebook import phonebook_rows
from stepladder.analysis.studies.split.read_table import check_table
from stepladder.analysis.studies.split.study import study
from stepladder.analysis.studies.split.verdicts import (
    NOT_SEEN,
    NOT_SETTLED,
    NOT_TESTABLE,
    SEEN,
    below,
    overall,
)
from tests.support import synthetic_split as made
from tests.support.synthetic_split import FEW, NOISE, SMALL

SAMPLE = Sample(400, 0.95, 0)


def cells(noise=NOISE, **options):
    checked = check_table(made.table(noise=noise, **options))
    return cells_of(checked.frame, checked.experts, "shared")


def rows(result, name, **wanted):
    return [r for r in getattr(result.found, name) if all(r[k] == v for k, v in wanted.items())]


def test_the_best_split_is_recovered_with_its_interval(result):
    mine = rows(result, "predicted", law="H1", fit=ALL)
    assert len(mine) == 12
    inside = 0
    for row in mine:
        truth = made.best_share(row["N"], row["T"])
        assert row["s"] == pytest.approx(truth, abs=0.03)
        inside += row["s_low"] - 1e-4 <= truth <= row["s_high"] + 1e-4
    assert inside >= 9


def test_following_h1_costs_next_to_nothing_and_h2_much(result):
    for fit in (ALL, SIZE, TOTAL):
        (one,) = rows(result, "regrets", law="H1", fit=fit)
        (two,) = rows(result, "regrets", law="H2", fit=fit)
        assert one["regret"] < 0.002 and one["right"] == one["curves"]
        assert one["regret_low"] <= one["regret"] <= one["regret_high"] < 0.01
        assert two["regret_low"] > 0.05 and two["right"] == 0
    assert result.found.chosen == "H1"


def test_h2_has_corners_only(result):
    states = {r["state"] for r in rows(result, "predicted", law="H2")}
    assert states <= {ALL_GENERAL, ALL_SPECIAL}
    assert list(result.found.corners) == ["H2"]
    (verdict,) = [v for v in result.verdicts if v["id"] == "d"]
    assert verdict["verdict"] == SEEN and "H2 has no interior split point" in verdict["why"]


def test_the_observed_best_is_next_to_the_true_one(result):
    for row in result.found.observed:
        losses = [made.loss(row["N"], s * row["T"], (1 - s) * row["T"]) for s in made.SHARES]
        assert made.SHARES[int(np.argmin(losses))] in row["near"]
        assert row["s_low"] <= row["s"] <= row["s_high"]
        assert row["interval"] == SEEDS


def test_held_out_errors_are_those_of_the_noise_and_ranked(result):
    for split in (SIZE, TOTAL, SHARE):
        mine = {r["law"]: r for r in rows(result, "law_held_out", held_out=split)}
        assert mine["H1"]["rank"] == 1 and mine["H1"]["first"] == 1
        assert mine["H1"]["rmse"] < 0.01 < 0.05 < mine["H2"]["rmse"]
        assert mine["H1"]["rmse_low"] <= mine["H1"]["rmse"] <= mine["H1"]["rmse_high"]
        assert mine["H2"]["above_best_low"] > 0 > mine["H1"]["above_nearest_high"]


def test_in_sample_numbers_of_every_domain(result):
    of = {r["of"] for r in result.found.law_fits if r["law"] == "H1"}
    assert of == {POOLED, *made.DOMAINS}
    for row in rows(result, "law_fits", law="H1"):
        assert row["r2"] > 0.999 and row["mre"] < 2e-3
        assert row["r2_low"] <= row["r2"] <= row["r2_high"]


def test_agreement_is_what_its_names_say():
    guess, truth = np.array([1.0, 2.2, 2.9]), np.array([1.0, 2.0, 3.0])
    value = {k: float(make(t.sum(0))) for k, (make, t) in agreement(guess, truth).items()}
    assert value["r2"] == pytest.approx(1 - 0.05 / 2)
    assert value["mre"] == pytest.approx((0.1 + 0.1 / 3) / 3)
    assert value["rmse"] == pytest.approx(np.sqrt(0.05 / 3))
    logs = np.abs(np.log(guess / truth))
    assert value["huber"] == pytest.approx((1e-3 * (logs[1:] - 5e-4)).sum() / 3)


def test_allocation_follows_the_law_and_the_closed_forms(result):
    for check in result.found.closed_form:
        assert check["relative_difference"] < 1e-6
    for accounting, k, scale in (
        ("one expert", 1, 1),
        ("shared seed", 3, 1),
        ("separate seeds", 1, 3),
    ):
        for row in rows(result, "allocation", law="H1", accounting=accounting):
            truth = made.best_share(row["N"], row["T"] / scale, k)
            assert row["s"] == pytest.approx(truth, abs=0.04)
            assert row["C"] == 6 * row["N"] * row["T"]
            spent = (row["D"] + k * row["D2"]) * scale
            assert spent == pytest.approx(row["T"])


def test_verdicts_of_a_table_from_h1(result):
    words = {v["id"]: v["verdict"] for v in result.verdicts}
    assert words["b"] == SEEN and words["c"] == SEEN and words["e"] == NOT_TESTABLE


def test_intervals_hold_the_truth_as_often_as_they_say():
    """Of 560 cells of three seeds, 95 % intervals hold about 95 %."""
    inside = []
    for seed in range(5):
        grid = cells(seeds=3, seed=seed, noise=0.01)
        draws = SAMPLE.draws(grid)
        frame = grid.frame
        truth = [made.loss(n, s * t, (1 - s) * t) for n, t, s in frame[["N", "T", "s"]].to_numpy()]
        for k, value in enumerate(truth):
            found = SAMPLE.estimate(grid.loss[k], draws[:, k])
            inside.append(found.low <= value <= found.high)
    assert 0.92 < np.mean(inside) < 0.98


@pytest.mark.parametrize("shares", [(0.2, 0.8, 1.0)])
def test_differences_hold_the_truth(shares):
    """Early minus late on 12 noisy tables: the interval of the mean holds the truth."""
    inside = []
    for seed in range(12):
        grid = cells(seeds=3, seed=seed, noise=0.01, shares=shares, sizes=made.SIZES[:2])
        _, means, _ = comparison_rows(grid, SAMPLE)
        (row,) = [m for m in means if m["comparison"] == EARLY_LATE]
        truth = np.mean(
            [
                made.loss(n, 0.2 * n * r, 0.8 * n * r) - made.loss(n, 0.8 * n * r, 0.2 * n * r)
                for n in made.SIZES[:2]
                for r in made.RATIOS
            ]
        )
        inside.append(row["difference_low"] <= truth <= row["difference_high"])
    assert sum(inside) >= 10


@pytest.mark.parametrize(
    ("options", "how"),
    [
        ({"seeds": 2}, SEEDS),
        ({"seeds": 1, "loss_se": 0.01}, WINDOWS),
        ({"seeds": 1}, NONE),
    ],
)
def test_what_the_noise_comes_from(options, how):
    grid = cells(**options)
    assert grid.how == how
    assert np.isfinite(grid.se).all() == (how != NONE)
    if how == WINDOWS:
        np.testing.assert_allclose(grid.se, 0.01 / np.sqrt(3))
    if how != SEEDS:
        again = grid.with_residuals(0.002)
        assert again.how == RESIDUALS
        np.testing.assert_allclose(again.se, 0.002 * grid.loss)
    else:
        assert grid.with_residuals(0.5) is grid
        assert grid.se[0] == pytest.approx(NOISE / np.sqrt(6), rel=0.3)


def test_dense_models_of_equal_flops_are_interpolated_and_never_extrapolated():
    grid = cells(noise=0.0, shares=(0.0, 0.5, 0.8, 1.0), sizes=(1e4,))
    found, _, missing = comparison_rows(grid, SAMPLE)
    for name, tokens in {EQUAL_SHARED: 0.5 * 1 + 0.5 * 3, EQUAL_SEPARATE: 3.0}.items():
        mine = [r for r in found if r["comparison"] == name]
        for row in mine:
            assert row["dense_tokens"] == pytest.approx(tokens * row["T"])
            expert = made.loss(row["N"], row["s"] * row["T"], (1 - row["s"]) * row["T"])
            dense = made.loss(row["N"], row["dense_tokens"], 0.0)
            # a line between two runs of twice the tokens lies within 0.02 of the curve
            assert row["difference"] == pytest.approx(expert - dense, abs=0.02)
        assert max(r["dense_tokens"] for r in mine) <= 120e4 * 1.0001
        assert any(name in m and "nothing is extrapolated" in m for m in missing)
    tokens = [r for r in found if r["comparison"] == SPLIT_DENSE]
    assert len(tokens) == 4 and all(r["dense_tokens"] == pytest.approx(r["T"]) for r in tokens)


def test_arms_and_routers_are_compared_on_what_both_have():
    few = {"sizes": (2e4,), "shares": (0.0, 0.2, 0.4)}
    frame = check_table(
        pd.concat(
            [
                made.table(noise=NOISE, seeds=2, sizes=(2e4,)),
                made.table(noise=NOISE, arm="unshared", worse=0.05, seed=1, **few),
                made.table(noise=NOISE, router="prefix", worse=0.02, seed=2, **few),
            ],
            ignore_index=True,
        )
    ).frame
    arms = arm_rows(frame, 3, SAMPLE)
    assert len(arms) == 4 and all(r["splits"] == 2 for r in arms)
    assert np.mean([r["difference"] for r in arms]) == pytest.approx(0.05, abs=0.005)
    (router,) = router_rows(frame, "shared", SAMPLE)
    assert router["pairs"] == 4 * 3 * 3
    assert router["difference_low"] < 0.02 < router["difference_high"]
    assert router["difference_low"] > 0


@pytest.mark.parametrize(("peak", "word"), [(0.3, SEEN), (0.8, NOT_SEEN)])
def test_a_phonebook_is_judged_by_recall(peak, word):
    books = tuple(f"phonebook:{k}/3" for k in range(3))
    table = made.table(sizes=(1e4,), ratios=(60,), domains=books, seeds=3)
    rng = np.random.default_rng(0)
    share = table["D"] / (table["D"] + table["D2"])
    nearest = min(made.SHARES, key=lambda s: abs(s - peak))
    noise = 0.01 * rng.standard_normal(len(table))
    table["recall"] = 0.9 - (share - nearest) ** 2 + noise
    (row,) = phonebook_rows(check_table(table).frame, SAMPLE)
    assert (row["of"], row["s"]) == ("recall", nearest)
    text = made.table(noise=NOISE, sizes=(1e4,), ratios=(15, 60))
    both = pd.concat([text, table.assign(K=3)], ignore_index=True)
    found = study(both, laws=(), **FEW)
    (verdict,) = [v for v in found.verdicts if v["id"] == "e"]
    assert verdict["verdict"] == word
    assert found.settings["domains"] == list(made.DOMAINS)


def test_one_size_is_said_and_the_rest_still_stands():
    found = study(made.table(noise=NOISE, seeds=2, sizes=(4e4,)), laws=("H0",), **FEW)
    assert any("one size only" in m for m in found.missing)
    assert any(m.startswith(f"{SIZE}: needs 4 sizes") for m in found.missing)
    few = study(made.table(**SMALL | {"ratios": (15, 60)}, noise=NOISE), laws=(), **FEW)
    assert any(m.startswith(f"{TOTAL}: needs 3 totals") for m in few.missing)
    (verdict,) = [v for v in found.verdicts if v["id"] == "b"]
    assert (SIZE, NOT_TESTABLE) in [(p["of"], p["verdict"]) for p in verdict["parts"]]
    assert verdict["verdict"] != SEEN
    assert len(found.found.observed) == 4


def test_without_dense_models_the_claim_against_them_is_not_testable():
    found = study(made.table(**SMALL, shares=made.SHARES[:-1], noise=NOISE), laws=(), **FEW)
    words = {v["id"]: v["verdict"] for v in found.verdicts}
    assert words["c"] == NOT_TESTABLE and words["d"] == NOT_TESTABLE
    assert any(m.startswith("s = 1: no dense model") for m in found.missing)


def test_splitting_late_is_better_where_special_tokens_are_cheap():
    """Nearly all is general: splitting early is not better, and the claim is not seen."""

    def loss_of(n, d, d2):
        return made.loss(n, d, d2, B2=0.5, d2=2e3)

    found = study(made.table(**SMALL, noise=NOISE, seeds=2, loss_of=loss_of), laws=(), **FEW)
    (verdict,) = [v for v in found.verdicts if v["id"] == "a"]
    assert verdict["verdict"] == NOT_SEEN


def test_words():
    row = {"x_low": -2.0, "x_high": -1.0}
    assert below(row, "x") == SEEN and below(row, "x", -3) == NOT_SEEN
    assert below(row, "x", -1.5) == NOT_SETTLED and below({}, "x") == NOT_TESTABLE
    assert overall([SEEN, NOT_TESTABLE]) == SEEN and overall([]) == NOT_TESTABLE
    assert overall([SEEN, NOT_SEEN]) == NOT_SETTLED


def test_every_law_is_one_of_the_library():
    from stepladder.analysis.laws import law_named

    assert [law_named(LAWS[code].law).alias for code in LAWS if code != "H6"] == [
        code.lower() for code in LAWS if code != "H6"
    ]
    assert LAWS["H6"].law == "shukor_additive_2"
    inputs = LAWS["H6"].inputs(np.ones(1), np.array([3e6]), np.array([1e6]), 4)
    # 3M tokens of which a quarter are of the own domain, then 1M
    assert inputs["h1"] == pytest.approx(1.75 / 4) and inputs["D"] == 4e6
