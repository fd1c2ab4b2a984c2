"""Compute-optimal allocation: closed forms are what a search finds, intervals cover, constraints
hold.
"""

import numpy as np
import pandas as pd
import pytest

from stepladder.analysis.decide import allocate as module
from stepladder.analysis.decide.allocate import allocate
from stepladder.analysis.decide.overtraining import inference_aware
from stepladder.analysis.decide.split import split_point
from stepladder.analysis.decide.test_time import t2_frontier
from stepladder.analysis.fit.bootstrap import bootstrap
from stepladder.analysis.fit.fit import fit
from stepladder.configs.core.errors import UserError

TRUE = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}


def ladder(seed=0, noise=0.003, p=TRUE):
    n, d = (v.ravel() for v in np.meshgrid(np.geomspace(1e7, 1e10, 7), np.geomspace(1e8, 1e12, 8)))
    loss = p["E"] + p["A"] / n ** p["alpha"] + p["B"] / d ** p["beta"]
    return pd.DataFrame(
        {
            "N": n,
            "D": d,
            "C": 6 * n * d,
            "loss": loss * np.exp(noise * np.random.default_rng(seed).standard_normal(len(n))),
        }
    )


@pytest.fixture(scope="module")
def fitted():
    return fit(ladder(), objective="squared_log")


@pytest.mark.parametrize("law", ["chinchilla", "gadre"])
def test_closed_form_is_what_the_search_finds(law, monkeypatch):
    table = ladder() if law == "chinchilla" else ladder(p=TRUE | {"beta": TRUE["alpha"]})
    found = fit(table, law, objective="squared_log")
    refits = bootstrap(found, 20)
    budgets = (1e17, 1e21, 1e25)
    closed = [allocate(found, c, bootstrap=refits) for c in budgets]
    monkeypatch.setattr(module, "CLOSED", {})
    searched = [allocate(found, c, bootstrap=refits) for c in budgets]
    for a, b, c in zip(closed, searched, budgets):
        assert (a.how, b.how) == ("closed form", "numerical") and b.exponent is None
        np.testing.assert_allclose([b.N, b.D], [a.N, a.D], rtol=2e-3)
        np.testing.assert_allclose([6 * a.N * a.D, 6 * b.N * b.D], c, rtol=1e-12)
        assert b.loss == pytest.approx(a.loss, rel=1e-7)
        np.testing.assert_allclose(b.intervals["N"], a.intervals["N"], rtol=3e-3)
        # The claim itself: the law's own loss is no lower a little off.
        for shift in (0.9, 1.1):
            assert found.predict(N=a.N * shift, D=a.D / shift) > a.loss
    assert closed[1].exponent == pytest.approx(
        np.log(closed[2].N / closed[0].N) / np.log(1e8), rel=1e-9
    )


def test_intervals_cover_the_truth():
    """Of 30 tables, about 27 at 90 %; fewer than 22 would happen once in a thousand."""
    true_n = module.CLOSED["chinchilla"](TRUE, 1e23)[0]
    hits = {"N": 0, "a": 0}
    for seed in range(30):
        found = fit(ladder(seed), objective="squared_log")
        spans = allocate(found, 1e23, bootstrap=bootstrap(found, 200, seed=seed)).intervals
        hits["N"] += spans["N"][0] <= true_n <= spans["N"][1]
        hits["a"] += spans["a"][0] <= TRUE["beta"] / (TRUE["alpha"] + TRUE["beta"]) <= spans["a"][1]
    assert min(hits.values()) >= 22, hits


def test_frame_text_and_note_of_an_extrapolation(fitted):
    inside = allocate(fitted, 1e20)
    outside = allocate(fitted, 1e26, bootstrap=bootstrap(fitted, 20))
    assert inside.notes == () and inside.intervals == {}
    assert len(outside.notes) == 2 and "extrapolation" in outside.notes[0]
    assert outside.to_frame().loc["D/N", "value"] == pytest.approx(outside.tokens_per_parameter)
    assert (outside.to_frame()["low"] < outside.to_frame()["high"]).all()
    assert "90% intervals" in str(outside) and "intervals" not in str(inside)


def test_refusals(fitted):
    with pytest.raises(UserError, match="has no N and D to choose"):
        allocate(fit(ladder(), "power_c", objective="squared_log"), 1e21)
    with pytest.raises(UserError, match="C=0"):
        allocate(fitted, 0)


def test_other_inputs_of_a_law_are_given():
    """No second stage is the law of one stage, whose closed form is known."""
    one = ladder(noise=0)
    table = pd.concat(
        [one.assign(D=share * one["D"], D2=(1 - share) * one["D"]) for share in (0.9, 0.5, 0.2)]
    )
    found = fit(table, "split_total", objective="squared_log")
    with pytest.raises(UserError, match="D2: law split_total needs it"):
        allocate(found, 1e21)
    n, d, loss, _ = module.CLOSED["chinchilla"](TRUE, 1e21)
    ours = allocate(found, 1e21, D2=0.0)
    assert (ours.N, ours.D, ours.loss) == pytest.approx((n, d, loss), rel=2e-3)
    more = allocate(found, 1e21, D2=1e12)
    assert n < more.N  # tokens that come anyway leave more compute for size


def test_inference_aware_meets_its_condition():
    """alpha A N^-alpha / (beta B D^-beta) = 1 + D_inf / (3 D) at the loss asked for
    (arXiv:2401.00448).
    """
    before = None
    for served in (0.0, 1e11, 1e13):
        found = inference_aware(TRUE, loss=2.1, D_inf=served)
        n, d = found["N"], found["D"]
        assert TRUE["E"] + TRUE["A"] / n ** TRUE["alpha"] + TRUE["B"] / d ** TRUE[
            "beta"
        ] == pytest.approx(2.1, rel=1e-9)
        ratio = (
            TRUE["alpha"]
            * TRUE["A"]
            / n ** TRUE["alpha"]
            / (TRUE["beta"] * TRUE["B"] / d ** TRUE["beta"])
        )
        assert ratio == pytest.approx(1 + served / (3 * d), rel=1e-3)
        assert found["flops"] == pytest.approx(6 * n * d + 2 * n * served)
        assert before is None or (n < before["N"] and found["flops_ratio"] < before["flops_ratio"])
        before = found
    with pytest.raises(UserError, match="floor"):
        inference_aware(TRUE, loss=1.6, D_inf=1e12)
    with pytest.raises(UserError, match="D_inf=-1"):
        inference_aware(TRUE, loss=2.1, D_inf=-1)


def test_t2_frontier_keeps_one_sample_at_least():
    """Nothing gained from samples: all compute of a question goes into one."""
    found = t2_frontier(TRUE | {"G": 1e-9, "gamma": 0.3}, C=1e24, C_inf=1e8)
    assert found["k"] == pytest.approx(1.0) and found["N"] == pytest.approx(5e7)


@pytest.mark.parametrize("experts", [1.0, 8.0])
def test_split_point_with_equal_exponents(experts):
    """D / D2 = (m B / B2)^(1 / (1 + beta)), where the two derivatives are equal."""
    p = {"B": 400.0, "beta": 0.3, "B2": 90.0, "beta2": 0.3}
    found = split_point(p, 1e10, experts)
    assert found["D"] / found["D2"] == pytest.approx((experts * 400 / 90) ** (1 / 1.3), rel=1e-3)
    assert found["D"] + experts * found["D2"] == pytest.approx(1e10)
