"""Rotary position embedding (arXiv:2104.09864, eq. 34), in the half-rotation layout: pairs are (i,
i + K/2).
"""

import jax
import jax.numpy as jnp

Angles = tuple[jax.Array, jax.Array]  # cos, sin


def angles(positions_BL: jax.Array, head_dim: int, theta: float) -> Angles:
    """cos and sin of shape (..., L, K), float32: position * theta^(-2i/K) for pair i, both halves
    alike.
    """
    frequency_K = theta ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    angle_BLK = positions_BL[..., None].astype(jnp.float32) * jnp.concatenate(
        [frequency_K, frequency_K]
    )
    return jnp.cos(angle_BLK), jnp.sin(angle_BLK)


def rotate(x_BLHK: jax.Array, cos_BLK: jax.Array, sin_BLK: jax.Array) -> jax.Array:
    """Rotates each pair by its angle; computed in float32 at least, returned in the dtype of x."""
    wide_BLHK = x_BLHK.astype(jnp.promote_types(x_BLHK.dtype, jnp.float32))
    first, second = jnp.split(wide_BLHK, 2, axis=-1)
    turned_BLHK = jnp.concatenate([-second, first], axis=-1)
    cos_BL1K, sin_BL1K = cos_BLK[..., :, None, :], sin_BLK[..., :, None, :]
    return (wide_BLHK * cos_BL1K + turned_BLHK * sin_BL1K).astype(x_BLHK.dtype)


def rotate_back(x_BLHK: jax.Array, cos_BLK: jax.Array, sin_BLK: jax.Array) -> jax.Array:
    """The inverse of `rotate`, which is also its transpose; in the dtype of x.

    Written with a reversal of the two halves where `rotate` concatenates them: a GPU's compiler
    then computes it within the passes around it, and writes no copy.
    """
    *lead, K = x_BLHK.shape
    x_BLH2k = x_BLHK.reshape(*lead, 2, K // 2)
    cos_BL12k, sin_BL12k = (
        angle_BLK[..., :, None, :].reshape(*angle_BLK.shape[:-1], 1, 2, K // 2)
        for angle_BLK in (cos_BLK, sin_BLK)
    )
    signed_BL12k = sin_BL12k * jnp.array([[1.0], [-1.0]], sin_BLK.dtype)
    back_BLH2k = x_BLH2k * cos_BL12k + jnp.flip(x_BLH2k, axis=-2) * signed_BL12k
    return back_BLH2k.reshape(x_BLHK.shape)
