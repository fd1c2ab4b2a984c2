"""The objective of `scipy_fit.py`: summed Huber of log loss, and its gradient, in NumPy.

Written for speed: the reference is to be as good as NumPy and SciPy get.
"""

import numpy as np

DELTA = 1e-3


def huber(theta: np.ndarray, logs: np.ndarray, scale: float = 1.0) -> float:
    """Summed Huber of log loss, over `scale`. theta [5], logs [n, 3]."""
    size = np.abs(_residual(theta, logs)[0])
    return float(np.where(size <= DELTA, 0.5 * size**2, DELTA * (size - 0.5 * DELTA)).sum() / scale)


def huber_gradient(
    theta: np.ndarray, logs: np.ndarray, scale: float = 1.0
) -> tuple[float, np.ndarray]:
    """`huber` and its gradient [5]."""
    residual, size_n, size_d, size_e, total = _residual(theta, logs)
    psi = np.clip(residual, -DELTA, DELTA)
    value = (psi * (residual - 0.5 * psi)).sum()  # both branches of Huber in one expression
    weight = psi / total
    by_n, by_d = weight * size_n, weight * size_d
    gradient = np.array(
        [
            by_n.sum(),
            by_d.sum(),
            (weight * size_e).sum(),
            -(by_n @ logs[:, 0]),
            -(by_d @ logs[:, 1]),
        ]
    )
    return value / scale, gradient / scale


def _residual(theta: np.ndarray, logs: np.ndarray) -> tuple[np.ndarray, ...]:
    """ln prediction - ln loss by log-sum-exp, and the three terms and their sum, all relative to
    the largest term.
    """
    a, b, e, alpha, beta = theta
    of_n, of_d = a - alpha * logs[:, 0], b - beta * logs[:, 1]
    top = np.maximum(np.maximum(of_n, of_d), e)
    size_n, size_d, size_e = np.exp(of_n - top), np.exp(of_d - top), np.exp(e - top)
    total = size_n + size_d + size_e
    return top + np.log(total) - logs[:, 2], size_n, size_d, size_e, total
