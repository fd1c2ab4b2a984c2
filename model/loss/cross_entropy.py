"""Cross-entropy of logits, in nats."""

import jax
import jax.numpy as jnp


def cross_entropy(logits_BLV: jax.Array, targets_BL: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(negative log-likelihood, log of the softmax's normaliser), both (B, L) in nats."""
    peak_BL = jax.lax.stop_gradient(logits_BLV.max(axis=-1))
    log_z_BL = peak_BL + jnp.log(jnp.exp(logits_BLV - peak_BL[..., None]).sum(axis=-1))
    # A comparison instead of a gather: the gradient is then an elementwise product and not a
    # scatter.
    chosen_BLV = targets_BL[..., None] == jnp.arange(logits_BLV.shape[-1])
    return log_z_BL - jnp.where(chosen_BLV, logits_BLV, 0.0).sum(axis=-1), log_z_BL
