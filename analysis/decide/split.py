"""How to divide tokens between general and specialised training.

No command calls it yet: it waits for the study of the split.
"""

from collections.abc import Mapping

import numpy as np

_REACH = 16.0  # of the grid, in the logit of the share
_POINTS = 200_001


def split_point(params: Mapping[str, float], T: float, m: float = 1.0) -> dict[str, float]:
    """D and D2 of least loss with D + m D2 = T, under the law split_separate without offsets.

    Args:
        params: B, beta, B2 and beta2.
        T: tokens.
        m: 1 for one expert, K for K experts that share the general stage.

    Returns:
        D, D2 and share, the part of T spent on D; exact to 2e-4 of D / D2.
    """
    b, beta, b2, beta2 = (params[k] for k in ("B", "beta", "B2", "beta2"))
    share = 1 / (1 + np.exp(-np.linspace(-_REACH, _REACH, _POINTS)))
    d, d2 = share * T, (1 - share) * T / m
    k = int(np.argmin(b / d**beta + b2 / d2**beta2))
    return {"D": float(d[k]), "D2": float(d2[k]), "share": float(share[k])}
