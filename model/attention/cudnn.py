"""Flash attention of cuDNN for GPUs, through jax.

What it masks by itself (causality, a window) it also skips.

Documents are no mask of its own: they become a bias of (B, 1, L, M), read by all heads, and cuDNN
takes no window beside a bias, so a window then goes into the bias too.
"""

import jax

from stepladder.model.attention.mask import MaskSpec, mask_of


def attend(
    q_BLHK: jax.Array, k_BMGK: jax.Array, v_BMGK: jax.Array, mask: MaskSpec, scale: float
) -> jax.Array:
    """As `attend.attend`."""
    biased = mask.documents_BL is not None or mask.mask_BLM is not None
    mask_BLM = mask_of(q_BLHK.shape[1], k_BMGK.shape[1], mask) if biased else None
    return jax.nn.dot_product_attention(
        q_BLHK,
        k_BMGK,
        v_BMGK,
        mask=None if mask_BLM is None else mask_BLM[:, None],
        scale=scale,
        is_causal=mask.causal,
        local_window_size=(mask.window - 1, 0) if mask.window and not biased else None,
        implementation="cudnn",
    )
