"""Parameters counted by arithmetic against the real tree; FLOPs against XLA's cost analysis of the
forward pass.
"""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from stepladder.configs.core.counting import count
from stepladder.configs.core.sizes import shape
from stepladder.model import transformer
from stepladder.model.execution import Execution
from tests.support.model_shapes import SHAPES

WIDE = {
    name: dataclasses.replace(cfg, d_model=128, head_dim=32, d_ff=320, vocab_size=512)
    for name, cfg in SHAPES.items()
}


def size(tree) -> int:
    return sum(x.size for x in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    "cfg",
    [
        *SHAPES.values(),
        *WIDE.values(),
        *(shape(s, vocab_size=50_304) for s in ("6k", "25m", "1b", "7b")),
    ],
)
def test_parameters_match_the_tree(cfg):
    tree = jax.eval_shape(lambda: transformer.init(cfg, jax.random.key(0)))
    counts = count(cfg, 64)
    attention = tree["layers"]["attention"]
    assert counts.params == {
        "attention_qkv": size(attention["qkv"]),
        "attention_out": size(attention["out"]),
        "mlp": size(tree["layers"]["mlp"]),
        "norms": size(
            [tree["final_norm"], tree["layers"]["attention_norm"], tree["layers"]["mlp_norm"]]
        )
        + size([attention.get("q_norm", ()), attention.get("k_norm", ())]),
        "embed": size(tree["embed"]),
        "unembed": size(tree.get("unembed", ())),
    }
    assert counts.params_total == size(tree)


@pytest.mark.parametrize("name", WIDE)
def test_flops_match_xla(name):
    """Within 5 %, from below: XLA also counts what is no matrix product (norms, softmax, RoPE,
    activations), a few percent at width 128.

    The optimised program of the CPU backend hides its matmuls in library calls, which cost analysis
    counts as nothing: so the lowered program is asked, unrolled, since cost analysis counts a
    loop's body once.
    """
    cfg, B, L = WIDE[name], 2, 64
    params = jax.eval_shape(lambda: transformer.init(cfg, jax.random.key(0)))
    tokens = jax.ShapeDtypeStruct((B, L), jnp.int32)
    unrolled = Execution(layers="unroll")
    lowered = jax.jit(lambda p, t: transformer.logits(cfg, p, t, execution=unrolled)).lower(
        params, tokens
    )
    analysis = lowered.cost_analysis()
    counted = count(cfg, L).flops_per_token_forward_full * B * L
    assert counted < analysis["flops"] < 1.05 * counted


def test_definitions():
    counts = count(WIDE["all"], 64)
    assert counts.flops_per_token_train == 3 * counts.flops_per_token_inference
    assert counts.flops_per_token_6n == 6 * counts.params_total
    assert counts.params_non_embedding == counts.params_total - 2 * 512 * 128
    # The causal half: position l sees l + 1 of L.
    assert counts.flops_forward["attention_scores"] == pytest.approx(
        counts.attention_full * 65 / 128
    )


@pytest.mark.parametrize("window", [0, 1, 7, 63, 64, 100])
def test_a_window_counts_what_its_queries_see(window):
    """Against every pair of the mask, one by one; what a dense implementation executes stays the
    same.
    """
    cfg, L = dataclasses.replace(WIDE["gqa"], window=window), 64
    pairs = sum(j <= i and (not window or j > i - window) for i in range(L) for j in range(L))
    counts, free = count(cfg, L), count(WIDE["gqa"], L)
    assert (
        counts.flops_forward["attention_scores"]
        == 4 * cfg.n_layers * cfg.n_heads * cfg.head_dim * pairs / L
    )
    assert counts.attention_full == free.attention_full and counts.params == free.params
    assert {k: v for k, v in counts.flops_forward.items() if k != "attention_scores"} == {
        k: v for k, v in free.flops_forward.items() if k != "attention_scores"
    }
