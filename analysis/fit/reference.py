"""Reference mode: the fit of arXiv 2410.11840 as its authors run it.

It is one start of SciPy's trust region, and whatever that start leads to.

It exists to reproduce their numbers, also where the points do not identify the law. There the
answer depends on the start and on rounding (two correct builds of SciPy differ), so a back-test
flags such cells, and refuses them by default.
"""

import warnings
from collections.abc import Mapping

import numpy as np

# A = e^a, B = e^b, E = e^e
START = {"a": 6.255414, "b": 7.3049974, "e": 0.6254804, "alpha": 0.3526596, "beta": 0.3526596}
BORROWED = (float(np.exp(START["a"])), START["alpha"])  # (A, alpha) where one model alone is fitted


def reference_fit(
    n: np.ndarray, d: np.ndarray, loss: np.ndarray, *, borrow: tuple[float, float] | None = None
) -> Mapping[str, float] | None:
    """a, b, e, alpha and beta by least squares in loss units from the authors' start.

    Exponents are at least 0. None where SciPy gives up. n, d, loss: [rows], parameters, tokens seen
    and loss in any unit. borrow: (A, alpha) that stay fixed, where one model alone is fitted.
    """
    from scipy.optimize import OptimizeWarning, curve_fit

    fixed = {"a": np.log(borrow[0]), "alpha": borrow[1]} if borrow else {}
    free = [name for name in START if name not in fixed]
    if not len(loss):
        return None

    def law(x: np.ndarray, *values: float) -> np.ndarray:
        return reference_predict(START | fixed | dict(zip(free, values)), *x)

    lower = [0.0 if name in ("alpha", "beta") else -np.inf for name in free]
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # no covariance: these cells are flagged by the number of sizes instead
        warnings.simplefilter("ignore", OptimizeWarning)
        try:
            start = [START[name] for name in free]
            found, _ = curve_fit(
                law, np.stack([n, d]), loss, p0=start, method="trf", bounds=(lower, np.inf)
            )
        except (RuntimeError, ValueError):  # the iteration limit, or an overflow on the way
            return None
    return START | fixed | dict(zip(free, map(float, found)))


def reference_predict(params: Mapping[str, float], n: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Loss of `reference_fit`'s parameters at n, d."""
    a, b, e, alpha, beta = (params[name] for name in START)
    return np.exp(e) + np.exp(a - alpha * np.log(n)) + np.exp(b - beta * np.log(d))


def reference_thetas(
    logs: np.ndarray,
    loss: np.ndarray,
    w: np.ndarray,
    centre: np.ndarray,
    scale: float,
    borrow: tuple[float, float] | None = None,
) -> np.ndarray:
    """`reference_fit` of many sets of points: theta [K, 5] of the law `chinchilla`.

    A row of w [K, n] says by w > 0 which points are used. theta is in the solver's units.

    logs: ln N and ln D [n, 2]; loss [n], less the borrowed term where there is one. NaN where SciPy
    gave up.
    """
    (n, d), unit = np.exp(logs).T, np.log(scale)
    theta = np.full((len(w), 5), np.nan)
    for row, used in zip(theta, w > 0):
        term = borrow[0] / n[used] ** borrow[1] if borrow else 0.0
        p = reference_fit(n[used], d[used], loss[used] + term, borrow=borrow)
        if p:
            a = -np.inf if borrow else p["a"] - p["alpha"] * centre[0] - unit
            with np.errstate(divide="ignore"):  # an exponent of exactly 0
                row[:] = (
                    p["e"] - unit,
                    a,
                    p["b"] - p["beta"] * centre[1] - unit,
                    np.log(p["alpha"]),
                    np.log(p["beta"]),
                )
    return theta
