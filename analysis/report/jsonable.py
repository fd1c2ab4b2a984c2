"""From results with NumPy scalars and NaN to what JSON can hold."""

from collections.abc import Mapping
from typing import Any

import numpy as np

Results = Mapping[str, Any]  # the numbers of a study under their names, as results.json has them


def plain(value: Any) -> Any:
    """JSON types only: NumPy scalars unwrapped, NaN and infinity None, anything else its string."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    return None if value is None else str(value)
