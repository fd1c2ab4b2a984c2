"""What the model asks of its configuration: any hashable object with these attributes
(`configs.spec.ModelSpec` is one).
"""

from typing import Protocol


class Shape(Protocol):
    """Shape of a decoder-only Transformer; hashable, because it is a static argument of compiled
    functions.
    """

    vocab_size: int
    d_model: int
    n_layers: int
    n_heads: int
    n_kv_heads: int  # divides n_heads
    head_dim: int  # even, for RoPE
    d_ff: int
    activation: str  # key of mlp.ACTIVATIONS
    tied: bool
    qk_norm: bool
    rope_theta: float
    norm_eps: float
    logit_cap: float  # 0 is off
    window: int  # positions a query sees, itself the last; 0 is all before it
    document_end: (
        int  # token that ends a document, out of which attention does not look; -1: it does
    )
    compute_dtype: str  # float32 | bfloat16
    parametrization: str  # key of parametrization.PARAMETRIZATIONS
    base_width: int  # the width the ratio m_N is relative to; 0 is d_model itself
    base_depth: int  # the same in layers
