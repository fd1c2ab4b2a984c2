"""pass@k from counts, and coverage over a set of problems.

pass@k is the chance that one of k samples solves a problem; the estimate is unbiased.
"""

import numpy as np
import pandas as pd

from stepladder.analysis.fit.levels import percentile_interval
from stepladder.analysis.tables.checks import require_columns
from stepladder.configs.core.errors import UserError


def pass_at_k(n: np.ndarray, c: np.ndarray, k: int) -> np.ndarray:
    """1 - C(n-c, k) / C(n, k) for c correct of n samples, elementwise (arXiv 2107.03374).

    Unbiased when n was fixed beforehand. The ratio is a product of min(c, k) factors 1 - max(c, k)
    / (n - i), summed as log1p: no factorial overflows and a chance of 1e-9 keeps its digits. Raises
    UserError unless 0 <= c <= n and 1 <= k <= n.
    """
    n, c = np.broadcast_arrays(np.asarray(n), np.asarray(c))
    if (n % 1 != 0).any() or (c % 1 != 0).any() or (c < 0).any() or (c > n).any():
        raise UserError("c: counts must be whole numbers with 0 <= c <= n; mend the table")
    if not k >= 1 or k % 1:
        raise UserError(f"k={k}: must be a whole number of at least 1")
    if (n < k).any():
        raise UserError(
            f"k={k}: {int((n < k).sum())} of {n.size} problems have fewer samples (fewest "
            f"{int(n.min())}); use a smaller k"
        )
    pairs, where = np.unique(np.stack([n.ravel(), c.ravel()]), axis=1, return_inverse=True)
    chance = [_one(int(total), int(correct), int(k)) for total, correct in pairs.T]
    return np.array(chance, float)[where.ravel()].reshape(n.shape)[()]


def _one(n: int, c: int, k: int) -> float:
    if n - c < k:  # any k samples hold a correct one
        return 1.0
    few, many = min(c, k), max(c, k)
    return float(-np.expm1(np.log1p(-many / (n - np.arange(few))).sum()))


def coverage(
    counts: pd.DataFrame,
    ks: list[int],
    *,
    by: tuple[str, ...] = (),
    n: str = "n",
    c: str = "c",
    level: float = 0.9,
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Mean pass@k over the problems of each group.

    Args:
        counts: a row a problem.
        ks: the numbers of samples.
        by: the columns that tell groups apart.
        n, c: the columns of samples, and of correct ones.
        level: of the interval, a bootstrap over problems: with many samples a problem that is the
            error that counts.

    Returns:
        A row a group and k: columns *by, k, pass, low, high, problems.

    Raises:
        UserError: for a missing column, and where pass_at_k does.
    """
    require_columns(counts, (*by, n, c))
    if counts.empty:
        raise UserError("counts: no problem in the table; add rows")
    rng = np.random.default_rng(seed)
    rows = []
    for key, group in counts.groupby(list(by), sort=True, dropna=False) if by else [((), counts)]:
        chance = np.stack([pass_at_k(group[n].to_numpy(), group[c].to_numpy(), k) for k in ks], 1)
        drawn = np.stack(
            [chance[rng.integers(0, len(chance), len(chance))].mean(0) for _ in range(resamples)]
        )
        low, high = percentile_interval(drawn, level, axis=0)
        for i, k in enumerate(ks):
            rows.append([*key, k, chance[:, i].mean(), low[i], high[i], len(chance)])
    return pd.DataFrame(rows, columns=[*by, "k", "pass", "low", "high", "problems"])
