"""Kendall's tau-b of many rows at once: how monotone a number is along an axis."""

import numpy as np


def tau(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """tau-b of each row.

    Args:
        x, y: [..., n], which broadcast; infinite values are larger than all others.

    Returns:
        [...], 0 where all of x or all of y are equal, NaN for fewer than two values.
    """
    first, second = np.triu_indices(max(np.shape(x)[-1], np.shape(y)[-1]), 1)
    if not len(first):
        return np.full(np.broadcast_shapes(np.shape(x), np.shape(y))[:-1], np.nan)
    one, two = (_order(np.asarray(v, float), first, second) for v in (x, y))
    agree = (one * two).sum(-1)
    pairs = np.sqrt((one**2).sum(-1) * (two**2).sum(-1))
    return np.where(pairs > 0, agree / np.where(pairs > 0, pairs, 1.0), 0.0)


def _order(values: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    a, b = values[..., first], values[..., second]
    return (b > a).astype(float) - (b < a)
