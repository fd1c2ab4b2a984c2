"""Cross-entropy of the next token, in nats, and the z-loss (arXiv:2204.02311, section 5)."""

import jax
import jax.numpy as jnp

from stepladder.model.parallel import ALONE, Parallel
from stepladder.model.shape import Shape
from stepladder.model.transformer import logits


def cross_entropy(logits_BLV: jax.Array, targets_BL: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(negative log-likelihood, log of the softmax's normaliser), both (B, L) in nats."""
    peak_BL = jax.lax.stop_gradient(logits_BLV.max(axis=-1))
    log_z_BL = peak_BL + jnp.log(jnp.exp(logits_BLV - peak_BL[..., None]).sum(axis=-1))
    # A comparison instead of a gather: the gradient is then an elementwise product and not a scatter.
    chosen_BLV = targets_BL[..., None] == jnp.arange(logits_BLV.shape[-1])
    return log_z_BL - jnp.where(chosen_BLV, logits_BLV, 0.0).sum(axis=-1), log_z_BL


def token_nll(cfg: Shape, params: dict, tokens_BT: jax.Array, shared: Parallel = ALONE, **how) -> jax.Array:
    """Negative log-likelihood in nats of tokens 1..T-1 given those before: (B, T - 1), or the device's part. `how` is passed to `logits`."""
    return cross_entropy(logits(cfg, params, tokens_BT[:, :-1], shared=shared, **how), shared.own(tokens_BT[:, 1:]))[0]


def next_token_loss(
    cfg: Shape, params: dict, tokens_BT: jax.Array, z_loss: jax.Array | float = 0.0, shared: Parallel = ALONE, **how
) -> tuple[jax.Array, dict]:
    """(mean nats a token + z_loss * mean log(Z)^2, {loss, z_loss, nll_BL}) of tokens (B, L + 1), or of the device's part of them.

    `z_loss` may be traced; `how` is passed to `logits`.
    """
    nll_BL, log_z_BL = cross_entropy(logits(cfg, params, tokens_BT[:, :-1], shared=shared, **how), shared.own(tokens_BT[:, 1:]))
    loss, penalty = nll_BL.mean(), z_loss * jnp.square(log_z_BL).mean()
    return loss + penalty, {"loss": loss, "z_loss": penalty, "nll_BL": nll_BL}
