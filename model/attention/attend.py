"""Attention: one `attend` with a table of implementations, and the sub-layer around it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
from flax import nnx

from stepladder.model import parametrization
from stepladder.model.attention import cudnn, rope, xla
from stepladder.model.attention.mask import MaskSpec
from stepladder.model.attention.qk_norm import normed_and_rotated
from stepladder.model.init import Init
from stepladder.model.shape import Shape


class Request(NamedTuple):
    """What an implementation is asked to do, as far as it is known before anything runs.

    L: queries. M: keys. window: 0 is none. documents, mask: whether there are any.
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
    """One way to compute attention. `refuses` says why it cannot do what is asked; "" if it can."""

    attend: Callable[..., jax.Array]
    backends: tuple[str, ...]
    refuses: Callable[[Request], str]


def _splash_refuses(request: Request) -> str:
    if request.L % 128 or request.M % 128:
        return f"splash takes sequences of a multiple of 128, not {request.L} and {request.M}"
    if request.dtype not in ("bfloat16", "float32"):
        return f"splash computes in bfloat16 or float32, not {request.dtype}"
    return "splash takes no explicit mask" if request.mask else ""


def _cudnn_refuses(request: Request) -> str:
    if request.dtype not in ("bfloat16", "float16"):
        return f"cudnn computes in bfloat16 or float16, not {request.dtype}"
    if request.head_dim % 8 or request.head_dim > 128:  # 256 from Hopper on
        return f"cudnn takes heads of a multiple of 8 up to 128, not {request.head_dim}"
    if request.causal and request.L != request.M:
        return f"cudnn takes causal attention of equal lengths, not {request.L} and {request.M}"
    if (request.documents or request.mask) and (request.L % 2 or request.M % 2):
        return f"cudnn takes documents and masks of even lengths, not {request.L} and {request.M}"
    if request.mapped and (request.documents or request.mask):
        return "cudnn cannot be mapped over the runs of a pack with documents or a mask"
    return ""


def _splash(*args, interpret: bool = False) -> jax.Array:
    from stepladder.model.attention import splash  # Pallas is imported only where it is used

    return splash.attend(*args, interpret=interpret)


def _interpreted(*args) -> jax.Array:
    return _splash(*args, interpret=True)


_ALL = ("cpu", "gpu", "tpu")
IMPLEMENTATIONS = {
    "xla": Implementation(xla.attend, _ALL, lambda request: ""),
    "cudnn": Implementation(cudnn.attend, ("gpu",), _cudnn_refuses),
    "splash": Implementation(_splash, ("tpu",), _splash_refuses),
    # for tests: the same steps, slowly
    "splash_interpreted": Implementation(_interpreted, _ALL, _splash_refuses),
}


def attend(
    q_BLHK: jax.Array,
    k_BMGK: jax.Array,
    v_BMGK: jax.Array,
    mask: MaskSpec = MaskSpec(),
    *,
    implementation: str = "xla",
    scale: float | None = None,
) -> jax.Array:
    """softmax(scale q k^T + mask) v per head.

    Args:
        q_BLHK: queries; head h reads key/value head h // (H / G).
        k_BMGK: keys.
        v_BMGK: values.
        mask: what a query may look at; documents need as many queries as keys.
        implementation: key of `IMPLEMENTATIONS`.
        scale: of the scores; 1 / sqrt(K) when None.

    Returns:
        (B, L, H, K), in the dtype of the values.

    Raises:
        KeyError: for an unknown implementation.
        ValueError: for a mask that contradicts itself, or for shapes, windows or documents that the
            implementation does not take.
    """
    (L, _, K), M = q_BLHK.shape[1:], k_BMGK.shape[1]
    if mask.window < 0 or (mask.window and not mask.causal):
        raise ValueError(
            f"window={mask.window}: looks back from a causal query; use 0 or a positive number, "
            "with causal=True"
        )
    if mask.documents_BL is not None and L != M:
        raise ValueError(
            f"documents_BL: are those of queries and memory alike, but there are {L} and {M} of "
            "them"
        )
    request = Request(
        q_BLHK.dtype.name,
        K,
        L,
        M,
        mask.causal,
        mask.window,
        mask.documents_BL is not None,
        mask.mask_BLM is not None,
    )
    chosen = IMPLEMENTATIONS[implementation]
    if reason := chosen.refuses(request):
        raise ValueError(f"attention={implementation}: {reason}; use xla")
    return chosen.attend(q_BLHK, k_BMGK, v_BMGK, mask, K**-0.5 if scale is None else scale)


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
        self,
        x_BLD: jax.Array,
        angles_BLK: rope.Angles,
        mask: MaskSpec,
        implementation: str,
        record: Callable[[str, jax.Array], None],
    ) -> jax.Array:
        """Output of the branch; `record` is given the queries, keys and values as "qkv"."""
        cfg, dtype = self.cfg, x_BLD.dtype
        B, L, D = x_BLD.shape
        H, K, _ = self.out.shape  # of this device: the heads may be shared
        G = self.qkv.shape[1]
        # X = R + 2
        qkv_BLGXK = (x_BLD.reshape(B * L, D) @ self.qkv[...].astype(dtype).reshape(D, -1)).reshape(
            B, L, G, -1, K
        )
        record("qkv", qkv_BLGXK)
        q_BLHK = qkv_BLGXK[:, :, :, :-2].reshape(B, L, H, K)
        k_BLGK, v_BLGK = qkv_BLGXK[:, :, :, -2], qkv_BLGXK[:, :, :, -1]
        if cfg.qk_norm:
            q_BLHK = normed_and_rotated(q_BLHK, self.q_norm[...], angles_BLK, cfg.norm_eps)
            k_BLGK = normed_and_rotated(k_BLGK, self.k_norm[...], angles_BLK, cfg.norm_eps)
        else:
            q_BLHK, k_BLGK = rope.rotate(q_BLHK, *angles_BLK), rope.rotate(k_BLGK, *angles_BLK)
        o_BLHK = attend(
            q_BLHK, k_BLGK, v_BLGK, mask, implementation=implementation, scale=self.scale
        )
        out_YD = o_BLHK.reshape(B * L, H * K) @ self.out[...].astype(dtype).reshape(H * K, D)
        return out_YD.reshape(B, L, D)
