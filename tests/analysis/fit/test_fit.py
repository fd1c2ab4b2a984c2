"""The fitter against known parameters, SciPy, finite differences and published numbers."""

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import least_squares

from stepladder.analysis.fit.describe import describe
from stepladder.analysis.fit.fit import fit
from stepladder.analysis.fit.objective import OBJECTIVES
from stepladder.analysis.fit.prepare import prepare
from stepladder.analysis.fit.result import from_dict
from stepladder.analysis.fit.solve import Solution
from stepladder.analysis.laws import LAWS
from stepladder.configs.core.errors import UserError
from tests.support import published_rows

TRUE = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}


def grid(sizes=(1e7, 3e7, 1e8, 3e8, 1e9), tokens=(1e9, 4e9, 2e10), noise=0.0, seed=0):
    n, d = (v.ravel() for v in np.meshgrid(sizes, tokens))
    loss = TRUE["E"] + TRUE["A"] / n ** TRUE["alpha"] + TRUE["B"] / d ** TRUE["beta"]
    shock = np.exp(noise * np.random.default_rng(seed).standard_normal(len(n)))
    return pd.DataFrame({"N": n, "D": d, "C": 6 * n * d, "loss": loss * shock})


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_recovers_the_parameters_of_exact_points(objective):
    found = fit(grid(), objective=objective)
    for name, value in TRUE.items():
        assert found.params[name] == pytest.approx(value, rel=1e-4)
    assert found.predict(N=1e10, D=2e11) == pytest.approx(
        1.69 + 406.4 / 1e10**0.34 + 410.7 / 2e11**0.28, rel=1e-7
    )
    assert found.rank == 5 and found.unidentified == () and found.at_bound == () and found.converged


@pytest.mark.parametrize("objective", ["squared_log", "squared"])
def test_is_as_good_as_scipy(objective):
    points = grid(noise=0.005)
    p = prepare(points)
    spec = OBJECTIVES[objective]

    def residual(theta):
        return spec.transform(np, p.law.function(np, theta, p.x)) - spec.transform(np, p.y)

    best = min(
        (
            least_squares(residual, t, method="lm", xtol=1e-15, ftol=1e-15, gtol=1e-15)
            for t in p.law.starts(p.x, p.y, p.w)
        ),
        key=lambda r: r.cost,
    )
    scale = p.scale**2 if objective == "squared" else 1.0
    found = fit(points, objective=objective)
    assert found.value <= best.cost * scale * (1 + 1e-9)
    np.testing.assert_allclose(np.array(found.theta), best.x, rtol=1e-4)


def test_power_law_in_compute_is_the_straight_line_of_logs():
    points = grid(noise=0.01)
    slope, level = np.polyfit(np.log(points["C"]), np.log(points["loss"]), 1)
    found = fit(points, "power_c", objective="squared_log")
    assert found.params == pytest.approx({"A": np.exp(level), "alpha": -slope}, rel=1e-8)


def test_units_of_n_d_and_loss_change_nothing_but_units():
    points = grid(noise=0.004)
    other = points.assign(N=points["N"] / 1e6, D=points["D"] / 1e9, loss=points["loss"] / np.log(2))
    one, two = fit(points, objective="squared_log"), fit(other, objective="squared_log")
    assert two.value == pytest.approx(one.value, rel=1e-9)
    assert two.params["alpha"] == pytest.approx(one.params["alpha"], rel=1e-6)
    assert two.predict(N=1e4, D=2e2) * np.log(2) == pytest.approx(
        one.predict(N=1e10, D=2e11), rel=1e-8
    )


def test_weights_repeat_points():
    points = grid(noise=0.005)
    twice = pd.concat([points, points.iloc[:4]])
    weighted = points.assign(w=[2.0] * 4 + [1.0] * (len(points) - 4))
    one = fit(twice, objective="squared_log")
    two = fit(weighted, objective="squared_log", weights="w")
    assert two.value == pytest.approx(one.value, rel=1e-9)
    assert two.predict(N=1e10, D=1e11) == pytest.approx(one.predict(N=1e10, D=1e11), rel=1e-6)
    zero = points.assign(w=[0.0] + [1.0] * (len(points) - 1))
    assert fit(zero, objective="squared_log", weights="w").predict(N=1e10, D=1e11) == pytest.approx(
        fit(points.iloc[1:], objective="squared_log").predict(N=1e10, D=1e11), rel=1e-6
    )


@pytest.mark.parametrize(
    "axis, names", [("sizes", {"E", "A", "alpha"}), ("tokens", {"E", "B", "beta"})]
)
def test_two_values_of_one_input_are_refused_or_reported(axis, names):
    points = grid(**{axis: (1e8, 1e9)}, noise=0.002)
    with pytest.raises(UserError, match="2 different values"):
        fit(points)
    found = fit(points, objective="squared_log", unidentified="report")
    assert found.rank == 4 and set(found.unidentified) == names
    assert all(np.isinf(found.log_se[n]) for n in names)
    assert any("not identified" in note for note in found.notes)
    stored = found.to_dict()
    assert stored["log_se"]["E"] is None
    again = from_dict(stored)
    assert again.to_dict() == stored and str(again) == str(found)


def test_two_values_are_enough_where_a_held_parameter_takes_the_place_of_one():
    points = grid(sizes=(1e8, 1e9), noise=0.002)
    assert fit(points, objective="squared_log", fixed={"alpha": 0.34}).rank == 4
    with pytest.raises(UserError, match="N: 2 different values.* also with beta held"):
        fit(points, fixed={"beta": 0.28})
    with pytest.raises(UserError, match="N: 1 different values.* also with alpha held"):
        fit(grid(sizes=(1e8,), tokens=(1e9, 2e9, 4e9, 2e10)), fixed={"alpha": 0.34})
    found = fit(points, objective="squared_log", fixed={"beta": 0.28}, unidentified="report")
    assert set(found.unidentified) == {"E", "A", "alpha"}


def test_parameters_at_a_bound_are_reported():
    # A floor below zero, which ln E cannot reach.
    points = grid()
    points["loss"] -= 2.2
    found = fit(points, objective="squared_log")
    assert "E" in found.at_bound
    assert any("at a bound" in note for note in found.notes)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.drop(columns="N"), "column 'N'"),
        (lambda t: t.assign(loss=np.where(t.index == 3, np.nan, t["loss"])), "row 3"),
        (lambda t: t.assign(D=-t["D"]), "column 'D'"),
        (lambda t: t.iloc[:4], "points=4"),
        (lambda t: t.iloc[:0], "points=0"),
    ],
)
def test_bad_tables_are_refused_in_one_line(change, message):
    with pytest.raises(UserError, match=message) as caught:
        fit(change(grid()))
    assert "\n" not in str(caught.value)


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(UserError, match="did you mean 'chinchilla'"):
        fit(grid(), "chinchila")
    with pytest.raises(UserError, match="objective='hubert'"):
        fit(grid(), objective="hubert")
    with pytest.raises(UserError, match="starts='hoffmann': not with parameters held fixed"):
        fit(grid(), starts="hoffmann", fixed={"A": 480.0})
    with pytest.raises(UserError, match="delta=0"):
        fit(grid(), delta=0)


def test_fit_leaves_the_process_in_float32():
    import jax.numpy as jnp

    fit(grid())
    assert jnp.ones(3).dtype == jnp.float32


def test_fit_prints_its_parameters():
    text = str(fit(grid(noise=0.004)))
    assert "alpha" in text and "residual s.d." in text and "2203.15556" in text


@pytest.fixture(scope="module")
def chinchilla():
    raw = published_rows.table("chinchilla/svg_extracted_data.csv")
    return pd.DataFrame(
        {
            "N": raw["Model Size"],
            "D": raw["Training FLOP"] / 6 / raw["Model Size"],
            "loss": raw["loss"],
        }
    )


def test_chinchilla_240_points(chinchilla):
    found = fit(chinchilla.sort_values("loss").iloc[:-5])
    assert found.value <= 0.00101827402 * (1 + 1e-6)
    for name, value, tolerance in [
        ("A", 477.83, 0.3),
        ("B", 2143.4, 2),
        ("E", 1.81722, 5e-5),
        ("alpha", 0.34731, 3e-5),
        ("beta", 0.36717, 3e-5),
    ]:
        assert abs(found.params[name] - value) < tolerance
    assert found.minima[0][1] == found.starts  # every start ends in the same minimum


def test_chinchilla_all_points(chinchilla):
    assert fit(chinchilla).value <= 0.00182601052 * (1 + 1e-6)


def test_the_error_of_a_parameter_beyond_float64_is_infinite():
    """Kaplan's Nc is scaled by loss^(1 / aN), here by 2000^100."""
    points = grid().assign(loss=lambda t: 1000 * t["loss"])
    theta = LAWS["kaplan"].theta({"Nc": 1.0, "Dc": 1.0, "aN": 0.01, "aD": 0.1})
    found = Solution(theta[None], np.zeros(1), np.ones(1, bool), np.ones(1, int))
    said = describe(prepare(points, "kaplan"), found, "huber_log", 1e-3)
    assert said.params["Nc"] == said.log_se["Nc"] == np.inf
    others = ("Dc", "aN", "aD")
    assert all(np.isfinite([said.params[name], said.log_se[name]]).all() for name in others)
