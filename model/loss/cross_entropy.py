"""Cross-entropy of logits, in nats, and the two ways to the softmax's normaliser."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from stepladder.model.transformer import soft_cap

_LOW = -1e30  # not -inf: what takes part in no sum is exp(_LOW - peak) = 0 times something finite


def cross_entropy(
    logits_BLV: jax.Array, targets_BL: jax.Array, normaliser: str = "two_passes"
) -> tuple[jax.Array, jax.Array]:
    """(negative log-likelihood, log of the softmax's normaliser), both (B, L) in nats.

    normaliser: key of NORMALISERS.
    """
    log_z_BL = NORMALISERS[normaliser](logits_BLV)
    # A comparison instead of a gather: the gradient is then an elementwise product and not a
    # scatter.
    chosen_BLV = targets_BL[..., None] == jnp.arange(logits_BLV.shape[-1])
    return log_z_BL - jnp.where(chosen_BLV, logits_BLV, 0.0).sum(axis=-1), log_z_BL


class CappedCrossEntropy(NamedTuple):
    """`cross_entropy` of logits before their cap; hashable, so it may be a static argument."""

    cap: float  # Shape.logit_cap
    normaliser: str  # key of NORMALISERS
    marked: bool  # Shape.marked

    def __call__(self, logits_BLV: jax.Array, targets_BL: jax.Array) -> tuple[jax.Array, jax.Array]:
        """As `cross_entropy`; where targets may be marked, both are 0 at those that are."""
        found = cross_entropy(soft_cap(logits_BLV, self.cap), targets_BL, self.normaliser)
        if not self.marked:
            return found
        nll_BL, log_z_BL = (jnp.where(targets_BL >= 0, x_BL, 0.0) for x_BL in found)
        return nll_BL, log_z_BL


def _two_passes(x_BLV: jax.Array) -> jax.Array:
    peak_BL = jax.lax.stop_gradient(x_BLV.max(axis=-1))
    return peak_BL + jnp.log(jnp.exp(x_BLV - peak_BL[..., None]).sum(axis=-1))


@jax.custom_jvp
def _one_pass(x_BLV: jax.Array) -> jax.Array:
    """Peak and sum in one reduction (arXiv:1805.02867): logits that fit no cache are read once
    less, for two exponentials a number in place of one.
    """

    def join(a: tuple, b: tuple) -> tuple:
        (peak_a, sum_a), (peak_b, sum_b) = a, b
        peak = jnp.maximum(peak_a, peak_b)
        return peak, sum_a * jnp.exp(peak_a - peak) + sum_b * jnp.exp(peak_b - peak)

    nothing = jnp.array(_LOW, x_BLV.dtype), jnp.zeros((), x_BLV.dtype)
    each = x_BLV, jnp.ones_like(x_BLV)
    peak_BL, sum_BL = jax.lax.reduce(each, nothing, join, (x_BLV.ndim - 1,))
    return peak_BL + jnp.log(sum_BL)


@_one_pass.defjvp
def _one_pass_slope(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    (x_BLV,), (slope_BLV,) = primals, tangents
    log_z_BL = _one_pass(x_BLV)
    return log_z_BL, (jnp.exp(x_BLV - log_z_BL[..., None]) * slope_BLV).sum(axis=-1)


# The logarithm of the sum of exponentials, (B, L) of logits (B, L, V).
NORMALISERS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "two_passes": _two_passes,
    "one_pass": _one_pass,
}
