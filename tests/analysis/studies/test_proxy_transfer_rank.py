"""Rank agreement, regret, crossovers and their intervals: by hand, against SciPy, and by simulated
coverage.
"""

import itertools
import math

import numpy as np
import pytest

from stepladder.analysis.studies.proxy_transfer import (
    crossover,
    decision_accuracy,
    regret_at_k,
    spearman,
)
from stepladder.analysis.studies.proxy_transfer.checks import at_least, wilson
from stepladder.analysis.studies.proxy_transfer.measures.alignment import weighted_median
from stepladder.analysis.studies.proxy_transfer.measures.bootstrap_draws import (
    estimate,
    fisher,
    interval,
    perfect_low,
    resampled,
)
from stepladder.analysis.studies.proxy_transfer.measures.rank_agreement import (
    Sample,
    Side,
    agreement,
    fixed,
)
from stepladder.analysis.studies.proxy_transfer.measures.target_truth import refine
from stepladder.analysis.studies.proxy_transfer.measures.validity import normal_range


def test_spearman_by_hand():
    x, y = [1, 2, 3, 4, 5], [2, 1, 4, 3, 5]
    d2 = 1 + 1 + 1 + 1
    assert spearman(x, y) == pytest.approx(1 - 6 * d2 / (5 * 24))
    assert spearman(x, [-v for v in x]) == pytest.approx(-1)
    assert np.isnan(spearman([1, 1, 1], [1, 2, 3])) and np.isnan(spearman([1, 2], [1, 2]))


@pytest.mark.parametrize("ties", [0, 3, 1])
def test_spearman_and_accuracy_equal_scipy(ties):
    from scipy.stats import kendalltau, somersd, spearmanr

    rng = np.random.default_rng(ties)
    for n in (5, 12, 23):
        x, y = rng.standard_normal((2, n))
        if ties:
            x, y = np.round(x * ties), np.round(y * ties)
        assert spearman(x, y) == pytest.approx(spearmanr(x, y).statistic)
        # Somers' D leaves out the pairs that are tied in its first argument.
        assert decision_accuracy(x, y) == pytest.approx((1 + somersd(y, x).statistic) / 2)
        if not ties:
            assert decision_accuracy(x, y) == pytest.approx((1 + kendalltau(x, y).statistic) / 2)


def test_accuracy_by_hand():
    # Pairs of y: (1,2), (1,3), (2,3); x turns the last one round.
    assert decision_accuracy([1, 3, 2], [1, 2, 3]) == pytest.approx(2 / 3)
    # a tie in x is a coin toss
    assert decision_accuracy([1, 1, 2], [1, 2, 3]) == pytest.approx(2.5 / 3)
    assert decision_accuracy([1, 2, 3], [1, 1, 2]) == pytest.approx(1)  # a tie in y is no decision


def test_weights_are_copies():
    rng = np.random.default_rng(4)
    x, y = rng.standard_normal((2, 9))
    counts = rng.multinomial(9, np.full(9, 1 / 9), size=20)
    copies = [np.repeat(np.arange(9), c) for c in counts]
    w = counts.astype(float)
    assert spearman(x[None], y[None], w) == pytest.approx(
        [float(spearman(x[c], y[c])) for c in copies]
    )
    assert decision_accuracy(x[None], y[None], w) == pytest.approx(
        [float(decision_accuracy(x[c], y[c])) for c in copies]
    )
    for k, reading in itertools.product((1, 3, 5), ("best", "mean")):
        many = regret_at_k(np.tile(x, (20, 1)), np.tile(y, (20, 1)), k, w, reading=reading)
        assert many == pytest.approx(
            [float(regret_at_k(x[c], y[c], k, reading=reading)) for c in copies]
        )


def test_a_batch_of_scores_is_many_calls():
    rng = np.random.default_rng(5)
    x = rng.standard_normal((30, 8))
    y = rng.standard_normal((30, 8))
    w = rng.integers(0, 3, (30, 8)).astype(float)
    for measure in (spearman, decision_accuracy):
        assert measure(x, y, w) == pytest.approx(
            [float(measure(a, b, c)) for a, b, c in zip(x, y, w)], nan_ok=True, rel=1e-5
        )


def test_missing_and_diverged():
    x, y = np.array([1, 2, np.nan, 4, np.inf]), np.array([1, 2, 3, 4, 5.0])
    assert spearman(x, y) == pytest.approx(1) and decision_accuracy(x, y) == pytest.approx(1)
    assert spearman(x, y[::-1]) == pytest.approx(-1)
    # the diverged one is picked last, the missing never
    assert regret_at_k([np.inf, 2, np.nan], [1.0, 3.0, 0.0], 1) == pytest.approx(2)


def test_regret_by_hand():
    proxy, truth = [3, 1, 2, 4], [0.0, 0.5, 0.2, 0.1]
    assert regret_at_k(proxy, truth, 1) == pytest.approx(0.5)
    assert regret_at_k(proxy, truth, 2) == pytest.approx(0.2)
    assert regret_at_k(proxy, truth, 3) == pytest.approx(0)
    assert regret_at_k(proxy, truth, 2, reading="mean") == pytest.approx(0.35 - 0.05)
    assert regret_at_k(proxy, truth, 9, reading="mean") == pytest.approx(0)  # all of them
    # a tie is broken against us
    assert regret_at_k([1, 1, 2], [0.0, 0.7, 0.3], 1) == pytest.approx(0.7)


def test_crossover_by_hand():
    found = crossover([3.0, 1.0, 2.0], [10.0, 2.0, 12.0])
    assert found[0, 1] == pytest.approx(2 * 2 / 8) == found[1, 0]
    assert np.isnan(found[0, 2])  # better aligned and less curved: never overtaken
    assert found[1, 2] == pytest.approx(2 * 1 / 10)

    def loss(a, c, eta):
        return -eta * a + eta**2 / 2 * c

    eta = found[0, 1]
    assert loss(3, 10, eta) == pytest.approx(loss(1, 2, eta)) and loss(3, 10, 0.9 * eta) < loss(
        1, 2, 0.9 * eta
    )


def test_parabola_through_the_three_lowest():
    rates = np.array([1e-5, 1e-4, 1e-3, 1e-2])
    truth = 3.0 + 0.2 * np.log(rates / 4e-4) ** 2
    assert refine(rates, truth) == (pytest.approx(3.0), pytest.approx(4e-4))
    # falling to the edge: no least inside
    assert np.isnan(refine(rates[:3], np.array([3.0, 2.0, 1.0]))[0])
    assert np.isnan(refine(rates[:3], np.array([1.0, 2.0, np.inf]))[0])


def test_fisher_is_the_reference_of_the_protocol():
    low, high = fisher(0.95, 23, 0.95)
    assert (round(low, 2), round(high, 2)) == (0.88, 0.98)
    assert all(map(math.isnan, fisher(1.0, 23, 0.95))) and all(
        map(math.isnan, fisher(0.5, 3, 0.95))
    )


def test_no_resample_disagrees():
    many = np.ones(1000)
    rho = estimate(1.0, many, 0.95, 12, 12, kind="rho")
    assert rho.low == pytest.approx(perfect_low(12, 0.95)) and 0.9 < rho.low < 1 and rho.note
    share = estimate(0.0, many * 0, 0.95, 12, 12, kind="share")
    assert share.high == pytest.approx(1 - 0.05 ** (1 / 6)) and share.low == 0
    worst = estimate(-1.0, -many, 0.95, 12, 12, kind="rho")
    assert (worst.low, worst.high) == (-1.0, pytest.approx(-rho.low))


def test_interval_holds_infinite_draws():
    assert interval(np.array([np.nan, 1.0, np.inf, 2.0]), 0.95) == (1.0, np.inf)
    assert all(map(math.isnan, interval(np.array([np.nan]), 0.95)))


def test_weighted_median():
    values = np.array([3.0, 1.0, np.nan, 2.0])
    weights = np.array([[1.0, 1, 9, 1], [0, 1, 9, 1], [0, 0, 9, 0], [5, 1, 0, 1]])
    assert (
        weighted_median(values, weights)[:2] == pytest.approx([2.0, 1.5])
        and np.isnan(weighted_median(values, weights)[2])
        and weighted_median(values, weights)[3] == 3
    )


def test_a_side_keeps_no_sums_of_other_draws():
    """Each set of draws has its own interval, whatever was asked before."""
    rng = np.random.default_rng(3)
    one, two = fixed(rng.standard_normal(9)), fixed(rng.standard_normal(9))
    found = []
    for _ in range(3):
        # Draws that are freed at once: the next ones may lie at the same address.
        sample = Sample(tuple("abcdefghi"), resampled(9, {}, 200, rng), 0.95)
        rho = agreement(one, two, sample).draws
        assert rho == pytest.approx(
            spearman(one.draws, two.draws, sample.draws.weights), nan_ok=True, rel=1e-5
        )
        found.append(rho)
        del sample
    assert not np.array_equal(found[0], found[1], equal_nan=True)


def test_chances_and_shares_by_hand():
    assert at_least(0, 2.0) == 1 and at_least(1, 2.0) == pytest.approx(1 - math.exp(-2))
    assert at_least(3, 2.0) == pytest.approx(1 - math.exp(-2) * (1 + 2 + 2))
    z = 1.959963984540054
    low, high = wilson(3, 12, 0.95)
    middle, half = (3 + z**2 / 2) / (12 + z**2), z * math.sqrt(3 * 9 / 12 + z**2 / 4) / (12 + z**2)
    assert (low, high) == (pytest.approx(middle - half), pytest.approx(middle + half))
    assert wilson(0, 12, 0.95)[0] == 0 and wilson(12, 12, 0.95)[1] == 1


@pytest.mark.parametrize(("n", "known"), [(2, 1.128), (5, 2.326), (12, 3.258), (25, 3.931)])
def test_range_of_normals(n, known):
    """The control-chart constant d2."""
    assert normal_range(n) == pytest.approx(known, abs=2e-3)


@pytest.mark.parametrize(("rho", "seeds"), [(0.0, 3), (0.6, 1), (0.9, 3)])
def test_the_interval_covers(rho, seeds):
    """Recipes and seeds drawn anew from a known law: a 95 % interval of rho holds the rho of an
    endless list of recipes.
    """
    rng, n, noise, trials = np.random.default_rng(11), 12, 0.4, 150
    shrunk = rho / (1 + noise**2 / seeds)
    truth = 6 / np.pi * np.arcsin(shrunk / 2)
    inside = 0
    for _ in range(trials):
        one = rng.standard_normal(n)
        two = rho * one + math.sqrt(1 - rho**2) * rng.standard_normal(n)
        x, y = (v[:, None] + noise * rng.standard_normal((n, seeds)) for v in (one, two))
        many = resampled(n, {"x": seeds, "y": seeds}, 400, rng)
        sides = [
            Side(v.mean(1), (many.seeds[k] * v).mean(-1) if seeds > 1 else v.mean(1)[None])
            for k, v in (("x", x), ("y", y))
        ]
        found = agreement(*sides, Sample(tuple(map(str, range(n))), many, 0.95)).rho
        inside += found.low <= truth <= found.high
    assert inside / trials > 0.95 - 3 * math.sqrt(0.05 * 0.95 / trials)
    assert n == found.used
