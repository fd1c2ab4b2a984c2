"""The gradient of the embedding: equal however it is summed, and without a scatter on a GPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stepladder.model.parallel import embedding
from stepladder.model.parallel.collectives import SINGLE_DEVICE

V, D = 300, 8


def gradient(how, tokens_BL, slope_BLD, dtype=jnp.float32):
    """Of sum(rows * slope) with regard to the table."""

    def loss(table_VD):
        rows_BLD = embedding.embed_lookup(SINGLE_DEVICE, table_VD, tokens_BL, dtype, how)
        return (rows_BLD * slope_BLD.astype(dtype)).astype(jnp.float32).sum()

    return jax.jit(jax.grad(loss))(jnp.zeros((V, D)))


def draw(tokens_BL):
    slope = np.random.default_rng(1).normal(size=(*tokens_BL.shape, D))
    return jnp.asarray(tokens_BL, jnp.int32), jnp.asarray(slope, jnp.float32)


def batches():
    rng = np.random.default_rng(0)
    yield "few", rng.integers(0, V, (2, 5))
    yield "a block", rng.integers(0, V, (4, 32))
    yield "not a multiple of a block", rng.integers(0, V, (3, 77))
    yield "one token only", np.full((4, 100), 7)
    yield "first and last row", np.array([[0, V - 1] * 200])
    frequent = np.minimum(rng.zipf(1.3, (8, 500)) - 1, V - 1)
    yield "a few frequent ones", frequent
    yield "two levels of blocks", np.minimum(rng.zipf(1.2, (40, 500)) - 1, V - 1)


@pytest.mark.parametrize("tokens_BL", [pytest.param(t, id=name) for name, t in batches()])
def test_sorted_sums_are_those_of_a_scatter(tokens_BL):
    tokens, slope = draw(tokens_BL)
    want = np.zeros((V, D))
    np.add.at(want, tokens_BL.reshape(-1), np.asarray(slope, np.float64).reshape(-1, D))
    largest = np.abs(want).max()
    for how in embedding.SUMS:
        found = np.asarray(gradient(how, tokens, slope))
        assert np.abs(found - want).max() < 3e-6 * largest, how


def test_a_frequent_token_is_summed_in_float32():
    tokens = jnp.zeros((1, 30_000), jnp.int32)
    slope = jnp.ones((1, 30_000, D))
    found = gradient("sorted", tokens, slope, jnp.bfloat16)
    assert (np.asarray(found)[0] == 30_000).all() and not np.asarray(found)[1:].any()


def test_sorted_sums_under_vmap_are_each_member_s():
    tokens, slope = draw(np.random.default_rng(2).integers(0, V, (3, 4, 150)))
    together = jax.vmap(lambda t, s: gradient("sorted", t, s))(tokens, slope)
    alone = [gradient("sorted", t, s) for t, s in zip(tokens, slope)]
    np.testing.assert_allclose(together, np.stack(alone), rtol=0, atol=1e-5)


@pytest.mark.parametrize("how", embedding.SUMS)
def test_only_a_scatter_scatters(how):
    tokens, slope = draw(np.zeros((2, 300), int))
    text = jax.jit(lambda t, s: gradient(how, t, s)).lower(tokens, slope).as_text()
    assert ("scatter" in text) == (how == "scatter")
