"""The one check of mixture weights: of a config, of a recipe, of a store's reader."""

from collections.abc import Mapping

from stepladder.configs.core.errors import UserError

TOLERANCE = 1e-6  # of the sum


def check_weights(weights: Mapping[str, float], field: str) -> None:
    """Raise UserError, naming `field`, unless no weight is negative or NaN and they sum to 1."""
    for name, weight in weights.items():
        if not weight >= 0:
            raise UserError(f"{field}.{name}={weight}: is negative; leave the domain out, or use 0")
    total = sum(weights.values())
    if abs(total - 1) > TOLERANCE:
        raise UserError(f"{field}: the weights sum to {total:.6g}, not 1; divide them by their sum")
