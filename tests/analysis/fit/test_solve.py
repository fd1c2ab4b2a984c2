"""The batched solver: a job is the same job alone, among others, on any number of threads; held
parameters; quantiles.
"""

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import least_squares

from stepladder.analysis.fit.fit import fit
from stepladder.analysis.fit.prepare import prepare
from stepladder.analysis.fit.solve import MOST_JOBS, solve
from stepladder.analysis.laws import LAWS

CHINCHILLA = LAWS["chinchilla"]


def ladder(seed=0, noise=0.01):
    n, d = (v.ravel() for v in np.meshgrid(np.geomspace(1e7, 3e9, 6), np.geomspace(1e9, 1e11, 5)))
    loss = 1.69 + 406.4 / n**0.34 + 410.7 / d**0.28
    return pd.DataFrame(
        {
            "N": n,
            "D": d,
            "loss": loss * np.exp(noise * np.random.default_rng(seed).standard_normal(len(n))),
        }
    )


@pytest.fixture(scope="module")
def jobs():
    """Twelve jobs that differ in everything: outputs, weights with hidden points, starts, held
    parameters.
    """
    p, rng = prepare(ladder()), np.random.default_rng(1)
    count = 12
    y = p.y * np.exp(0.01 * rng.standard_normal((count, len(p.y))))
    w = rng.multinomial(len(p.y), np.full(len(p.y), 1 / len(p.y)), size=count).astype(float)
    free = np.ones((count, 5), bool)
    free[np.arange(4), np.arange(4)] = False
    free[4, [0, 3]] = False
    return p.x, y, w, p.law.starts(p.x, p.y, p.w)[:count], free


def run(x, y, w, theta, free, **options):
    return solve(CHINCHILLA, "squared_log", 1e-3, x, y, w, theta, free=free, **options)


def same(one, other):
    for name in ("theta", "value", "converged", "iterations"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


def test_jobs_in_one_call_equal_single_calls(jobs):
    x, y, w, theta, free = jobs
    together = run(*jobs)
    assert together.converged.all()
    for k in range(len(theta)):
        alone = run(x, y[k], w[k], theta[k : k + 1], free[k])
        np.testing.assert_array_equal(alone.theta[0], together.theta[k])
        assert alone.value[0] == together.value[k]


def test_held_parameters_stay_at_their_start(jobs):
    found = run(*jobs)
    theta, free = jobs[3:]
    np.testing.assert_array_equal(found.theta[~free], theta[~free])
    assert (found.theta[free] != theta[free]).all()
    assert ((found.theta >= CHINCHILLA.lower) & (found.theta <= CHINCHILLA.upper))[free].all()


def test_callables_equal_arrays(jobs):
    x, y, w, theta, free = jobs
    same(run(x, lambda numbers: y[numbers], lambda numbers: w[numbers], theta, free), run(*jobs))


def test_neither_the_number_of_jobs_nor_of_threads_changes_a_result(jobs):
    """More jobs than places: they queue, and which of them shares a chunk with which depends on the
    threads.
    """
    repeats = 2 * MOST_JOBS // 12 + 3
    many = (jobs[0], *(np.tile(v, (repeats, 1)) for v in jobs[1:]))
    one, three = run(*many, threads=1), run(*many, threads=3)
    same(one, three)
    np.testing.assert_array_equal(one.theta, np.tile(run(*jobs).theta, (repeats, 1)))


def test_points_without_weight_do_not_matter(jobs):
    x, y, w, theta, free = jobs
    shifted = np.where(w == 0, 7.0, y)
    np.testing.assert_array_equal(run(x, shifted, w, theta, free).theta, run(*jobs).theta)


@pytest.mark.parametrize("held", [{"alpha": 0.3}, {"A": 300.0}])
def test_fixed_parameters_equal_scipy_under_the_same_constraint(held):
    """A coefficient is held in the units of the table, where it is coupled with its exponent: A /
    N^alpha moves with alpha.
    """
    points = ladder()
    names = [name for name in CHINCHILLA.parameters if name not in held]
    log_n, log_d, log_loss = (np.log(points[c].to_numpy()) for c in ("N", "D", "loss"))

    def residual(logs):
        p = held | dict(zip(names, np.exp(logs)))
        return (
            np.log(
                p["E"]
                + np.exp(np.log(p["A"]) - p["alpha"] * log_n)
                + np.exp(np.log(p["B"]) - p["beta"] * log_d)
            )
            - log_loss
        )

    starts = [
        {"E": 1.5, "A": a ** (1 + k), "B": b ** (1 + k), "alpha": 0.3, "beta": 0.3}
        for a in (200, 500)
        for b in (200, 500)
        for k in (0, 0.1)
    ]
    runs = [
        least_squares(
            residual,
            np.log([s[n] for n in names]),
            xtol=1e-15,
            ftol=1e-15,
            gtol=1e-15,
            x_scale="jac",
        )
        for s in starts
    ]
    best = min(runs, key=lambda r: r.cost)
    found = fit(points, objective="squared_log", fixed=held)
    assert {n: found.params[n] for n in held} == pytest.approx(held, rel=1e-12)
    assert found.value == pytest.approx(best.cost, rel=1e-9)
    assert {n: found.params[n] for n in names} == pytest.approx(
        dict(zip(names, np.exp(best.x))), rel=1e-4
    )
    assert all(found.log_se[n] == 0 for n in held) and found.rank == len(names)


@pytest.mark.parametrize("tau", [0.1, 0.5, 0.8])
def test_the_share_of_points_below_a_fitted_quantile_is_tau(tau):
    """Exactly so up to the points that the quantile passes through, as many as parameters."""
    rng = np.random.default_rng(3)
    c = np.exp(rng.uniform(np.log(1e18), np.log(1e22), 400))
    points = pd.DataFrame({"C": c, "loss": 20 / c**0.05 * np.exp(rng.gamma(2.0, 0.02, 400))})
    found = fit(points, "power_c", objective="quantile_log", tau=tau)
    residual = found.residuals  # prediction - output
    on = np.abs(residual) < 1e-6
    assert on.sum() <= 2
    below = (residual[~on] > 0).sum()
    assert below <= tau * 400 <= below + on.sum()
    assert found.value == pytest.approx(2 * np.where(residual < 0, tau, 1 - tau) @ np.abs(residual))
