"""Attention: one `attend` with a table of implementations, and the sub-layer around it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
from flax import nnx

from stepladder.model import parametrization, rope
from stepladder.model.attention import cudnn, xla
from stepladder.model.attention.mask import Limits
from stepladder.model.init import Init
from stepladder.model.norm import rms_norm
from stepladder.model.shape import Shape


class Asked(NamedTuple):
    """What is asked of an implementation, as far as it is known before anything runs.

    `window` 0 is none.
    """

    dtype: str
    head_dim: int
    L: int
    M: int
    causal: bool = True
    window: int = 0
    documents: bool = False
    mask: bool = False
    mapped: bool = False  # under vmap, over the runs of a pack


@dataclass(frozen=True)
class Implementation:
    """One way to compute attention. `refuses` says why it cannot do what is asked, or nothing."""

    attend: Callable[..., jax.Array]
    backends: tuple[str, ...]
    refuses: Callable[[Asked], str]


def _splash_refuses(asked: Asked) -> str:
    if asked.L % 128 or asked.M % 128:
        return f"splash takes sequences of a multiple of 128, not {asked.L} and {asked.M}"
    if asked.dtype not in ("bfloat16", "float32"):
        return f"splash computes in bfloat16 or float32, not {asked.dtype}"
    return "splash takes no explicit mask" if asked.mask else ""


def _cudnn_refuses(asked: Asked) -> str:
    if asked.dtype not in ("bfloat16", "float16"):
        return f"cudnn computes in bfloat16 or float16, not {asked.dtype}"
    if asked.head_dim % 8 or asked.head_dim > 128:  # 256 from Hopper on
        return f"cudnn takes heads of a multiple of 8 up to 128, not {asked.head_dim}"
    if asked.causal and asked.L != asked.M:
        return f"cudnn takes causal attention of equal lengths, not {asked.L} and {asked.M}"
    if (asked.documents or asked.mask) and (asked.L % 2 or asked.M % 2):
        return f"cudnn takes documents and masks of even lengths, not {asked.L} and {asked.M}"
    if asked.mapped and (asked.documents or asked.mask):
        return "cudnn cannot be mapped over the runs of a pack with documents or a mask"
    return ""


def _splash(*asked, interpret: bool = False) -> jax.Array:
    from stepladder.model.attention import splash  # Pallas is imported only where it is used

    return splash.attend(*asked, interpret=interpret)


def _interpreted(*asked) -> jax.Array:
    return _splash(*asked, interpret=True)


_ALL = ("cpu", "gpu", "tpu")
IMPLEMENTATIONS = {
    "xla": Implementation(xla.attend, _ALL, lambda asked: ""),
    "cudnn": Implementation(cudnn.attend, ("gpu",), _cudnn_refuses),
    "splash": Implementation(_splash, ("tpu",), _splash_refuses),
    # for tests: the same steps, slowly
    "splash_interpreted": Implementation(_interpreted, _ALL, _splash_refuses),
}


def attend(
    q_BLHK: jax.Array,
    k_BMGK: jax.Array,
    v_BMGK: jax.Array,
    *,
    causal: bool = True,
    window: int = 0,
    documents_BL: jax.Array | None = None,
    mask_BLM: jax.Array | None = None,
    implementation: str = "xla",
    scale: float | None = None,
) -> jax.Array:
    """softmax(scale q k^T + mask) v per head, shape (B, L, H, K); query head h reads key/value head
    h // (H / G).

    A query sees what all of these let it see. causal: query l sees memory m <= l. window: l -
    window < m, 0 is none; needs `causal`. documents_BL: int32, of queries and memory alike; only
    one's own document. mask_BLM: True where a query may look (B or 1 leading). scale: 1 / sqrt(K)
    when None. Raises KeyError for an unknown implementation, ValueError for what the one named
    cannot do.
    """
    (L, _, K), M = q_BLHK.shape[1:], k_BMGK.shape[1]
    if window < 0 or (window and not causal):
        raise ValueError(
            f"window={window}: looks back from a causal query; use 0 or a positive number, with "
            "causal=True"
        )
    if documents_BL is not None and L != M:
        raise ValueError(
            f"documents_BL: are those of queries and memory alike, but there are {L} and {M} of "
            "them"
        )
    asked = Asked(
        q_BLHK.dtype.name, K, L, M, causal, window, documents_BL is not None, mask_BLM is not None
    )
    chosen = IMPLEMENTATIONS[implementation]
    if reason := chosen.refuses(asked):
        raise ValueError(f"attention={implementation}: {reason}; use xla")
    return chosen.attend(
        q_BLHK,
        k_BMGK,
        v_BMGK,
        Limits(causal, window, documents_BL, mask_BLM),
        K**-0.5 if scale is None else scale,
    )


class Visible(NamedTuple):
    """What limits every layer's attention beside causality and the model's window: `documents_BL`
    and `mask_BLM` of `attend`.
    """

    documents_BL: jax.Array | None = None
    mask_BLM: jax.Array | None = None


class Attention(nnx.Module):
    """Grouped-query self-attention with RoPE and optional QK-norm (arXiv:2302.05442).

    One fused projection makes q, k and v.
    """

    def __init__(self, cfg: Shape, init: Init):
        D, H, G, K, N = cfg.d_model, cfg.n_heads, cfg.n_kv_heads, cfg.head_dim, cfg.n_layers
        self.cfg, self.scale = cfg, parametrization.attention_scale(cfg)
        # Per key/value head: its R query heads, then its key, then its value, so that the G axis
        # shards as one piece.
        self.qkv = init("attention.qkv", (N, D, G, H // G + 2, K), fan_in=D)
        self.out = init("attention.out", (N, H, K, D), fan_in=H * K)
        if cfg.qk_norm:
            self.q_norm = init("attention.q_norm", (N, K))
            self.k_norm = init("attention.k_norm", (N, K))

    def __call__(
        self, x_BLD: jax.Array, angles_BLK: rope.Angles, visible: Visible, implementation: str
    ) -> jax.Array:
        cfg, dtype = self.cfg, x_BLD.dtype
        B, L, D = x_BLD.shape
        H, K, _ = self.out.shape  # of this device: the heads may be shared
        G = self.qkv.shape[1]
        qkv_BLGXK = (x_BLD.reshape(B * L, D) @ self.qkv[...].astype(dtype).reshape(D, -1)).reshape(
            B, L, G, -1, K
        )
        q_BLHK = qkv_BLGXK[:, :, :, :-2].reshape(B, L, H, K)
        k_BLGK, v_BLGK = qkv_BLGXK[:, :, :, -2], qkv_BLGXK[:, :, :, -1]
        if cfg.qk_norm:
            q_BLHK = rms_norm(q_BLHK, self.q_norm[...], cfg.norm_eps)
            k_BLGK = rms_norm(k_BLGK, self.k_norm[...], cfg.norm_eps)
        q_BLHK, k_BLGK = rope.rotate(q_BLHK, *angles_BLK), rope.rotate(k_BLGK, *angles_BLK)
        o_BLHK = attend(
            q_BLHK,
            k_BLGK,
            v_BLGK,
            window=cfg.window,
            **visible._asdict(),
            implementation=implementation,
            scale=self.scale,
        )
        return (
            o_BLHK.reshape(B * L, H * K) @ self.out[...].astype(dtype).reshape(H * K, D)
        ).reshape(B, L, D)
