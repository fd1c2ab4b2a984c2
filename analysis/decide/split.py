"""How to divide tokens between general and specialised training, under any law of both.

The three ways to count a budget, and the conditions in closed form, are our derivation for the
protocol of arXiv 2603.19149.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

_REACH = 16.0  # of the grid, in the logit of the share
_POINTS = 1601
_FLAT = 1e-10  # a loss that varies by less, relatively, does not depend on the split

INTERIOR, FLAT = "interior", "flat: every split is equal"
ALL_SPECIAL, ALL_GENERAL = "corner: D = 0", "corner: D2 = 0"

# (D, D2) -> loss; arrays, also complex ones (derivatives are taken by the complex step)
Loss = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Accounting:
    """A way to count what is spent: general(K) D + special(K) D2 = tokens, and C = 6 N tokens."""

    what: str
    general: Callable[[float], float]
    special: Callable[[float], float]


ACCOUNTINGS = {
    "one expert": Accounting("C = 6N(D + D2)", lambda k: 1.0, lambda k: 1.0),
    "shared seed": Accounting("C = 6N(D + K D2)", lambda k: 1.0, lambda k: k),
    "separate seeds": Accounting("C = 6NK(D + D2)", lambda k: k, lambda k: k),
}


@dataclass(frozen=True)
class Split:
    """D general tokens, then D2 of specialisation; state: INTERIOR, FLAT or one of the corners.

    share is D / (D + D2), NaN where the loss is flat.
    """

    D: float
    D2: float
    share: float
    state: str


def best_split(loss: Loss, tokens: float, general: float = 1.0, special: float = 1.0) -> Split:
    """D and D2 of least loss with general D + special D2 = tokens.

    A grid over shares finds the minimum, a root of the derivative makes it exact. A minimum at
    D = 0 or D2 = 0 counts where the loss is finite there, or where the grid ends in it.

    Args:
        loss: the loss after D and D2.
        tokens: the budget, in tokens of one model.
        general, special: what a token of each stage costs.
    """
    logit = np.linspace(-_REACH, _REACH, _POINTS)

    def along(u: Any) -> Any:
        d, d2 = tokens / general / (1 + np.exp(-u)), tokens / special / (1 + np.exp(u))
        return loss(d, d2)

    with np.errstate(all="ignore"):
        value = np.asarray(along(logit), float)
        none, every = (
            float(np.asarray(loss(np.array([d]), np.array([d2])), float)[0])
            for d, d2 in ((0.0, tokens / special), (tokens / general, 0.0))
        )
    k = int(np.nanargmin(value))
    low = value[k]
    if np.nanmax(value) - np.nanmin(value) <= _FLAT * abs(low):
        return Split(float("nan"), float("nan"), float("nan"), FLAT)
    if k == 0 or (np.isfinite(none) and none <= min(low, every if np.isfinite(every) else low)):
        return Split(0.0, tokens / special, 0.0, ALL_SPECIAL)
    if k == _POINTS - 1 or (np.isfinite(every) and every <= low):
        return Split(tokens / general, 0.0, 1.0, ALL_GENERAL)
    u = _polished(along, logit[k - 1], logit[k], logit[k + 1])
    d, d2 = tokens / general / (1 + np.exp(-u)), tokens / special / (1 + np.exp(u))
    return Split(float(d), float(d2), float(d / (d + d2)), INTERIOR)


def split_point(params: Mapping[str, float], T: float, m: float = 1.0) -> dict[str, float]:
    """D and D2 of least loss with D + m D2 = T, under the law split_separate without offsets.

    Args:
        params: B, beta, B2 and beta2.
        T: tokens.
        m: 1 for one expert, K for K experts that share the general stage.

    Returns:
        D, D2 and share, the part of T spent on D.
    """
    b, beta, b2, beta2 = (params[k] for k in ("B", "beta", "B2", "beta2"))
    found = best_split(lambda d, d2: b / d**beta + b2 / d2**beta2, T, special=m)
    return {"D": found.D, "D2": found.D2, "share": found.D / T}


def closed_form_ratio(b: float, b2: float, beta: float, m: float = 1.0) -> float:
    """D / D2 of least B / D^beta + B2 / D2^beta with D + m D2 fixed: (m B / B2)^(1 / (1 + beta)).

    m: 1 for one expert and for K separate seeds, K for a shared seed.
    """
    return (m * b / b2) ** (1 / (1 + beta))


def _polished(along: Callable[[Any], Any], low: float, middle: float, high: float) -> float:
    """The root of the derivative between two points of the grid; `middle` where none is."""
    from scipy.optimize import root_scalar

    def slope(u: float) -> float:
        return float(np.asarray(along(np.array([u + 1e-30j])))[0].imag)

    if not slope(low) < 0 < slope(high):
        return middle
    return float(root_scalar(slope, bracket=(low, high), xtol=1e-13).root)
