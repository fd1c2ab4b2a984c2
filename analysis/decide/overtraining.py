"""How far to overtrain a model that will be served.

No command calls it yet. What longer pretraining does to a model that is changed afterwards is asked
by analysis/studies/overtraining.
"""

from collections.abc import Mapping

import numpy as np

from stepladder.configs.core.errors import UserError


def inference_aware(params: Mapping[str, float], loss: float, D_inf: float) -> dict[str, float]:
    """The N and D of least 6 N D + 2 N D_inf at a given loss under the Chinchilla law.

    Sardana et al., arXiv 2401.00448.

    Args:
        params: E, A, B, alpha and beta.
        loss: the loss to reach.
        D_inf: tokens that the model will serve.

    Returns:
        N, D, flops (training and serving), and their ratios to the optimum of training alone.

    Raises:
        UserError: for a loss that the law cannot reach, or a bad D_inf.
    """
    from scipy.optimize import root_scalar

    e, a, b, alpha, beta = (params[k] for k in ("E", "A", "B", "alpha", "beta"))
    if not loss > e:
        raise UserError(
            f"loss={loss}: not above the law's floor E = {e:.4g}; ask for a higher loss"
        )
    if not 0 <= D_inf < np.inf:
        raise UserError(f"D_inf={D_inf}: must be finite and not negative")
    # On the curve of equal loss N is the smallest possible one times e^t, and D follows from t.
    smallest = (a / (loss - e)) ** (1 / alpha)

    def tokens(t: float) -> float:
        return (b / ((loss - e) * -np.expm1(-alpha * t))) ** (1 / beta)

    def slope(t: float) -> float:
        """d cost / d ln N, over N D."""
        return 6 * (1 - alpha / beta / np.expm1(alpha * t)) + 2 * D_inf / tokens(t)

    unaware = float(np.log1p(alpha / beta) / alpha)  # the root without tokens to serve
    aware = unaware
    if D_inf > 0:
        aware = float(root_scalar(slope, bracket=(1e-12 * unaware, unaware), xtol=1e-14).root)
    n, n0 = (float(smallest * np.exp(t)) for t in (aware, unaware))
    d, d0 = float(tokens(aware)), float(tokens(unaware))
    cost, unaware_cost = (6 * x * y + 2 * x * D_inf for x, y in ((n, d), (n0, d0)))
    return {
        "N": n,
        "D": d,
        "flops": cost,
        "N_ratio": n / n0,
        "D_ratio": d / d0,
        "flops_ratio": cost / unaware_cost,
    }
