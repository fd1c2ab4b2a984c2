"""QK-norm (arXiv:2302.05442) and rotation of queries or keys, with their gradient written out.

Autodiff's gradient of the two keeps float32 copies of what the norm and the rotation hand to each
other: 8 % of the bytes of a step of 32 runs of 1M parameters together (docs/benchmarks/hardware.md,
"Bytes of a step").
"""

from typing import Any

import jax
import jax.numpy as jnp

from stepladder.model.attention import rope
from stepladder.model.norm import inverse_rms, rms_norm


def normed_and_rotated(
    x_BLHK: jax.Array, scale_K: jax.Array, angles_BLK: rope.Angles, eps: float
) -> jax.Array:
    """`rope.rotate` of `rms_norm`, in the dtype of x.

    The angles have no gradient; it can be differentiated twice, the first time in reverse.
    """
    rotated: Any = _normed_and_rotated(x_BLHK, scale_K, angles_BLK, eps)
    return rotated


def _plain(x_BLHK: jax.Array, scale_K: jax.Array, angles_BLK: rope.Angles, eps: float) -> jax.Array:
    return rope.rotate(rms_norm(x_BLHK, scale_K, eps), *angles_BLK)


def _forward(
    x_BLHK: jax.Array, scale_K: jax.Array, angles_BLK: rope.Angles, eps: float
) -> tuple[jax.Array, tuple]:
    saved = x_BLHK, scale_K, angles_BLK
    return _plain(x_BLHK, scale_K, angles_BLK, eps), saved


def _backward(eps: float, saved: tuple, slope_BLHK: jax.Array) -> tuple:
    x_BLHK, scale_K, angles_BLK = saved
    wide = jnp.promote_types(x_BLHK.dtype, jnp.float32)
    back_BLHK = rope.rotate_back(slope_BLHK.astype(wide), *angles_BLK)
    inverse_BLH1 = inverse_rms(x_BLHK, eps)
    unit_BLHK = x_BLHK.astype(wide) * inverse_BLH1
    scaled_BLHK = back_BLHK * scale_K
    along_BLH1 = (scaled_BLHK * unit_BLHK).mean(axis=-1, keepdims=True)
    slope_x_BLHK = inverse_BLH1 * (scaled_BLHK - unit_BLHK * along_BLH1)
    slope_K = (back_BLHK * unit_BLHK).sum(axis=tuple(range(x_BLHK.ndim - 1)))
    return slope_x_BLHK.astype(x_BLHK.dtype), slope_K.astype(scale_K.dtype), None


_normed_and_rotated = jax.custom_vjp(_plain, nondiff_argnums=(3,))
_normed_and_rotated.defvjp(_forward, _backward)
