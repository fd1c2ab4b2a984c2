"""Executed FLOPs from a jaxpr, against XLA's cost analysis and against counting by module."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl
from jax.sharding import Mesh, PartitionSpec

from stepladder.configs.core import counting, sizes
from stepladder.model import transformer
from stepladder.model.attention import splash
from stepladder.model.attention.attend import attend
from stepladder.model.attention.mask import MaskSpec
from stepladder.model.execution import Execution
from stepladder.model.gradient import loss_and_gradient
from stepladder.train.checks import flops

BATCH, LENGTH = 4, 64
SPEC = sizes.shape("84k", vocab_size=512)
N = 32
SQUARE = jax.ShapeDtypeStruct((N, N), jnp.float32)
PRODUCT = 2.0 * N**3


@functools.cache
def gradient_of(execution):
    params = jax.eval_shape(lambda: transformer.init(SPEC, jax.random.key(0)))
    tokens_BT = jax.ShapeDtypeStruct((BATCH, LENGTH + 1), jnp.int32)
    return jax.jit(lambda p, t: loss_and_gradient(SPEC, p, t, execution=execution)[1]).trace(
        params, tokens_BT
    )


def full(passes: float) -> float:
    return passes * BATCH * LENGTH * counting.count(SPEC, LENGTH).flops_per_token_forward_full


@pytest.mark.parametrize(
    "execution",
    [Execution(layers="unroll"), Execution(), Execution(micro_batch=2)],
)
def test_a_step_executes_what_counting_says(execution):
    """Three passes of the dense masked model, however layers and micro-batches loop."""
    assert flops.executed(gradient_of(execution).jaxpr) == pytest.approx(full(3), rel=1e-9)


def test_recomputation_shows():
    """remat=full computes the layers again, and not the unembedding."""
    again = BATCH * LENGTH * counting.count(SPEC, LENGTH).flops_forward["unembed"]
    found = flops.executed(gradient_of(Execution(remat="full")).jaxpr)
    # the down projection's output is needed by no gradient
    last = 2.0 * BATCH * LENGTH * SPEC.n_layers * SPEC.d_ff * SPEC.d_model
    assert full(4) - again - last <= found * (1 + 1e-9) and found <= full(4) - again


def test_xla_counts_the_same_when_nothing_loops():
    """XLA adds what is no matrix product, a few percent here."""
    traced = gradient_of(Execution(layers="unroll"))
    xla = traced.lower().compile().cost_analysis()["flops"]
    assert 1.0 <= xla / flops.executed(traced.jaxpr) < 1.12


def test_local_work_is_counted_on_every_device():
    mesh = Mesh(np.array(jax.devices()[:4]).reshape(2, 2), ("a", "b"))
    split = jax.shard_map(
        lambda x: x @ x.T,
        mesh=mesh,
        in_specs=PartitionSpec("a"),
        out_specs=PartitionSpec("a"),
        check_vma=False,
    )
    assert flops.executed(jax.make_jaxpr(split)(SQUARE)) == 4 * 2.0 * (N / 2) ** 2 * N


def test_loops_branches_and_convolutions():
    def product(x):
        return x @ x

    def steps(x, n):
        return jax.lax.fori_loop(0, n, lambda i, x: product(product(x)), x)

    assert flops.executed(jax.make_jaxpr(steps)(SQUARE, 7)) == 2 * PRODUCT  # unknown length: once

    def branch(x, p):
        return jax.lax.cond(p, lambda x: product(product(x)), product, x)

    assert flops.executed(jax.make_jaxpr(branch)(SQUARE, True)) == 2 * PRODUCT
    image = jax.ShapeDtypeStruct((1, 3, 8, 8), jnp.float32)
    kernel = jax.ShapeDtypeStruct((5, 3, 2, 2), jnp.float32)

    def convolve(x, k):
        return jax.lax.conv_general_dilated(x, k, (1, 1), "VALID")

    assert flops.executed(jax.make_jaxpr(convolve)(image, kernel)) == 2 * 5 * 7 * 7 * 3 * 2 * 2


def test_a_kernel_counts_its_estimate_or_its_grid():
    def body(x_ref, out_ref):
        out_ref[...] = x_ref[...] @ x_ref[...]

    def call(x, **more):
        return pl.pallas_call(
            body,
            grid=(3,),
            out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype),
            interpret=True,
            **more,
        )(x)

    assert flops.executed(jax.make_jaxpr(call)(SQUARE)) == 3 * PRODUCT
    estimate = pl.CostEstimate(flops=123, transcendentals=0, bytes_accessed=0)
    assert (
        flops.executed(jax.make_jaxpr(functools.partial(call, cost_estimate=estimate))(SQUARE))
        == 123
    )


def attention_gradient(implementation: str, L: int, H: int, K: int, window: int):
    x_BLHK = jax.ShapeDtypeStruct((1, L, H, K), jnp.bfloat16)

    def loss(q, k, v):
        return (
            attend(q, k, v, MaskSpec(window=window), implementation=implementation)
            .astype(jnp.float32)
            .sum()
        )

    return jax.make_jaxpr(jax.grad(loss, (0, 1, 2)))(x_BLHK, x_BLHK, x_BLHK)


@pytest.mark.parametrize(
    "L, window", [(1024, 0), (4096, 0), (4096, 512), (4096, 700), (4096, 1024), (4096, 4096)]
)
def test_splash_counts_the_blocks_its_mask_leaves(L, window):
    """Of 512 x 512: two products forward, and five in one kernel backward or seven in two."""
    H, K, blocks = 3, 64, L // 512
    products = 7 if blocks <= splash.FUSED and not window else 9
    mask_LL = np.tril(np.ones((L, L), bool)) & ~np.tril(np.ones((L, L), bool), -(window or L))
    visited = mask_LL.reshape(blocks, 512, blocks, 512).any((1, 3)).sum()
    outside = 2 * H * L * K  # the output times its gradient
    found = flops.executed(attention_gradient("splash", L, H, K, window))
    assert found == pytest.approx(products * visited * 2 * H * 512**2 * K + outside, rel=1e-9)


@pytest.mark.parametrize("window, share", [(0, 1 / 2), (64, 0.25 * (1 - 0.125))])
def test_cudnn_counts_seven_products_of_what_its_mask_leaves(window, share, monkeypatch):
    from jax._src.cudnn import fused_attention_stablehlo

    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)
    assert flops.executed(attention_gradient("cudnn", 256, 3, 64, window)) == pytest.approx(
        7 * 2 * 3 * 256**2 * 64 * share
    )
