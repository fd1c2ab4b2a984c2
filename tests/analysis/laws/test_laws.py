"""Every law in the table passes the same tests; what a law says about itself (falls in N, has no
unit) is held to it.
"""

import numpy as np
import pandas as pd
import pytest

from stepladder.analysis.fit.fit import fit
from stepladder.analysis.fit.prepare import prepare
from stepladder.analysis.laws import LAWS, law_named
from stepladder.analysis.laws.law import halton, in_units, jacobian
from stepladder.configs.core.errors import UserError

# mixtures of 2, 4, ... domains are the same code
NAMES = [n for n in sorted(LAWS) if not n[-1].isdigit() or n[-1] == "3"]
RANGE = {"log": (-2.0, 2.0), "raw": (0.3, 1.2), "linear": (0.15, 3.0), "share": (0.05, 0.95)}


def truth(law, shift=0.5):
    """Parameters inside of the ranges that starts are drawn from, in centred units."""
    u = halton(7, len(law.params))[6] * 0.6 + 0.2 * shift
    return {
        p.name: p.start[0] * (p.start[1] / p.start[0]) ** v
        if p.positive
        else p.start[0] + (p.start[1] - p.start[0]) * v
        for p, v in zip(law.params, u)
    }


def points(law, count=160, units=None, scale=1.0, seed=0):
    """Exact points of the law; inputs spread over their ranges, shares of a mixture summing to 1,
    in `units` (logs).
    """
    u = np.random.default_rng(seed).random((count, len(law.axes)))
    x = np.stack(
        [
            RANGE[a.kind][0] + (RANGE[a.kind][1] - RANGE[a.kind][0]) * u[:, i]
            for i, a in enumerate(law.axes)
        ],
        1,
    )
    if law.name == "farseer":
        x[:, 1] = 18 + 6 * u[:, 1]
    mixture = [i for i, a in enumerate(law.axes) if a.kind == "share" and a.name.startswith("h")]
    if mixture:
        x[:, mixture] = np.random.default_rng(seed + 1).dirichlet(np.ones(len(mixture)), count)
    units = np.zeros(len(law.axes)) if units is None else units
    y = law.function(np, law.theta(truth(law)), x) * scale
    raw = np.stack(
        [
            np.exp(x[:, i] + units[i]) if a.kind in ("log", "raw") else x[:, i] * np.exp(units[i])
            for i, a in enumerate(law.axes)
        ],
        1,
    )
    return (
        pd.DataFrame(raw, columns=law.inputs).assign(**{law.output: y})
        if law.output not in law.inputs
        else None
    )


@pytest.mark.parametrize("name", NAMES)
def test_derivatives_agree_with_finite_differences_and_autodiff(name):
    import jax
    import jax.numpy as jnp

    from stepladder.analysis.fit.solve import float64

    law = LAWS[name]
    p = prepare(points(law), name)
    theta = law.theta(truth(law))
    exact, step = jacobian(law, theta, p.x), 1e-6
    differences = np.stack(
        [
            (law.function(np, theta + step * u, p.x) - law.function(np, theta - step * u, p.x))
            / (2 * step)
            for u in np.eye(len(theta))
        ],
        1,
    )
    np.testing.assert_allclose(exact, differences, rtol=2e-5, atol=1e-7 * np.abs(exact).max())
    with float64():
        auto = np.asarray(
            jax.jit(jax.jacfwd(lambda t: law.function(jnp, t, jnp.asarray(p.x))))(
                jnp.asarray(theta)
            )
        )
    np.testing.assert_allclose(exact, auto, rtol=1e-7, atol=1e-9 * np.abs(exact).max())


@pytest.mark.parametrize("name", NAMES)
def test_units_form_a_group_and_change_no_prediction(name):
    law = LAWS[name]
    table = points(law)
    p = prepare(table, name)
    theta = law.theta(truth(law))
    natural = law.to_data_units(theta, np.array(p.centre), p.scale)
    np.testing.assert_allclose(
        law.to_solver_units(natural, np.array(p.centre), p.scale), theta, rtol=1e-9, atol=1e-9
    )
    direct = law.function(
        np,
        law.theta(natural),
        law.to_solver_inputs(table[list(law.inputs)].to_numpy(float), np.zeros(len(law.axes))),
    )
    np.testing.assert_allclose(direct, p.scale * law.function(np, theta, p.x), rtol=1e-9)


def test_a_parameter_beyond_float64_is_infinite():
    law = LAWS["kaplan"]
    theta = law.theta({"Nc": 1.0, "Dc": 1.0, "aN": 1e-3, "aD": 0.1})
    natural = law.to_data_units(theta, np.array([18.0, 24.0]), 3.0)
    assert natural["Nc"] == np.inf and np.isfinite(natural["Dc"])


@pytest.mark.parametrize("name", NAMES)
def test_falls_where_it_says_so(name):
    law = LAWS[name]
    x = prepare(points(law), name).x
    for shift in (0.0, 0.5, 1.0):
        theta = law.theta(truth(law, shift))
        for i, a in enumerate(law.axes):
            if a.falls:
                more = x.copy()
                more[:, i] += 0.1
                assert (
                    law.function(np, theta, more) <= law.function(np, theta, x) * (1 + 1e-12)
                ).all(), a.name


@pytest.mark.parametrize("name", NAMES)
def test_a_held_parameter_in_the_units_of_the_data_is_the_same_law(name):
    law = LAWS[name]
    table = points(
        law, units=np.array([0.0 if a.kind in ("share", "raw") else 2.0 for a in law.axes])
    )
    p = prepare(table, name)
    theta = law.theta(truth(law))
    natural = law.to_data_units(theta, np.array(p.centre), p.scale)
    for held in law.parameters:
        other = in_units(law, {held: float(natural[held])}, np.array(p.centre), p.scale)
        mixed = truth(law) | {held: float(natural[held])}
        np.testing.assert_allclose(
            other.function(np, other.theta(mixed), p.x), law.function(np, theta, p.x), rtol=1e-8
        )


def test_a_law_is_found_by_its_published_code_too():
    assert law_named("h0") is LAWS["split_total"]
    assert law_named("h5").name == "split_product"
    assert len({law.alias for law in LAWS.values() if law.alias}) == 7
    with pytest.raises(UserError, match="did you mean 'chinchilla'"):
        law_named("chinchila")


def test_starts_solve_the_linear_parameters_at_or_above_their_least_value():
    """The best over a fine grid of the two coefficients, with the least one enforced."""
    law = LAWS["floor_n"]
    p = prepare(points(law).assign(loss=lambda t: 1.0 + 0.3 * np.log(t["N"]) ** 2), "floor_n")
    solved = law.with_linear_solved({"alpha": 0.5}, p.x, p.y, p.w)
    term = np.exp(-0.5 * p.x[:, 0])

    def cost(e, a):
        return ((e + a * term - p.y) ** 2).sum()

    least = [q.start[0] for q in law.params[:2]]
    assert solved["E"] >= least[0] and solved["A"] >= least[1]
    best = min(
        cost(e, a)
        for e in least[0] + np.linspace(0, 2, 201)
        for a in least[1] + np.linspace(0, 2, 201)
    )
    assert cost(solved["E"], solved["A"]) <= best * (1 + 1e-12)


# One law a kind in the fast suite: every law compiles its own solver, 2 to 6 s.
QUICK = ("floor_c", "kaplan", "steplaw_lr", "sigmoid", "split_effective", "liew", "t2_loss", "ye_3")
# many parameters, weakly identified even by exact points
HARD = "farseer", "shannon", "shukor_joint_3"


@pytest.mark.parametrize(
    "name",
    [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in NAMES if n not in HARD],
)
def test_recovers_its_own_points(name):
    """The law's own predictions at other points, from exact points; its parameters too wherever the
    points identify them.
    """
    law = LAWS[name]
    table, more = points(law), points(law, seed=5)
    found = fit(
        table,
        name,
        objective="squared_log" if not law.unitless else "squared",
        unidentified="report",
    )
    np.testing.assert_allclose(
        found.predict(**{n: more[n].to_numpy() for n in law.inputs}), more[law.output], rtol=2e-4
    )
    assert found.residual_sd < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", HARD)
def test_comes_close_to_its_own_points(name):
    law = LAWS[name]
    found = fit(
        points(law, count=200 if len(law.params) < 12 else 400),
        name,
        objective="squared_log",
        unidentified="report",
    )
    assert found.residual_sd < 5e-3
