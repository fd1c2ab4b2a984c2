"""Attention: one `attend` with a table of implementations, and the sub-layer around it."""

import jax
import jax.numpy as jnp
from flax import nnx

from stepladder.model import parametrization, rope
from stepladder.model.init import Init
from stepladder.model.norm import rms_norm
from stepladder.model.shape import Shape

_MASKED = -1e30  # not -inf: a fully masked row then gives a uniform softmax instead of NaN


def _xla(q_BLHK: jax.Array, k_BMGK: jax.Array, v_BMGK: jax.Array, mask_BLM: jax.Array | None, scale: float) -> jax.Array:
    """Written for XLA's CPU backend, where a pass over the scores costs as much as the matmul that made them (layout.py).

    The scale multiplies q and the softmax's normaliser divides the output: both are K wide where the scores are M wide. The mask is a
    select inside the fusion of the exponential, not an added constant. The R heads of a group make one matmul with R * L rows.
    """
    B, L, H, K = q_BLHK.shape
    wide = jnp.promote_types(q_BLHK.dtype, jnp.float32)  # sums of products, whatever the compute dtype
    M, G = k_BMGK.shape[1:3]
    q_BGXK = (q_BLHK * scale).reshape(B, L, G, H // G, K).transpose(0, 2, 3, 1, 4).reshape(B, G, -1, K)  # X = R * L
    k_BGMK, v_BGMK = k_BMGK.transpose(0, 2, 1, 3), v_BMGK.transpose(0, 2, 1, 3)
    scores_BGXM = jnp.einsum("BGXK,BGMK->BGXM", q_BGXK, k_BGMK, preferred_element_type=wide)
    if mask_BLM is not None:
        scores_BGRLM = jnp.where(mask_BLM[:, None, None], scores_BGXM.reshape(B, G, -1, L, M), _MASKED)
        scores_BGXM = scores_BGRLM.reshape(B, G, -1, M)
    # The result does not depend on the peak that is subtracted, so neither does the gradient.
    peak_BGX1 = jax.lax.stop_gradient(scores_BGXM.max(axis=-1, keepdims=True))
    weights_BGXM = jnp.exp(scores_BGXM - peak_BGX1)
    total_BGX1 = weights_BGXM.sum(axis=-1, keepdims=True)
    out_BGXK = jnp.einsum("BGXM,BGMK->BGXK", weights_BGXM.astype(v_BMGK.dtype), v_BGMK, preferred_element_type=wide)
    out_BGRLK = (out_BGXK / total_BGX1).astype(v_BMGK.dtype).reshape(B, G, -1, L, K)
    return out_BGRLK.transpose(0, 3, 1, 2, 4).reshape(B, L, H, K)


IMPLEMENTATIONS = {"xla": _xla}


def attend(
    q_BLHK: jax.Array,
    k_BMGK: jax.Array,
    v_BMGK: jax.Array,
    *,
    causal: bool = True,
    mask_BLM: jax.Array | None = None,
    implementation: str = "xla",
    scale: float | None = None,
) -> jax.Array:
    """softmax(scale q k^T + mask) v per head, shape (B, L, H, K); query head h reads key/value head h // (H / G).

    causal: query l sees memory m <= l. scale: 1 / sqrt(K) when None. mask_BLM: True where a query may look (B or 1 leading), combined with `causal`.
    Raises KeyError for an unknown implementation.
    """
    if causal:
        L, M = q_BLHK.shape[1], k_BMGK.shape[1]
        causal_1LM = (jnp.arange(L)[:, None] >= jnp.arange(M))[None]
        mask_BLM = causal_1LM if mask_BLM is None else mask_BLM & causal_1LM
    scale = q_BLHK.shape[-1] ** -0.5 if scale is None else scale
    return IMPLEMENTATIONS[implementation](q_BLHK, k_BMGK, v_BMGK, mask_BLM, scale)


class Attention(nnx.Module):
    """Grouped-query self-attention with RoPE and optional QK-norm (arXiv:2302.05442). One fused projection makes q, k and v."""

    def __init__(self, cfg: Shape, init: Init):
        D, H, G, K, N = cfg.d_model, cfg.n_heads, cfg.n_kv_heads, cfg.head_dim, cfg.n_layers
        self.cfg, self.scale = cfg, parametrization.attention_scale(cfg)
        # Per key/value head: its R query heads, then its key, then its value, so that the G axis shards as one piece.
        self.qkv = init("attention.qkv", (N, D, G, H // G + 2, K), fan_in=D)
        self.out = init("attention.out", (N, H, K, D), fan_in=H * K)
        if cfg.qk_norm:
            self.q_norm = init("attention.q_norm", (N, K))
            self.k_norm = init("attention.k_norm", (N, K))

    def __call__(self, x_BLD: jax.Array, angles_BLK: rope.Angles, mask_BLM: jax.Array | None, implementation: str) -> jax.Array:
        cfg, dtype = self.cfg, x_BLD.dtype
        B, L, D = x_BLD.shape
        H, K, _ = self.out.shape  # of this device: the heads may be shared
        G = self.qkv.shape[1]
        qkv_BLGXK = (x_BLD.reshape(B * L, D) @ self.qkv[...].astype(dtype).reshape(D, -1)).reshape(B, L, G, -1, K)
        q_BLHK = qkv_BLGXK[:, :, :, :-2].reshape(B, L, H, K)
        k_BLGK, v_BLGK = qkv_BLGXK[:, :, :, -2], qkv_BLGXK[:, :, :, -1]
        if cfg.qk_norm:
            q_BLHK = rms_norm(q_BLHK, self.q_norm[...], cfg.norm_eps)
            k_BLGK = rms_norm(k_BLGK, self.k_norm[...], cfg.norm_eps)
        q_BLHK, k_BLGK = rope.rotate(q_BLHK, *angles_BLK), rope.rotate(k_BLGK, *angles_BLK)
        o_BLHK = attend(q_BLHK, k_BLGK, v_BLGK, mask_BLM=mask_BLM, implementation=implementation, scale=self.scale)
        return (o_BLHK.reshape(B * L, H * K) @ self.out[...].astype(dtype).reshape(H * K, D)).reshape(B, L, D)
