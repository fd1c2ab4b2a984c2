"""How to divide compute between training and repeated samples.

No command calls it yet: it waits for the study of test-time compute.
"""

from collections.abc import Mapping

import numpy as np


def t2_frontier(params: Mapping[str, float], C: float, C_inf: float) -> dict[str, float]:
    """N, D and k of least loss with 6 N D = C and 2 N k = C_inf, k being 1 at least.

    Approach 1 of T^2 (arXiv 2604.01411).

    Args:
        params: E, A, B, G, alpha, beta and gamma of the law t2_loss.
        C: FLOPs of training.
        C_inf: FLOPs of a question.

    Returns:
        N, D, k and loss.
    """
    from scipy.optimize import root_scalar

    p = params

    def slope(log_n: float) -> float:
        """d loss / d ln N along both budgets; it rises."""
        n = np.exp(log_n)
        return (
            p["beta"] * p["B"] * (6 * n / C) ** p["beta"]
            + p["gamma"] * p["G"] * (2 * n / C_inf) ** p["gamma"]
            - p["alpha"] * p["A"] * n ** -p["alpha"]
        )

    low, high = 0.0, float(np.log(C_inf / 2))
    if slope(high) < 0:
        best = high
    elif slope(low) > 0:
        best = low
    else:
        best = float(root_scalar(slope, bracket=(low, high), xtol=1e-14).root)
    n = float(np.exp(best))
    d, k = C / (6 * n), C_inf / (2 * n)
    loss = p["E"] + p["A"] / n ** p["alpha"] + p["B"] / d ** p["beta"] + p["G"] / k ** p["gamma"]
    return {"N": n, "D": d, "k": k, "loss": float(loss)}
