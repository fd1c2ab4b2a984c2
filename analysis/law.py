"""Scaling laws as pure functions of log-parameters, in one table: a new law is one new entry.

A law never sees raw inputs. It gets x = ln(input) - centre and loss / scale, so that every parameter is of order one, the fit does not
depend on the units of N, D or the loss, and A and alpha are nearly uncorrelated (centred logs). `natural` undoes both.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Law:
    """A law loss = f(inputs).

    function: (xp, theta [P], x [n, inputs]) -> loss / scale [n]; `xp` is numpy or jax.numpy, theta are log-parameters.
    starts: (x [n, inputs], y [n], w [n]) -> theta [S, P], from the points with w > 0 only.
    natural: (theta, centre [inputs], scale) -> parameters in the units of the data.
    distinct: how many different values of each input the parameters need to be identified.
    """

    name: str
    formula: str
    source: str  # arXiv id
    inputs: tuple[str, ...]
    parameters: tuple[str, ...]
    lower: tuple[float, ...]  # of theta
    upper: tuple[float, ...]
    distinct: tuple[int, ...]
    function: Callable[[Any, Any, Any], Any]
    starts: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
    natural: Callable[[np.ndarray, np.ndarray, float], dict[str, float]]


def jacobian(law: Law, theta: np.ndarray, x: np.ndarray) -> np.ndarray:
    """d prediction / d theta [n, P] by the complex step in NumPy: exact to rounding, and no compilation for a single point."""
    step = 1e-30
    columns = [law.function(np, theta + 1j * step * unit, x).imag / step for unit in np.eye(len(theta))]
    return np.stack(columns, 1)


# --- chinchilla: theta = ln (E, A', B', alpha, beta), A' and B' the terms' sizes at the centre of the points


def _chinchilla(xp: Any, theta: Any, x: Any) -> Any:
    e, a, b, alpha, beta = (theta[i] for i in range(5))
    return xp.exp(e) + xp.exp(a - xp.exp(alpha) * x[:, 0]) + xp.exp(b - xp.exp(beta) * x[:, 1])


def _chinchilla_starts(x: np.ndarray, y: np.ndarray, w: np.ndarray) -> np.ndarray:
    """With the exponents given the law is linear in E, A', B': one small least-squares solve for each pair of exponents."""
    keep = w > 0
    x, y, w = x[keep], y[keep], w[keep]
    root = np.sqrt(w)[:, None]
    starts = []
    for alpha in (0.1, 0.25, 0.4, 0.7, 1.2):
        for beta in (0.1, 0.25, 0.4, 0.7, 1.2):
            design = np.stack([np.ones_like(y), np.exp(-alpha * x[:, 0]), np.exp(-beta * x[:, 1])], 1)
            coefficients = _positive(design * root, y * root[:, 0], np.array([0.2, 0.03, 0.03]) * y.min())
            starts.append(np.log([*coefficients, alpha, beta]))
    return np.array(starts)


def _positive(design: np.ndarray, right: np.ndarray, least: np.ndarray) -> np.ndarray:
    """Least squares with every coefficient at or above `least`: those below are fixed there, the others solved again."""
    value, fixed = least.copy(), np.zeros(design.shape[1], bool)
    while not fixed.all():
        value[~fixed] = np.linalg.lstsq(design[:, ~fixed], right - design[:, fixed] @ least[fixed], rcond=None)[0]
        below = ~fixed & (value < least)
        value[below] = least[below]
        if not below.any():
            break
        fixed |= below
    return value


def _chinchilla_natural(theta: np.ndarray, centre: np.ndarray, scale: float) -> dict[str, float]:
    alpha, beta = np.exp(theta[3]), np.exp(theta[4])
    return {
        "E": float(scale * np.exp(theta[0])),
        "A": float(scale * np.exp(theta[1] + alpha * centre[0])),
        "B": float(scale * np.exp(theta[2] + beta * centre[1])),
        "alpha": float(alpha),
        "beta": float(beta),
    }


# --- power_c: theta = (ln A', alpha); alpha may have either sign, so it is not logged


def _power(xp: Any, theta: Any, x: Any) -> Any:
    return xp.exp(theta[0] - theta[1] * x[:, 0])


def _power_starts(x: np.ndarray, y: np.ndarray, w: np.ndarray) -> np.ndarray:
    slope, intercept = np.polyfit(x[w > 0, 0], np.log(y[w > 0]), 1, w=np.sqrt(w[w > 0]))
    return np.array([[intercept, -slope]])


def _power_natural(theta: np.ndarray, centre: np.ndarray, scale: float) -> dict[str, float]:
    return {"A": float(scale * np.exp(theta[0] + theta[1] * centre[0])), "alpha": float(theta[1])}


_LOG = np.log
LAWS = {
    law.name: law
    for law in (
        Law(
            name="chinchilla",
            formula="L = E + A / N^alpha + B / D^beta",
            source="2203.15556",
            inputs=("N", "D"),
            parameters=("E", "A", "B", "alpha", "beta"),
            lower=(_LOG(1e-3), _LOG(1e-5), _LOG(1e-5), _LOG(0.01), _LOG(0.01)),
            upper=(_LOG(2.0), _LOG(50.0), _LOG(50.0), _LOG(4.0), _LOG(4.0)),
            distinct=(3, 3),
            function=_chinchilla,
            starts=_chinchilla_starts,
            natural=_chinchilla_natural,
        ),
        Law(
            name="power_c",
            formula="L = A / C^alpha",
            source="2001.08361",
            inputs=("C",),
            parameters=("A", "alpha"),
            lower=(-20.0, -4.0),
            upper=(20.0, 4.0),
            distinct=(2,),
            function=_power,
            starts=_power_starts,
            natural=_power_natural,
        ),
    )
}
