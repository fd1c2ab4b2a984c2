"""Learning-rate curves, their optima, and the rule through them."""

import math

import numpy as np
import pandas as pd
import pytest

from stepladder.analysis.learning_rate import curves
from stepladder.analysis.load import load
from stepladder.analysis.rate_rule import fit_rule
from stepladder.configs.errors import UserError
from tests import synthetic_records as records


def sweep(best, rates, *, n=1e5, d=1e6, seeds=2, noise=1e-4, curvature=0.02, rng=None):
    rng = rng or np.random.default_rng(0)
    return pd.DataFrame(
        [
            {"run_id": f"{r}-{s}", "step": 1, "domain": "all", "size": "x", "N": n, "D": d, "learning_rate": r,
             "loss": 3 + curvature * math.log(r / best) ** 2 + noise * rng.standard_normal(), "loss_se": 0.01}
            for r in rates for s in range(seeds)
        ]
    )  # fmt: skip


GRID = [1e-3 * 2.0**k for k in range(-3, 4)]


def test_the_optimum_and_its_interval():
    (curve,), left = curves(sweep(1.3e-3, GRID))
    assert curve.optimum == pytest.approx(1.3e-3, rel=0.02)
    assert curve.low < curve.optimum < curve.high and curve.high / curve.low < 1.1
    assert curve.curvature == pytest.approx(0.02, rel=0.05) and curve.loss_at_optimum == pytest.approx(3, abs=1e-3)
    assert curve.noise_source == "repeated seeds" and len(left) == 0


def test_the_interval_covers():
    rng = np.random.default_rng(3)
    hits = []
    for k in range(60):
        (curve,), _ = curves(sweep(1.3e-3, GRID, noise=0.002, seeds=3, rng=rng), seed=k)
        hits.append(curve.low <= 1.3e-3 <= curve.high)
    assert 0.75 <= np.mean(hits) <= 1.0


@pytest.mark.parametrize("best, side", [(1e-6, "low"), (1.0, "high")])
def test_an_optimum_at_the_edge_is_refused(best, side):
    (curve,), _ = curves(sweep(best, GRID))
    assert curve.optimum is None and f"{side} edge" in curve.refused


def test_a_concave_curve_is_refused():
    points = sweep(1e-3, GRID, seeds=1, noise=0)
    points["loss"] = [3.0, 3.1, 3.05, 2.99, 3.05, 3.1, 2.995]
    points.loc[2:4, "loss"] = [3.3, 2.99, 3.3]
    points.loc[[1, 5], "loss"] = [2.995, 2.995]
    (curve,), _ = curves(points)
    assert curve.optimum is None and "not convex" in curve.refused


def test_one_seed_falls_back_on_the_evaluation_error():
    (curve,), _ = curves(sweep(1e-3, GRID, seeds=1))
    assert "lower bound" in curve.noise_source and curve.low < curve.high


def test_two_rates_make_no_curve_and_are_listed():
    found, left = curves(sweep(1e-3, GRID[:2]))
    assert found == [] and len(left) == 4


def test_the_rule_recovers_the_exponents_from_records(tmp_path):
    records.write_sweep(tmp_path)
    records.write_proxies(tmp_path, sizes=("14k",))  # branches and single rates join no curve
    found, left = curves(load(tmp_path))
    assert len(found) == 6 and all(not c.refused for c in found)
    assert {"a cooldown branch: its rate was tuned for the trunk", "fewer than three learning rates with these settings"} <= set(
        left["reason"]
    )
    rule = fit_rule(found)
    assert rule.a == pytest.approx(-0.6, abs=0.05)
    assert abs(rule.b - 0.05) < 4 * rule.se["b"] + 0.05
    assert rule.at(40_000, 2e6) == pytest.approx(records.optimum(40_000, 2e6), rel=0.1)
    assert "N^" in str(rule)


def exact(pairs):
    return [
        curves(sweep(0.5 * n**-0.6 * d**0.1, [0.5 * n**-0.6 * d**0.1 * 2.0**k for k in range(-3, 4)], n=n, d=d, noise=1e-7))[0][0]
        for n, d in pairs
    ]


def test_exact_optima_give_the_rule_exactly():
    rule = fit_rule(exact([(1e4, 1e6), (1e5, 1e6), (1e4, 4e6), (1e5, 4e6), (1e6, 2e6)]))
    assert (rule.c, rule.a, rule.b) == pytest.approx((0.5, -0.6, 0.1), rel=1e-2)
    assert rule.se["a"] < 1e-2 and rule.points == 5


def test_d_tied_to_n_is_refused_unless_its_exponent_is_given():
    tied = exact([(n, 20 * n) for n in (1e4, 1e5, 1e6)])
    with pytest.raises(UserError, match="cannot be told apart"):
        fit_rule(tied)
    assert fit_rule(tied, fixed_b=0.1).a == pytest.approx(-0.6, abs=1e-2)


def test_too_few_optima_are_refused_and_refused_curves_are_named():
    edge = curves(sweep(1.0, GRID))[0]
    with pytest.raises(UserError, match="optima=1"):
        fit_rule(exact([(1e4, 1e6)]) + edge)
    rule = fit_rule(exact([(1e4, 1e6), (1e5, 1e6), (1e4, 4e6)]) + edge)
    assert rule.residual_sd is None and any("high edge" in n for n in rule.notes)
