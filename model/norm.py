"""RMSNorm (arXiv:1910.07467, eq. 4)."""

import jax
import jax.numpy as jnp


def rms_norm(x_xD: jax.Array, scale_D: jax.Array, eps: float) -> jax.Array:
    """x / sqrt(mean(x^2) + eps) * scale over the last axis, computed in float32 at least, returned
    in the dtype of x.
    """
    x32_xD = x_xD.astype(jnp.promote_types(x_xD.dtype, jnp.float32))
    inverse_x1 = jax.lax.rsqrt(jnp.mean(jnp.square(x32_xD), axis=-1, keepdims=True) + eps)
    return (x32_xD * inverse_x1 * scale_D).astype(x_xD.dtype)
