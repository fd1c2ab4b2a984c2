"""Bootstrap: what a resample is, what the seed fixes, what is lost and said so, and the errors that
it gives.
"""

import numpy as np
import pandas as pd
import pytest

from stepladder.analysis.fit import solve
from stepladder.analysis.fit.bootstrap import bootstrap
from stepladder.analysis.fit.fit import fit
from stepladder.configs.core.errors import UserError


def ladder(sizes=10, durations=20, noise=0.005, seed=0):
    n, d = (
        v.ravel()
        for v in np.meshgrid(np.geomspace(1e6, 1e10, sizes), np.geomspace(1e8, 1e12, durations))
    )
    loss = 1.69 + 406.4 / n**0.34 + 410.7 / d**0.28
    return pd.DataFrame(
        {
            "N": n,
            "D": d,
            "loss": loss * np.exp(noise * np.random.default_rng(seed).standard_normal(len(n))),
        }
    )


@pytest.fixture(scope="module")
def fitted():
    return fit(ladder(), objective="squared_log")


def few(repeats=2, sizes=3):
    """A law of three parameters at just three sizes."""
    n = np.repeat(np.geomspace(1e6, 1e10, sizes), repeats)
    return pd.DataFrame(
        {
            "N": n,
            "loss": (1.7 + 400 / n**0.34)
            * np.exp(0.003 * np.random.default_rng(2).standard_normal(len(n))),
        }
    )


def test_seed_fixes_everything(fitted):
    one = bootstrap(fitted, 60, seed=1)
    pd.testing.assert_frame_equal(
        one.params, bootstrap(fitted, 60, seed=1).params, check_exact=True
    )
    assert not np.allclose(
        one.params["alpha"], bootstrap(fitted, 60, seed=2).params["alpha"], rtol=1e-3
    )
    assert (one.params.nunique() == 60).all()


def test_a_resample_depends_on_its_own_number_only(fitted, monkeypatch):
    many = bootstrap(fitted, 60, seed=1)
    pd.testing.assert_frame_equal(
        bootstrap(fitted, 25, seed=1).params, many.params.iloc[:25], check_exact=True
    )
    # 5 jobs a chunk: other sums of the same numbers
    monkeypatch.setattr(solve, "CHUNK_VALUES", 5 * 224)
    pd.testing.assert_frame_equal(bootstrap(fitted, 60, seed=1).params, many.params, rtol=1e-7)


def test_clusters_are_resampled_whole(fitted):
    """Each row twice under one name is each row once: a resample takes both or none."""
    twice = pd.concat([ladder(), ladder()], ignore_index=True)
    by_rows = bootstrap(fitted, 40)
    found = bootstrap(fit(twice, objective="squared_log"), 40, clusters=np.tile(np.arange(200), 2))
    assert found.clusters == by_rows.clusters == 200
    np.testing.assert_allclose(found.params, by_rows.params, rtol=1e-5)
    narrow = bootstrap(fit(twice, objective="squared_log"), 400)
    # rows that are no news count as news
    assert narrow.stderr["alpha"] < 0.8 * bootstrap(fitted, 400).stderr["alpha"]


def test_refits_are_fits_of_the_resampled_table(fitted):
    """By weights in the first place; here the same counts as repeated rows."""
    points = ladder()
    counts = np.random.default_rng([7, 3]).multinomial(200, np.full(200, 1 / 200))
    found = fit(points.loc[np.repeat(points.index, counts)], objective="squared_log")
    assert found.params == pytest.approx(
        bootstrap(fitted, 4, seed=7).params.loc[3].to_dict(), rel=1e-5
    )


@pytest.mark.parametrize("objective, delta", [("squared_log", 1e-3), ("huber_log", 5e-3)])
def test_standard_errors_agree_with_linearised_ones(objective, delta):
    """A well-conditioned table: 200 points over four decades, .5 % noise; Huber's linearised ones
    are the sandwich.
    """
    found = fit(ladder(), objective=objective, delta=delta)
    refits = bootstrap(found, 1000)
    assert len(refits.params) == 1000 and refits.lost == refits.failed == 0
    for name, se in found.log_se.items():
        assert np.log(refits.params[name]).std() == pytest.approx(se, rel=0.2), name
        assert refits.stderr[name] == pytest.approx(se * found.params[name], rel=0.25), name


def test_interval_and_frame(fitted):
    refits = bootstrap(fitted, 400)
    wide, narrow = refits.interval(0.9), refits.interval(0.5)
    assert (wide["low"] < narrow["low"]).all() and (narrow["high"] < wide["high"]).all()
    value, low, high = refits.predict(N=1e11, D=1e13)
    assert low < value < high and value == pytest.approx(fitted.predict(N=1e11, D=1e13))
    assert list(refits.to_frame().columns) == ["value", "stderr", "low", "high"]
    assert "400 refits of 200 resampled clusters" in str(refits)


def test_lost_resamples_are_counted():
    """Six rows, each of three sizes twice: 3 (2/3)^6 - 3 (1/3)^6 = 26 % of the resamples miss a
    size.
    """
    found = bootstrap(fit(few(), "floor_n", objective="squared_log"), 1000)
    share = 3 * (2 / 3) ** 6 - 3 * (1 / 3) ** 6
    assert found.lost + found.failed + len(found.params) == found.resamples == 1000
    assert found.lost == pytest.approx(1000 * share, abs=4 * np.sqrt(1000 * share * (1 - share)))
    assert f"left out: {found.lost} that lost too many different inputs" in str(found)


def test_refused_when_most_resamples_are_lost():
    table = few(repeats=4)
    with pytest.raises(UserError, match=r"clusters=3: \d+ of 200 resamples lose sizes"):
        bootstrap(fit(table, "floor_n", objective="squared_log"), 200, clusters=table["N"])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"clusters": ["a", "b"]}, "clusters=2 names: the fit has 200 points"),
        ({"clusters": ["a"] * 200}, "one cluster only"),
        ({"resamples": 1}, "resamples=1"),
    ],
)
def test_refusals(fitted, options, message):
    with pytest.raises(UserError, match=message):
        bootstrap(fitted, **options)
