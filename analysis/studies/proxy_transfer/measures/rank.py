"""How two scores of the recipes agree: Spearman's rho, pairwise decision accuracy, regret of the k
best.

Lower scores are better everywhere. All three take a batch: scores [..., R], and weights [..., R]
that say how often each recipe counts (0: not there, 2: drawn twice by a bootstrap). Infinity is a
score: a diverged run is worse than every finite one. NaN is none: the recipe is left out, and the
caller says how many were used.
"""

import numpy as np
from numpy.typing import ArrayLike


def spearman(x: ArrayLike, y: ArrayLike, weights: ArrayLike | None = None) -> np.ndarray:
    """Spearman's rho [...] of x and y [..., R], the measure of arXiv 2512.24503.

    It is Pearson's correlation of average ranks, so ties are exact. NaN with fewer than 3 recipes
    or when one side is all ties.
    """
    x, y, w = _prepare(x, y, weights)
    return spearman_of(row_sums(signs(x), w), row_sums(signs(y), w), w)


def decision_accuracy(x: ArrayLike, y: ArrayLike, weights: ArrayLike | None = None) -> np.ndarray:
    """Share [...] of recipe pairs that x orders as y does (arXiv 2504.11393).

    Without ties it is (1 + Kendall's tau) / 2. A pair tied in y is no decision and does not count;
    a pair tied in x alone is a coin toss and counts half, which makes it (1 + Somers' D) / 2.
    """
    x, y, w = _prepare(x, y, weights)
    sy = signs(y)
    return accuracy_of(signs(x), sy, row_sums(np.abs(sy), w), w)


def regret_at_k(
    x: ArrayLike,
    y: ArrayLike,
    k: int,
    weights: ArrayLike | None = None,
    *,
    reading: str = "best",
) -> np.ndarray:
    """What keeping only the k recipes that x likes best costs [...], in the unit of y.

    The formula is ours: arXiv 2512.24503 does not state one.

    reading "best": the best of the k minus the best of all; "mean": the mean of the k minus the
    mean of the true k best. Ties in x are broken against us: of equal scores the recipe with the
    higher y comes first. With fewer than k recipes all of them are kept.
    """
    x, y, w = _prepare(x, y, weights)
    x, y, w = np.broadcast_arrays(x, y, w)
    worst_first = np.argsort(-y, axis=-1, kind="stable")
    x, y, w = (np.take_along_axis(v, worst_first, -1) for v in (x, y, w))
    mine = np.argsort(np.where(w > 0, x, np.inf), axis=-1, kind="stable")
    best = np.arange(y.shape[-1])[::-1]
    picked, chosen = _first(w, mine, k)
    ideal, truth = _first(w, np.broadcast_to(best, w.shape), k)
    y_mine, y_best = np.take_along_axis(y, mine, -1), y[..., best]
    if reading == "mean":
        return _average(y_mine, picked) - _average(y_best, ideal)
    with np.errstate(invalid="ignore"):
        lost = np.where(chosen, y_mine, np.inf).min(-1) - np.where(truth, y_best, np.inf).min(-1)
    return np.where(w.sum(-1) > 0, lost, np.nan)


def _average(values: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Mean [...] of values [..., R] that count so often; NaN where none does."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return (np.where(count > 0, values, 0.0) * count).sum(-1) / count.sum(-1)


def _first(w: np.ndarray, order: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """How often [..., R] each recipe, in `order`, is among the first k, copies counted; and whether
    it is at all.
    """
    ordered = np.take_along_axis(w, order, -1)
    before = np.cumsum(ordered, -1) - ordered
    count = np.clip(k - before, 0, ordered)
    return count, count > 0


def signs(x: np.ndarray) -> np.ndarray:
    """1 where x of the row is above x of the column, -1 below, 0 tied [..., R, R], float32."""
    return np.subtract(
        x[..., :, None] > x[..., None, :], x[..., :, None] < x[..., None, :], dtype=np.float32
    )


def row_sums(matrix: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The sums over j of matrix[..., i, j] w[..., j].

    Those of signs are a recipe's average rank, up to a factor and a constant. One matrix for a
    whole batch of weights makes a matrix product of it.
    """
    if matrix.ndim == 2 or (matrix.ndim == 3 and matrix.shape[0] == 1):
        return w @ matrix.reshape(matrix.shape[-2:]).T
    # sums of small integers: exact
    return np.matmul(matrix, w.astype(np.float32)[..., None])[..., 0]


def spearman_of(one: np.ndarray, two: np.ndarray, w: np.ndarray) -> np.ndarray:
    """`spearman` from the row sums of the signs of both sides."""
    total = w.sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        one, two = (v - (w * v).sum(-1, keepdims=True) / total[..., None] for v in (one, two))
        cover = (w * one * two).sum(-1)
        spread = np.sqrt((w * one**2).sum(-1) * (w * two**2).sum(-1))
        rho = cover / spread
    return np.where((total >= 3) & (spread > 1e-9 * total), np.clip(rho, -1, 1), np.nan)


def accuracy_of(sx: np.ndarray, sy: np.ndarray, decided: np.ndarray, w: np.ndarray) -> np.ndarray:
    """`decision_accuracy` from the signs of both sides.

    decided: row sums of the absolute signs of the truth.
    """
    agree, of = (w * row_sums(sx * sy, w)).sum(-1), (w * decided).sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(of > 0, 0.5 + 0.5 * agree / of, np.nan)


def _prepare(
    x: ArrayLike, y: ArrayLike, weights: ArrayLike | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Floats, with weight 0 where a score is NaN."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    w = (
        np.ones(np.broadcast_shapes(x.shape, y.shape))
        if weights is None
        else np.asarray(weights, float)
    )
    missing = np.isnan(x) | np.isnan(y)
    return np.where(missing, np.inf, x), np.where(missing, np.inf, y), np.where(missing, 0.0, w)
