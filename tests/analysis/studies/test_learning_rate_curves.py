"""Learning-rate curves, their optima, and the rule through them."""

import math

import numpy as np
import pandas as pd
import pytest

from stepladder.analysis.records.load import load
from stepladder.analysis.studies.learning_rate.curves import curves
from stepladder.analysis.studies.learning_rate.optimum import optimum
from stepladder.analysis.studies.learning_rate.rule import fit_rule
from stepladder.configs.core.errors import UserError
from tests.support import synthetic_records as records


def sweep(best, rates, *, n=1e5, d=1e6, seeds=2, noise=1e-4, curvature=0.02, rng=None):
    rng = rng or np.random.default_rng(0)
    return pd.DataFrame(
        [
            {
                "run_id": f"{r}-{s}",
                "step": 1,
                "domain": "all",
                "size": "x",
                "N": n,
                "D": d,
                "learning_rate": r,
                "loss": 3 + curvature * math.log(r / best) ** 2 + noise * rng.standard_normal(),
                "loss_se": 0.01,
            }
            for r in rates
            for s in range(seeds)
        ]
    )


GRID = [1e-3 * 2.0**k for k in range(-3, 4)]


def test_the_optimum_and_its_interval():
    (curve,), left = curves(sweep(1.3e-3, GRID))
    assert curve.optimum == pytest.approx(1.3e-3, rel=0.02)
    assert curve.low < curve.optimum < curve.high and curve.high / curve.low < 1.2
    assert curve.curvature == pytest.approx(
        0.02, rel=0.1
    ) and curve.loss_at_optimum == pytest.approx(3, abs=1e-3)
    assert curve.noise_source == "repeated seeds" and len(left) == 0
    assert curve.sd == pytest.approx(math.log(curve.high / curve.low) / 3.29, rel=1e-3)
    (half,), _ = curves(sweep(1.3e-3, GRID), level=0.5)
    assert half.high / half.low < curve.high / curve.low
    assert half.sd == pytest.approx(curve.sd, rel=0.4), "whatever the level of the interval"


SHAPES = {
    "parabola": lambda z: 0.02 * z * z,
    "skewed": lambda z: 0.03 * (math.exp(z) - 1 - z),
    "cubic": lambda z: 0.02 * z * z + 0.004 * z**3,
}


@pytest.mark.parametrize("noise, seeds", [(0.005, 3), (0.01, 2)])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_interval_covers(shape, noise, seeds):
    """Optimum on a grid point and between two, on a parabola and on curves that rise faster above
    the best rate, as real ones do.
    """
    rng, hits = np.random.default_rng(3), []
    for k in range(240):
        best = 1e-3 * 2.0 ** (0.5 * (k % 3) / 2)
        y = np.array([3 + SHAPES[shape](math.log(r / best)) for r in GRID])[
            :, None
        ] + noise * rng.standard_normal((len(GRID), seeds))
        sd = math.sqrt(y.var(1, ddof=1).mean())
        found = optimum(
            np.array(GRID),
            y.mean(1),
            np.full(len(GRID), float(seeds)),
            sd,
            len(GRID) * (seeds - 1),
            seed=k,
        )
        if not found.refused:
            hits.append(found.low <= best <= found.high)
    assert len(hits) > 230 and 0.80 <= np.mean(hits) <= 0.985


def test_uneven_grids_and_skew_do_not_move_the_optimum():
    rates = np.array([1e-4, 3e-4, 8e-4, 1e-3, 1.5e-3, 2e-3, 6e-3])
    for shape in SHAPES.values():
        y = np.array([3 + shape(math.log(r / 1.2e-3)) for r in rates])
        found = optimum(rates, y, np.ones(7), 1e-5, np.inf)
        assert found.rate == pytest.approx(1.2e-3, rel=0.03) and found.low < 1.2e-3 < found.high


def test_three_rates_give_a_wider_interval_than_seven():
    def y(rates):
        return np.array([3 + 0.02 * math.log(r / 1.1e-3) ** 2 for r in rates])

    three, seven = (
        optimum(np.array(g), y(g), np.ones(len(g)), 1e-4, np.inf) for g in (GRID[2:5], GRID)
    )
    assert three.high / three.low > 1.02 * seven.high / seven.low


@pytest.mark.parametrize(
    "best, said",
    [
        (1e-6, "smallest rate tried, 0.000125: add smaller"),
        (1.0, "largest rate tried, 0.008: add larger"),
    ],
)
def test_an_optimum_at_the_edge_is_refused(best, said):
    (curve,), _ = curves(sweep(best, GRID))
    assert curve.optimum is None and curve.low is None and said in curve.refused


def test_an_optimum_below_a_divergence_says_so():
    points = sweep(1.0, GRID)
    points.loc[points["learning_rate"] == GRID[-1], "loss"] = math.inf
    (curve,), left = curves(points)
    assert "largest rate that survives, 0.004 (0.008 diverges): add rates between" in curve.refused
    assert curve.diverged == ((0.008, 2, 2),) and len(curve.rates) == 6 and len(left) == 0


def test_a_rate_where_one_seed_diverged_is_no_candidate():
    points = sweep(1e-3, GRID, seeds=3)
    points.loc[points["run_id"] == f"{GRID[4]}-1", "loss"] = math.inf
    (curve,), _ = curves(points)
    assert curve.diverged == ((GRID[4], 1, 3),) and GRID[4] not in curve.rates


def test_curves_are_split_by_recipe_and_parametrisation():
    kinds = [("code", "mup", 1e-3), ("code", "standard", 2e-3), ("prose", "mup", 5e-4)]
    points = pd.concat(
        [sweep(b, GRID).assign(recipe=r, parametrization=k, width=64) for r, k, b in kinds],
        ignore_index=True,
    )
    found, _ = curves(points)
    got = {(c.settings["recipe"], c.settings["parametrization"]): c.optimum for c in found}
    assert got == {(r, k): pytest.approx(b, rel=0.03) for r, k, b in kinds}
    assert all(c.settings["width"] == 64 for c in found)


def test_a_missing_setting_drops_no_run():
    points = sweep(1e-3, GRID).assign(weight_decay=math.nan)
    (curve,), left = curves(points)
    assert sum(curve.seeds) == len(points) and len(left) == 0


def test_a_concave_curve_is_refused():
    points = sweep(1e-3, GRID, seeds=1, noise=0)
    points["loss"] = [3.0, 3.1, 3.05, 2.99, 3.05, 3.1, 2.995]
    points.loc[2:4, "loss"] = [3.3, 2.99, 3.3]
    points.loc[[1, 5], "loss"] = [2.995, 2.995]
    (curve,), _ = curves(points)
    assert curve.optimum is None and curve.refused


def test_one_seed_falls_back_on_the_evaluation_error():
    (curve,), _ = curves(sweep(1e-3, GRID, seeds=1))
    assert "lower bound" in curve.noise_source and curve.low < curve.high


def test_one_seed_and_nothing_else_falls_back_on_the_misfit_of_the_curves():
    rng = np.random.default_rng(0)
    points = [
        sweep(1e-3, GRID, seeds=1, noise=0.004, n=1e5 * 1.1**k, rng=rng).drop(columns="loss_se")
        for k in range(80)
    ]
    found, _ = curves(pd.concat(points, ignore_index=True))
    assert all("misfit" in c.noise_source for c in found) and 0.002 < found[0].noise < 0.008
    (alone,), _ = curves(points[0][:3].assign(loss=[3.1, 3.0, 3.2]))
    assert alone.optimum and alone.low is None and alone.noise_source.startswith("unknown")


def test_two_rates_make_no_curve_and_are_listed():
    found, left = curves(sweep(1e-3, GRID[:2]))
    assert found == [] and len(left) == 4


def test_the_rule_recovers_the_exponents_from_records(tmp_path):
    records.write_sweep(tmp_path)
    records.write_proxies(tmp_path, sizes=("14k",))  # branches and single rates join no curve
    found, left = curves(load(tmp_path))
    assert len(found) == 6 and all(not c.refused for c in found)
    assert {
        "a cooldown branch: its rate was tuned for the trunk",
        "fewer than three learning rates with these settings",
    } <= set(left["reason"])
    rule = fit_rule(found)
    assert rule.a == pytest.approx(-0.6, abs=0.05)
    assert abs(rule.b - 0.05) < 4 * rule.se["b"] + 0.05
    assert rule.at(40_000, 2e6) == pytest.approx(records.optimum(40_000, 2e6), rel=0.1)
    assert "N^" in str(rule)


def exact(pairs):
    return [
        curves(
            sweep(
                0.5 * n**-0.6 * d**0.1,
                [0.5 * n**-0.6 * d**0.1 * 2.0**k for k in range(-3, 4)],
                n=n,
                d=d,
                noise=1e-7,
            )
        )[0][0]
        for n, d in pairs
    ]


def test_exact_optima_give_the_rule_exactly():
    rule = fit_rule(exact([(1e4, 1e6), (1e5, 1e6), (1e4, 4e6), (1e5, 4e6), (1e6, 2e6)]))
    assert (rule.c, rule.a, rule.b) == pytest.approx((0.5, -0.6, 0.1), rel=1e-2)
    assert rule.se["a"] < 1e-2 and rule.points == 5
    assert all(low < value < high for value, low, high in rule.spans(0.9).values())
    assert rule.spans(0.99)["a"][1] < rule.spans(0.9)["a"][1]


def test_d_tied_to_n_is_refused_unless_its_exponent_is_given():
    tied = exact([(n, 20 * n) for n in (1e4, 1e5, 1e6)])
    with pytest.raises(UserError, match="cannot be told apart"):
        fit_rule(tied)
    assert fit_rule(tied, fixed_b=0.1).a == pytest.approx(-0.6, abs=1e-2)


def test_one_size_is_refused_as_such():
    with pytest.raises(UserError, match="N: one size among the optima; sweep a second size"):
        fit_rule(exact([(1e4, d) for d in (1e6, 2e6, 4e6, 8e6)]), fixed_b=0.1)


def test_too_few_optima_are_refused_and_refused_curves_are_named():
    edge = curves(sweep(1.0, GRID))[0]
    with pytest.raises(UserError, match="optima=1"):
        fit_rule(exact([(1e4, 1e6)]) + edge)
    rule = fit_rule(exact([(1e4, 1e6), (1e5, 1e6), (1e4, 4e6)]) + edge)
    assert rule.residual_sd is None and any("largest rate tried" in n for n in rule.notes)
