"""RMSNorm (arXiv:1910.07467, eq. 4)."""

import jax
import jax.numpy as jnp


def rms_norm(x_xD: jax.Array, scale_D: jax.Array, eps: float) -> jax.Array:
    """x / sqrt(mean(x^2) + eps) * scale over the last axis, computed in float32 at least, returned
    in the dtype of x.
    """
    wide = jnp.promote_types(x_xD.dtype, jnp.float32)
    return (x_xD.astype(wide) * inverse_rms(x_xD, eps) * scale_D).astype(x_xD.dtype)


def inverse_rms(x_xD: jax.Array, eps: float) -> jax.Array:
    """1 / sqrt(mean(x^2) + eps) over the last axis, (..., 1), in float32 at least."""
    wide_xD = x_xD.astype(jnp.promote_types(x_xD.dtype, jnp.float32))
    return jax.lax.rsqrt(jnp.mean(jnp.square(wide_xD), axis=-1, keepdims=True) + eps)
