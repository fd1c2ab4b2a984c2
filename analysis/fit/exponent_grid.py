"""Starts for L = E + A / N^alpha + B / D^beta from a grid of exponents.

With the exponents given the rest is linear, so every pair of them is profiled exactly. Every sum
over points is one entry of one matrix product for all jobs: a fine grid costs next to nothing.
"""

import numpy as np

_EXPONENTS = np.geomspace(0.03, 3.0, 12)


def starts_from_grid(x: np.ndarray, y: np.ndarray, w: np.ndarray, *, count: int = 3) -> np.ndarray:
    """The best local minima of weighted least squares over the grid of exponents.

    Returns theta [K, count, 5] of the law `chinchilla`.

    x: centred logs of N and D [n, 2]; y: loss / scale [n]; w: weights [K, n]. Where the grid has
    fewer local minima, the next best points follow.
    """
    f, g = np.exp(-np.outer(x[:, 0], _EXPONENTS)), np.exp(-np.outer(x[:, 1], _EXPONENTS))
    one = np.ones_like(y)
    pairs = {
        (0, 0): one[:, None],
        (0, 1): f,
        (0, 2): g,
        (1, 1): f * f,
        (2, 2): g * g,
        (0, 3): y[:, None],
        (1, 3): f * y[:, None],
        (2, 3): g * y[:, None],
        (1, 2): (f[:, :, None] * g[:, None, :]).reshape(len(y), -1),
    }
    shape = (len(w), len(_EXPONENTS), len(_EXPONENTS))
    axes = {1: (slice(None), slice(None), None), 2: (slice(None), None, slice(None))}

    def spread(pair: tuple[int, int]) -> np.ndarray:
        total = w @ pairs[pair]
        if pair == (1, 2):
            return total.reshape(shape)
        inner = {i for i in pair if i in axes}
        return np.broadcast_to(total[axes[inner.pop()]] if inner else total[:, :, None], shape)

    gram = np.empty((*shape, 3, 3))
    right = np.stack([spread((i, 3)) for i in range(3)], -1)
    for i in range(3):
        for j in range(i, 3):
            gram[..., i, j] = gram[..., j, i] = spread((i, j))
    best, coefficients = _non_negative(gram, right)
    padded = np.pad(best, ((0, 0), (1, 1), (1, 1)), constant_values=np.inf)
    around = [
        padded[:, 1 + i : 1 + i + shape[1], 1 + j : 1 + j + shape[2]]
        for i in (-1, 0, 1)
        for j in (-1, 0, 1)
        if i or j
    ]
    ranked = (
        np.where(best <= np.min(around, 0), best, best + np.abs(best).max() + 1)
        .reshape(len(w), -1)
        .argsort(1)[:, :count]
    )
    i, j = np.unravel_index(ranked, shape[1:])
    size = np.maximum(coefficients.reshape(len(w), -1, 3)[np.arange(len(w))[:, None], ranked], 1e-3)
    return np.log(np.concatenate([size, _EXPONENTS[i][..., None], _EXPONENTS[j][..., None]], -1))


def _non_negative(gram: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The least c'Gc/2 - r'c over c >= 0 [..., 3], and that c.

    Every set of positive coefficients is tried: there are seven, and this is done for 144 pairs of
    exponents of thousands of fits at once, where SciPy's nnls takes one at a time.
    """
    best, chosen = np.zeros(gram.shape[:-2]), np.zeros(right.shape)
    for active in ([0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2]):
        part = gram[..., active, :][..., active]
        part = (
            part + 1e-12 * np.eye(len(active)) * np.trace(part, axis1=-2, axis2=-1)[..., None, None]
        )
        c = np.linalg.solve(part, right[..., active][..., None])[..., 0]
        value = -0.5 * (c * right[..., active]).sum(-1)
        better = (c >= 0).all(-1) & (value < best)
        best = np.where(better, value, best)
        full = np.zeros(right.shape)
        full[..., active] = c
        chosen = np.where(better[..., None], full, chosen)
    return best, chosen
