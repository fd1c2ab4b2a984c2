"""Attention in plain operations: the reference, and what runs wherever no kernel does."""

import jax
import jax.numpy as jnp

from stepladder.model.attention.mask import MaskSpec, mask_of

_MASKED = -1e30  # not -inf: a fully masked row then gives a uniform softmax instead of NaN


def attend(
    q_BLHK: jax.Array, k_BMGK: jax.Array, v_BMGK: jax.Array, mask: MaskSpec, scale: float
) -> jax.Array:
    """As `attend.attend`, written for XLA's CPU backend, where a pass over the scores costs as
    much as the matmul that made them.

    The scale multiplies q and the softmax's normaliser divides the output: both are K wide where
    the scores are M wide. The mask is a select inside the fusion of the exponential, not an added
    constant. The R heads of a group make one matmul with R * L rows.
    """
    B, L, H, K = q_BLHK.shape
    # sums of products, whatever the compute dtype
    wide = jnp.promote_types(q_BLHK.dtype, jnp.float32)
    M, G = k_BMGK.shape[1:3]
    mask_BLM = mask_of(L, M, mask)
    q_BGXK = (
        (q_BLHK * scale).reshape(B, L, G, H // G, K).transpose(0, 2, 3, 1, 4).reshape(B, G, -1, K)
    )  # X = R * L
    k_BGMK, v_BGMK = k_BMGK.transpose(0, 2, 1, 3), v_BMGK.transpose(0, 2, 1, 3)
    scores_BGXM = jnp.einsum("BGXK,BGMK->BGXM", q_BGXK, k_BGMK, preferred_element_type=wide)
    if mask_BLM is not None:
        scores_BGRLM = jnp.where(
            mask_BLM[:, None, None], scores_BGXM.reshape(B, G, -1, L, M), _MASKED
        )
        scores_BGXM = scores_BGRLM.reshape(B, G, -1, M)
    # The result does not depend on the peak that is subtracted, so neither does the gradient.
    peak_BGX1 = jax.lax.stop_gradient(scores_BGXM.max(axis=-1, keepdims=True))
    weights_BGXM = jnp.exp(scores_BGXM - peak_BGX1)
    total_BGX1 = weights_BGXM.sum(axis=-1, keepdims=True)
    out_BGXK = jnp.einsum(
        "BGXM,BGMK->BGXK", weights_BGXM.astype(v_BMGK.dtype), v_BGMK, preferred_element_type=wide
    )
    out_BGRLK = (out_BGXK / total_BGX1).astype(v_BMGK.dtype).reshape(B, G, -1, L, K)
    return out_BGRLK.transpose(0, 3, 1, 2, 4).reshape(B, L, H, K)
