"""Approaches 1 and 2 and pass@k: known laws are recovered within the intervals, and everything that
cannot be used says why.
"""

import json
import math

import numpy as np
import pandas as pd
import pytest

from stepladder.analysis.decide.envelope import envelope
from stepladder.analysis.decide.isoflop import budgets, isoflop
from stepladder.analysis.decide.power_law import power_law
from stepladder.analysis.studies.test_time.pass_at_k import coverage, pass_at_k
from stepladder.configs.core.errors import UserError
from tests.support import published_rows

E, A, B, ALPHA, BETA = 1.69, 406.4, 410.7, 0.34, 0.28
EXPONENT = BETA / (ALPHA + BETA)  # of N*
G = (ALPHA * A / (BETA * B)) ** (1 / (ALPHA + BETA))


def loss(n, d):
    return E + A / n**ALPHA + B / d**BETA


def profile(c, factors, noise=0.0, rng=None):
    """One budget: sizes at `factors` times the true N*."""
    n = G * (c / 6) ** EXPONENT * np.asarray(factors, float)
    d = c / 6 / n
    shock = noise * rng.standard_normal(len(n)) if noise else 0.0
    return pd.DataFrame({"C": c, "N": n, "D": d, "loss": loss(n, d) + shock})


def design(noise=0.0, seed=0, width=4.0, sizes=9):
    rng = np.random.default_rng(seed)
    return pd.concat(
        [
            profile(c, np.geomspace(1 / width, width, sizes), noise, rng)
            for c in np.geomspace(1e18, 1e21, 7)
        ],
        ignore_index=True,
    )


def training_curves(sizes, noise=0.0, seed=0, longest=300, steps=200):
    rng = np.random.default_rng(seed)
    out = []
    for i, n in enumerate(sizes):
        d = np.geomspace(0.3 * n, longest * n, steps)
        shock = np.exp(noise * rng.standard_normal())
        out.append(
            pd.DataFrame(
                {"run": f"run{i:02d}", "N": n, "D": d, "C": 6 * n * d, "loss": loss(n, d) * shock}
            )
        )
    return pd.concat(out, ignore_index=True)


# --- Approach 2


def test_exact_points_give_the_exact_exponents():
    found = isoflop(design(), draws=50)
    # the same window at every budget: the parabola's bias is constant
    assert found.N.exponent == pytest.approx(EXPONENT, abs=1e-8)
    assert found.D.exponent == pytest.approx(1 - EXPONENT, abs=1e-8)
    assert found.N.coefficient == pytest.approx(G / 6**EXPONENT, rel=0.05)
    assert found.N.r2 == pytest.approx(1) and found.notes[-1].startswith("the exponent of N* is")
    for minimum in found.minima:
        assert pytest.approx(6 * minimum.N * minimum.D, rel=1e-9) == minimum.C
        assert (
            minimum.loss == pytest.approx(loss(minimum.N, minimum.D), rel=2e-3)
            and minimum.curvature > 0
        )
    narrow = isoflop(design(width=1.3), draws=50)
    # and its bias goes with the width
    assert narrow.N.coefficient == pytest.approx(G / 6**EXPONENT, rel=2e-3)


@pytest.mark.parametrize(
    "options", [{}, {"noise": 0.003}, {"resample": "points"}, {"method": "akima", "noise": 0.003}]
)
def test_intervals_cover_the_true_exponent(options):
    seeds = 20
    hits = 0
    for seed in range(seeds):
        found = isoflop(design(noise=0.003, seed=seed), seed=seed, draws=300, **options)
        low, high = found.N.exponent_interval
        hits += low < EXPONENT < high
        assert low < found.N.exponent < high and high - low < 0.08
        d_low, d_high = found.D.exponent_interval
        # C = 6 N D ties the two
        assert (1 - d_high, 1 - d_low) == pytest.approx((low, high), abs=1e-6)
    assert hits >= 15  # 18 expected at 90 %


def test_same_seed_same_answer_and_order_of_rows_does_not_matter():
    points = design(noise=0.003)
    first = isoflop(points, draws=100)
    assert isoflop(points.sample(frac=1, random_state=1), draws=100) == first
    assert isoflop(points, draws=100, seed=1).N.exponent_interval != first.N.exponent_interval
    assert json.loads(json.dumps(first.to_dict()))["N"]["exponent"] == first.N.exponent
    assert len(first.to_frame()) == 7 and {"N_low", "loss_high", "refused"} <= set(first.to_frame())
    assert "N* = " in str(first) and "2203.15556" in str(first)


def test_weights_count_like_repeated_points():
    points = design(noise=0.003)
    doubled = pd.concat([points, points.iloc[::3]])
    weighted = points.assign(w=np.where(np.arange(len(points)) % 3 == 0, 2.0, 1.0))
    one = isoflop(doubled, duplicates="keep", draws=10)
    two = isoflop(weighted, weights="w", draws=10)
    three = isoflop(doubled, duplicates="mean", draws=10)
    for other in (two, three):
        np.testing.assert_allclose(
            [m.N for m in other.minima], [m.N for m in one.minima], rtol=1e-9
        )


LOW, HIGH = [0.2, 0.3, 0.4, 0.5, 0.6], [2.0, 2.5, 3.0, 4.0, 5.0]
BAD = {
    "few": (lambda t: t.iloc[:3], "3 sizes, fewer than 4"),
    "concave": (lambda t: t.assign(loss=6 - t["loss"]), "not convex"),
    "too small": (lambda t: profile(1e22, LOW), "above the largest N: add larger"),
    "too large": (lambda t: profile(1e22, HIGH), "below the smallest N: add smaller"),
    "twice": (lambda t: pd.concat([t, t.iloc[:1]]), "duplicated N"),
    "noise": (lambda t: t.assign(loss=3 + (t["loss"] - 3) * 1e-4), "lost in the noise"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_budget_without_a_minimum_is_refused_with_its_reason(name):
    change, reason = BAD[name]
    bad = change(profile(1e22, np.geomspace(0.5, 2, 7)))
    found = isoflop(pd.concat([design(noise=0.003), bad], ignore_index=True), draws=200)
    assert reason in found.minima[-1].refused and found.minima[-1].N is None
    assert any("left out: C = 1e+22" in note and reason in note for note in found.notes)
    assert found.N.points == 7 and reason in str(found)
    assert found.N.exponent == pytest.approx(EXPONENT, abs=0.02)


def test_akima_refuses_edges_and_missing_noise():
    found = isoflop(
        pd.concat([design(), profile(1e22, LOW), profile(4e22, HIGH)]),
        method="akima",
        noise=1e-3,
        draws=100,
    )
    assert [
        "largest N is the best" in found.minima[7].refused,
        "smallest N is the best" in found.minima[8].refused,
    ] == [True, True]
    assert found.N.exponent == pytest.approx(EXPONENT, abs=0.01)
    for options in (
        {},
        {"noise": 1e-3, "resample": "points"},
        {"noise": 1e-3, "duplicates": "keep"},
    ):
        with pytest.raises(UserError, match="method='akima'"):
            isoflop(design(), method="akima", **options)


def test_duplicates_can_be_resolved():
    points = design(noise=0.003)
    twice = pd.concat([points, points.assign(loss=points["loss"] + 0.1)])
    best, mean = (isoflop(twice, duplicates=how, draws=10) for how in ("best", "mean"))
    np.testing.assert_allclose(
        [m.N for m in best.minima], [m.N for m in isoflop(points, draws=10).minima]
    )
    assert best.minima[0].loss == pytest.approx(mean.minima[0].loss - 0.05)
    assert isoflop(twice, draws=10).N is None  # every budget refused: no law, and a note


def test_nearly_equal_budgets_are_one_budget():
    points = design(noise=0.001)
    rng = np.random.default_rng(0)
    rough = points.assign(C=points["C"] * np.exp(rng.uniform(-0.02, 0.02, len(points))))
    found = isoflop(rough, draws=50)
    assert len(found.minima) == 7 and any("differs by up to" in note for note in found.notes)
    assert found.N.exponent == pytest.approx(EXPONENT, abs=0.02)
    np.testing.assert_array_equal(budgets(np.array([2.0, 1.0, 1.05, 2.1])), [1, 0, 0, 1])
    with pytest.raises(UserError, match="run into one another"):
        isoflop(points.assign(C=np.geomspace(1e18, 1e19, len(points))))
    named = rough.assign(budget=points["C"])
    assert isoflop(named, draws=50, tolerance=1e-9).minima[0].C == 1e18


@pytest.mark.parametrize(
    "change, options, message",
    [
        (lambda t: t.drop(columns="D"), {}, "column 'D'"),
        (lambda t: t.assign(loss=-1.0), {}, "column 'loss'=-1.0"),
        (lambda t: t, {"method": "parabla"}, "did you mean 'parabola'"),
        (lambda t: t, {"resample": "rows"}, "resample='rows'"),
        (lambda t: t, {"duplicates": "drop"}, "duplicates='drop'"),
        (lambda t: t, {"weights": "w"}, "column 'w'"),
    ],
)
def test_bad_tables_and_options_are_refused_in_one_line(change, options, message):
    with pytest.raises(UserError, match=message) as caught:
        isoflop(change(design()), **options)
    assert "\n" not in str(caught.value)


def test_power_law_of_exact_points_and_of_too_few():
    x = np.array([1.0, 10.0, 100.0, 1000.0])
    law = power_law(
        x,
        3 * x**0.7,
        weights=np.array([1.0, 5.0, 2.0, 1.0]),
        draws=3 * x**0.7 * np.array([[1.0], [2.0], [np.nan]]),
    )
    assert (law.exponent, law.coefficient, law.at(1e6)) == pytest.approx((0.7, 3, 3 * 1e6**0.7))
    assert law.exponent_interval == pytest.approx(
        (0.7, 0.7)
    ) and law.coefficient_interval == pytest.approx((3.15, 5.85))
    with pytest.raises(UserError, match="points=2"):
        power_law(x[:2], x[:2])


# --- Approach 1


def test_envelope_recovers_the_exponent_within_its_interval():
    found = envelope(training_curves(np.geomspace(2e7, 5e9, 25)), draws=100)
    low, high = found.N.exponent_interval
    assert low < EXPONENT < high and high - low < 0.03
    assert found.D.exponent_interval[0] < 1 - EXPONENT < found.D.exponent_interval[1]
    table = found.to_frame()
    np.testing.assert_allclose(table["C"], 6 * table["N"] * table["D"], rtol=1e-9)
    exact = G * (table["C"] / 6) ** EXPONENT
    assert np.abs(np.log(table["N"] / exact)).max() < 0.2  # within one step of the sizes
    assert json.loads(json.dumps(found.to_dict()))["N"]["points"] == len(table)
    assert "lower envelope" in str(found)


def test_envelope_with_noise_between_runs():
    hits = 0
    for seed in range(10):
        found = envelope(
            training_curves(np.geomspace(2e7, 5e9, 25), noise=0.002, seed=seed), draws=100
        )
        hits += found.N.exponent_interval[0] < EXPONENT < found.N.exponent_interval[1]
    assert hits >= 7


def test_edges_of_the_envelope_are_dropped_and_listed():
    sizes = np.geomspace(2e7, 5e9, 15)
    found = envelope(training_curves(sizes), draws=20)
    before, first, *inner, last, after = found.stretches
    # before the second run begins, after the last but one ends
    assert "only one size" in before.refused and "only one size" in after.refused
    assert "train smaller models" in first.refused and "train larger models" in last.refused
    assert [s.N for s in (before, first, *inner, last, after)] == list(sizes[[0, *range(15), -1]])
    assert not any(s.refused for s in inner)
    assert found.C[0] > first.high and found.C[-1] < last.low
    assert "train smaller models" in str(found)


def test_a_run_that_never_wins_is_noted():
    curves = training_curves(np.geomspace(2e7, 5e9, 15))
    curves.loc[curves["run"] == "run07", "loss"] *= 1.1
    found = envelope(curves, draws=20)
    assert any("never on the envelope: run07" in note for note in found.notes)


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda t: t[t["run"].isin(["run00", "run01", "run02", "run03"])],
            "sizes=2: only that many of 4 sizes",
        ),
        (lambda t: t.drop(columns="run"), "column 'run'"),
        (lambda t: t.assign(loss=np.nan), "column 'loss'=nan"),
        (lambda t: t.assign(run="one"), "run=one: 15 different N"),
    ],
)
def test_bad_curves_are_refused_in_one_line(change, message):
    with pytest.raises(UserError, match=message) as caught:
        envelope(change(training_curves(np.geomspace(2e7, 5e9, 15))))
    assert "\n" not in str(caught.value)


# --- pass@k


@pytest.mark.parametrize(
    "n, c, k",
    [
        (10, 3, 4),
        (10, 0, 4),
        (10, 10, 1),
        (10, 7, 4),
        (200, 5, 100),
        (10_000, 1, 10_000),
        (10_000, 346, 37),
    ],
)
def test_pass_at_k_is_the_ratio_of_binomials(n, c, k):
    exact = 1 - math.comb(n - c, k) / math.comb(n, k)  # integers of any size, one division
    assert pass_at_k(n, c, k) == pytest.approx(exact, rel=1e-10, abs=1e-12)


def test_pass_at_k_is_stable_and_elementwise():
    assert pass_at_k(10**9, 1, 1) == pytest.approx(1e-9, rel=1e-12)
    table = pass_at_k(np.full((2, 3), 100), np.array([[0, 1, 50], [99, 100, 1]]), 1)
    np.testing.assert_allclose(table, [[0, 0.01, 0.5], [0.99, 1, 0.01]])


def test_pass_at_k_is_unbiased():
    rng = np.random.default_rng(0)
    p, k = 0.05, 8
    assert pass_at_k(np.full(20_000, 30), rng.binomial(30, p, 20_000), k).mean() == pytest.approx(
        1 - (1 - p) ** k, abs=0.006
    )


@pytest.mark.parametrize(
    "n, c, k, message",
    [
        (10, 11, 1, "c: counts"),
        (10, 2, 11, "k=11: 1 of 1"),
        (10, 2, 0, "k=0"),
        (10, 2.5, 1, "whole"),
    ],
)
def test_impossible_counts_are_refused(n, c, k, message):
    with pytest.raises(UserError, match=message):
        pass_at_k(n, c, k)


def test_coverage_by_group_with_intervals_over_problems():
    rng = np.random.default_rng(0)
    counts = pd.DataFrame(
        {
            "model": np.repeat(["a", "b"], 100),
            "n": 50,
            "c": rng.binomial(50, np.repeat(rng.beta(0.3, 3, 100), 2)),
        }
    )
    found = coverage(counts, [1, 10], by=("model",))
    assert list(found["k"]) == [1, 10, 1, 10] and (found["problems"] == 100).all()
    assert ((found["low"] < found["pass"]) & (found["pass"] < found["high"])).all()
    assert found["pass"].iloc[0] == pytest.approx(counts.query("model == 'a'")["c"].mean() / 50)
    width = found["high"].iloc[0] - found["low"].iloc[0]
    assert width == pytest.approx(
        2 * 1.645 * (counts.query("model == 'a'")["c"] / 50).std() / 10, rel=0.15
    )
    with pytest.raises(UserError, match="column 'modl'"):
        coverage(counts, [1], by=("modl",))


def test_published_rows_print_as_a_table():
    rows = [
        published_rows.Row("t", "a", 1.0, 1.01, 0.02),
        published_rows.Row("t", "b", 1.0, 1.1, 0.02),
    ]
    lines = published_rows.text(rows).splitlines()
    assert (
        lines[0].startswith("table")
        and lines[2].endswith("OUTSIDE")
        and not lines[1].endswith("OUTSIDE")
    )
    assert published_rows.text([]) == ""
