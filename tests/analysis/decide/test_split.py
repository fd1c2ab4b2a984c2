"""The best split under any law, against closed forms and corners that are known."""

import numpy as np
import pytest

from stepladder.analysis.decide.split import (
    ACCOUNTINGS,
    ALL_GENERAL,
    ALL_SPECIAL,
    FLAT,
    INTERIOR,
    best_split,
    closed_form_ratio,
)

B, B2, K, T = 400.0, 90.0, 8.0, 1e8


@pytest.mark.parametrize("accounting", list(ACCOUNTINGS))
@pytest.mark.parametrize("beta", [0.15, 0.3, 0.8])
def test_closed_forms_of_the_three_accountings(accounting, beta):
    counted = ACCOUNTINGS[accounting]
    general, special = counted.general(K), counted.special(K)
    found = best_split(lambda d, d2: 2 + B / d**beta + B2 / d2**beta, T, general, special)
    m = K if accounting == "shared seed" else 1.0
    assert found.state == INTERIOR
    assert pytest.approx(closed_form_ratio(B, B2, beta, m), rel=1e-6) == found.D / found.D2
    assert pytest.approx((m * B / B2) ** (1 / (1 + beta)), rel=1e-6) == found.D / found.D2
    assert general * found.D + special * found.D2 == pytest.approx(T)


def test_the_first_order_condition_with_two_exponents():
    found = best_split(lambda d, d2: B / d**0.4 + B2 / d2**0.25, T, special=K)
    slope = 0.4 * B / found.D**1.4, 0.25 * B2 / found.D2**1.25 / K
    assert slope[0] == pytest.approx(slope[1], rel=1e-6)


@pytest.mark.parametrize(
    ("tau", "special", "state"),
    [(0.5, 1.0, ALL_SPECIAL), (1.5, 1.0, ALL_GENERAL), (0.5, 8.0, ALL_GENERAL), (1.0, 1.0, FLAT)],
)
def test_effective_data_with_constant_tau_has_corners_only(tau, special, state):
    """Law H2: the loss falls in D2 + tau D, and the budget is linear."""
    found = best_split(lambda d, d2: 2 + 300 / (d2 + tau * d) ** 0.3, T, special=special)
    assert found.state == state
    if state != FLAT:
        assert found.share == (1.0 if state == ALL_GENERAL else 0.0)
        assert found.D + special * found.D2 == pytest.approx(T)


def test_offsets_move_the_optimum_into_a_corner():
    """With enough credit for nothing read, general tokens are worth nothing at a small budget."""

    def loss(d, d2):
        return 2 + 40 / (d + 1e6) ** 0.3 + 60 / (d2 + 1.0) ** 0.3

    assert best_split(loss, 1e3).state == ALL_SPECIAL
    assert best_split(loss, 1e9).state == INTERIOR


def test_a_law_without_values_at_the_ends_still_has_its_minimum():
    found = best_split(lambda d, d2: np.exp(0.3 * np.log(1 / d) + 0.1 * np.log(1 / d2)), T)
    assert found.state == INTERIOR and found.share == pytest.approx(0.75, rel=1e-9)
