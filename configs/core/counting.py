"""Parameters and FLOPs of a model, by arithmetic on its shape; nothing compiles.

FLOPs are those of matrix products, two a multiply-add; norms, activations, RoPE and softmax (about
one percent at width 512) are left out. Attention counts the scores a query sees: the causal half,
or the window where there is one, which is the work the mathematics asks for (documents are not
known here: they count as one); `attention_full` is what a dense masked implementation executes, and
what XLA's cost analysis reports.
"""

from dataclasses import dataclass
from functools import cache

from stepladder.configs.core.spec import ModelSpec

_MATRICES = {"swiglu": 3, "gelu": 2}  # of the MLP


@dataclass(frozen=True)
class Counts:
    """Counts of one model at one sequence length.

    `params` and `flops_forward` (a token) are by module.
    """

    params: dict[str, int]
    flops_forward: dict[str, float]
    attention_full: float  # forward FLOPs a token of unmasked scores and weighted sums

    @property
    def params_total(self) -> int:
        return sum(self.params.values())

    @property
    def params_non_embedding(self) -> int:
        """Without embedding and unembedding, as in arXiv:2001.08361."""
        return self.params_total - self.params["embed"] - self.params["unembed"]

    @property
    def flops_per_token_inference(self) -> float:
        """One forward pass, mean over the positions of a full context."""
        return sum(self.flops_forward.values())

    @property
    def flops_per_token_train(self) -> float:
        """Forward and backward (twice the forward); recomputation is not counted."""
        return 3 * self.flops_per_token_inference

    @property
    def flops_per_token_forward_full(self) -> float:
        """Forward FLOPs a token as a dense masked implementation executes them."""
        return (
            self.flops_per_token_inference
            - self.flops_forward["attention_scores"]
            + self.attention_full
        )

    @property
    def flops_per_token_6n(self) -> float:
        """The usual approximation: 6 N, N with the embedding."""
        return 6.0 * self.params_total


@cache
def count(model: ModelSpec, seq_len: int) -> Counts:
    """Parameters and FLOPs a token of `model` at context `seq_len`."""
    N, D, H, G, K = model.n_layers, model.d_model, model.n_heads, model.n_kv_heads, model.head_dim
    matrices = {
        "attention_qkv": N * D * (H + 2 * G) * K,
        "attention_out": N * H * K * D,
        "mlp": N * _MATRICES[model.activation] * D * model.d_ff,
    }
    vocabulary = model.vocab_size * D
    window = min(model.window or seq_len, seq_len)
    # mean over positions l of min(l + 1, window)
    seen = (window * (window + 1) / 2 + (seq_len - window) * window) / seq_len
    full = 4.0 * N * H * K * seq_len  # q k^T and weights times v: 2 L H K each
    return Counts(
        params={
            **matrices,
            "norms": N * (2 * D + (2 * K if model.qk_norm else 0)) + D,
            "embed": vocabulary,
            "unembed": 0 if model.tied else vocabulary,
        },
        flops_forward={
            **{name: 2.0 * size for name, size in matrices.items()},
            "attention_scores": full / seq_len * seen,
            "unembed": 2.0 * vocabulary,
        },
        attention_full=full,
    )
