"""Flash attention of cuDNN for GPUs, through jax.

What it masks by itself (causality, a window) it also skips.

Documents are no mask of its own: they become a bias of (B, 1, L, M), read by all heads, and cuDNN
takes no window beside a bias, so a window then goes into the bias too.
"""

import jax

from stepladder.model.attention.mask import Limits, visible


def attend(
    q_BLHK: jax.Array, k_BMGK: jax.Array, v_BMGK: jax.Array, limits: Limits, scale: float
) -> jax.Array:
    """As `attention.attend`."""
    biased = limits.documents_BL is not None or limits.mask_BLM is not None
    mask_BLM = visible(q_BLHK.shape[1], k_BMGK.shape[1], limits) if biased else None
    return jax.nn.dot_product_attention(
        q_BLHK,
        k_BMGK,
        v_BMGK,
        mask=None if mask_BLM is None else mask_BLM[:, None],
        scale=scale,
        is_causal=limits.causal,
        local_window_size=(limits.window - 1, 0) if limits.window and not biased else None,
        implementation="cudnn",
    )
