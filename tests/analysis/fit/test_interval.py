"""Prediction intervals and profiles against those that are known exactly: a law that is linear in
logs has Student's and F's.
"""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student

from stepladder.analysis.fit.fit import fit
from stepladder.analysis.fit.interval import prediction_interval, profile
from stepladder.configs.core.errors import UserError

NOISE = 0.01


def line(count=8, seed=0, noise=NOISE, groups=0):
    """Loss 20 / C^.05; with `groups`, neighbours in that many groups have most of their noise in
    common.
    """
    rng = np.random.default_rng(seed)
    c = np.geomspace(1e17, 1e20, count)
    shock = rng.standard_normal(count)
    if groups:
        shock = (
            np.sqrt(0.9) * rng.standard_normal(groups)[np.arange(count) * groups // count]
            + np.sqrt(0.1) * shock
        )
    return pd.DataFrame({"C": c, "loss": 20 / c**0.05 * np.exp(noise * shock)})


def regression(points, at):
    """Of ln loss on ln C: residual s.d., degrees of freedom, leverage of `at`, and (value, s.e.) of
    ln A and alpha.
    """
    x = np.stack([np.ones(len(points)), -np.log(points["C"])], 1)
    beta, rss, *_ = np.linalg.lstsq(x, np.log(points["loss"]), rcond=None)
    sd, inverse = float(np.sqrt(rss[0] / (len(x) - 2))), np.linalg.inv(x.T @ x)
    new = np.array([1.0, -np.log(at)])
    return (
        sd,
        len(x) - 2,
        float(new @ inverse @ new),
        list(zip(beta, sd * np.sqrt(np.diag(inverse)))),
    )


def test_prediction_interval_is_students():
    points, at = line(), 1e22
    found = fit(points, "power_c", objective="squared_log")
    [ours] = prediction_interval(found, {"C": at}, resamples=20_000)
    sd, freedom, leverage, _ = regression(points, at)
    half = student.ppf(0.95, freedom) * sd * np.sqrt(1 + leverage)
    assert np.log(ours.high / ours.value) == pytest.approx(half, rel=0.05)
    assert np.log(ours.value / ours.low) == pytest.approx(half, rel=0.05)
    assert ours.beyond["C"] == pytest.approx(100)
    assert "100x the points' largest" in str(ours)


def test_prediction_interval_covers_as_it_says():
    """Six points, so four degrees of freedom, and a run 30 times beyond; new noise each time."""
    hits, trials, level = 0, 150, 0.8
    for trial in range(trials):
        rng = np.random.default_rng([1, trial])
        found = fit(line(6, seed=trial), "power_c", objective="squared_log")
        [ours] = prediction_interval(found, {"C": 3e21}, level=level, resamples=200, seed=trial)
        hits += ours.low <= 20 / 3e21**0.05 * np.exp(NOISE * rng.standard_normal()) <= ours.high
    assert hits == pytest.approx(trials * level, abs=3 * np.sqrt(trials * level * (1 - level)))


def test_runs_of_one_trunk_tell_less():
    """Points that share most of their noise: the interval that knows it is wider than the one that
    does not.
    """
    points = line(40, groups=5, seed=4)
    found = fit(points, "power_c", objective="squared_log")
    names = np.arange(40) * 5 // 40
    [blind] = prediction_interval(found, {"C": 1e22}, resamples=2000)
    [knows] = prediction_interval(found, {"C": 1e22}, resamples=2000, clusters=names)
    assert knows.parameter_sd > 1.2 * blind.parameter_sd


def test_prediction_interval_is_wider_further_out_and_fixed_by_its_seed():
    found = fit(line(), "power_c", objective="squared_log")
    rows = pd.DataFrame({"C": [1e19, 1e21, 1e23]})
    one, same, other = (prediction_interval(found, rows, seed=s) for s in (0, 0, 1))
    assert one == same and one != other
    assert one[0].parameter_sd < one[1].parameter_sd < one[2].parameter_sd


def test_points_without_weight_say_nothing_about_the_noise():
    points = line(12).assign(w=[1.0] * 9 + [0.0] * 3)
    points.loc[9:, "loss"] *= 1.3
    hidden = fit(points, "power_c", objective="squared_log", weights="w")
    dropped = fit(points.iloc[:9], "power_c", objective="squared_log")
    [one], [two] = (prediction_interval(f, {"C": 1e21}, resamples=4000) for f in (hidden, dropped))
    assert one.noise_sd == pytest.approx(two.noise_sd, rel=0.05)
    assert np.log(one.high / one.low) == pytest.approx(np.log(two.high / two.low), rel=0.1)


@pytest.mark.parametrize("name", ["A", "alpha"])
@pytest.mark.parametrize("noise", [0.5, 0.02, 0.0005])
def test_profile_is_the_f_interval(noise, name):
    """Exactly so in logs, for wide and for narrow errors: the square of t is F with one degree of
    freedom.
    """
    points = line(noise=noise)
    found = fit(points, "power_c", objective="squared_log")
    _, freedom, _, errors = regression(points, 1e22)
    value, se = errors[("A", "alpha").index(name)]
    half = student.ppf(0.95, freedom) * se
    ours = profile(found, name)
    ends = (
        np.array([ours.low, ours.high], float)
        if name == "alpha"
        else np.log(np.array([ours.low, ours.high], float))
    )
    np.testing.assert_allclose(ends, [value - half, value + half], atol=0.02 * half)


def test_profile_of_an_exponent_next_to_zero():
    """Its error is many times its value, and bounds it all the same."""
    points = line(seed=1).assign(loss=lambda t: t["loss"] * t["C"] ** 0.05)
    found = fit(points, "power_c", objective="squared_log")
    _, freedom, _, errors = regression(points, 1e22)
    value, se = errors[1]
    assert abs(value) < 0.5 * se
    half, ours = student.ppf(0.95, freedom) * se, profile(found, "alpha")
    np.testing.assert_allclose(
        np.array([ours.low, ours.high], float), [value - half, value + half], atol=0.02 * half
    )


def test_profile_says_unbounded_where_the_points_do_not_bound():
    """Losses far above a floor that nobody has seen: it may be next to nothing, but no higher than
    the losses.
    """
    n = np.geomspace(1e6, 1e8, 12)
    loss = (1.5 + 40 / n**0.15) * np.exp(0.01 * np.random.default_rng(0).standard_normal(12))
    found = fit(pd.DataFrame({"N": n, "loss": loss}), "floor_n", objective="squared_log")
    ours = profile(found, "E")
    assert ours.low is None and "unbounded" in str(ours)
    assert ours.high is not None and found.params["E"] < ours.high < loss.min()
    assert ours.frame["ratio"].min() == pytest.approx(1, abs=1e-9)


def test_refusals():
    found = fit(line(), "power_c", objective="squared_log")
    with pytest.raises(UserError, match="'beta': not a free one; use one of A, alpha"):
        profile(found, "beta")
    with pytest.raises(UserError, match="no likelihood"):
        profile(fit(line(), "power_c"), "alpha")
    with pytest.raises(UserError, match="level=1.5"):
        prediction_interval(found, {"C": 1e22}, level=1.5)
    with pytest.raises(UserError, match="level=90"):
        profile(found, "alpha", level=90)
    with pytest.raises(UserError, match="resamples=1: too few"):
        prediction_interval(found, {"C": 1e22}, resamples=1)
    with pytest.raises(UserError, match="clusters=2 names: the fit has"):
        prediction_interval(found, {"C": 1e22}, clusters=["a", "b"])
    with pytest.raises(UserError, match="points=2: as many as parameters"):
        prediction_interval(
            fit(line(2), "power_c", objective="squared_log", unidentified="report"), {"C": 1e22}
        )


def test_a_missing_input_is_refused_by_name():
    with pytest.raises(UserError, match="needs C"):
        prediction_interval(fit(line(), "power_c", objective="squared_log"), {"N": 1e9})
