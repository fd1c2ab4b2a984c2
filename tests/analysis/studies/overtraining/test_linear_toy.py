"""The two-layer linear network: every number of its derivation, within 1 %."""

import numpy as np
import pytest

from stepladder.analysis.studies.overtraining.linear_toy import (
    critical,
    monte_carlo,
    perturbed_loss,
    train,
)


@pytest.fixture(scope="module")
def path():
    return train()


def test_the_closed_form_is_the_mean_over_draws_of_the_noise(path):
    exact = perturbed_loss(path)
    for moment in (0, path.learned(1), path.learned(3), -1):
        mean, error = monte_carlo(path, moment)
        assert mean == pytest.approx(exact[moment], rel=0.01)
        assert abs(mean - exact[moment]) < 4 * error


def test_loss_under_noise_falls_until_the_modes_are_smaller_than_the_critical_one(path):
    loss = perturbed_loss(path)
    assert critical(path) == pytest.approx(0.28)
    assert loss[path.learned(3)] == pytest.approx(2.405, rel=0.01)
    assert loss[-1] == pytest.approx(2.434, rel=0.01)
    stages = [loss[path.learned(mode)] for mode in range(6)]
    assert np.diff(stages[:4]).max() < 0 < np.diff(stages[3:]).min()
    # the modes .25 and .12 are all that is learned after it
    np.testing.assert_allclose(path.modes[-1], path.targets, rtol=1e-3)


def test_delta_never_falls(path):
    delta = perturbed_loss(path) - path.loss
    assert np.diff(delta).min() > -1e-9
    assert np.diff(path.loss).max() < 1e-9


def test_the_start_stays_balanced_and_modes_are_learned_in_their_order(path):
    one = path.W1 @ path.W1.transpose(0, 2, 1)
    two = path.W2.transpose(0, 2, 1) @ path.W2
    np.testing.assert_allclose(one, two, atol=1e-7)
    moments = [path.learned(mode) for mode in range(6)]
    assert moments == sorted(moments) and len(set(moments)) == 6


def test_larger_noise_has_an_earlier_inflection(path):
    places = [int(perturbed_loss(path, g).argmin()) for g in (0.05, 0.1, 0.15, 0.2)]
    assert places == sorted(places, reverse=True) and len(set(places)) == 4
