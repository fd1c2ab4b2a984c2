"""QK-norm and rotation: the gradient that is written out is autodiff's, once and twice."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stepladder.model.attention import rope
from stepladder.model.attention.qk_norm import normed_and_rotated
from stepladder.model.norm import rms_norm

RNG = np.random.default_rng(0)
EPS = 1e-6


def by_autodiff(x_BLHK, scale_K, angles_BLK, eps):
    return rope.rotate(rms_norm(x_BLHK, scale_K, eps), *angles_BLK)


def arguments(dtype):
    x_BLHK = jnp.asarray(RNG.standard_normal((2, 5, 3, 8)), dtype)
    scale_K = jnp.asarray(1 + 0.3 * RNG.standard_normal(8))
    weight_BLHK = jnp.asarray(RNG.standard_normal(x_BLHK.shape))
    return x_BLHK, scale_K, rope.angles(jnp.arange(5)[None] * 7, 8, 100.0), weight_BLHK


def loss(function, x_BLHK, scale_K, angles_BLK, weight_BLHK):
    return (jnp.sin(function(x_BLHK, scale_K, angles_BLK, EPS)) * weight_BLHK).sum()


def test_values_and_gradients_in_float64():
    with jax.enable_x64(True):
        x, scale, angles, weight = arguments(jnp.float64)
        ours, theirs = (
            jax.value_and_grad(loss, argnums=(1, 2))(f, x, scale, angles, weight)
            for f in (normed_and_rotated, by_autodiff)
        )
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), ours, theirs)


def test_hessian_vector_products_in_float64():
    """Forward over reverse, as model/curvature.py takes them."""
    with jax.enable_x64(True):
        x, scale, angles, weight = arguments(jnp.float64)
        along = (jnp.cos(x), jnp.sin(scale))

        def product(f):
            slope = jax.grad(lambda x, s: loss(f, x, s, angles, weight), argnums=(0, 1))
            return jax.jvp(slope, (x, scale), along)[1]

        ours, theirs = product(normed_and_rotated), product(by_autodiff)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), ours, theirs)


def test_over_a_pack_and_in_bfloat16():
    """Mapped over runs, each with scales of its own, gradients have the dtypes of their inputs and
    are autodiff's to bfloat16's rounding.
    """
    x, scale, angles, weight = arguments(jnp.bfloat16)
    runs_x, runs_scale = jnp.stack([x, 2 * x]), jnp.stack([scale, 0.5 * scale])

    def slopes(f):
        one = jax.grad(loss, argnums=(1, 2))
        return jax.vmap(lambda x, s: one(f, x, s, angles, weight))(runs_x, runs_scale)

    ours, theirs = slopes(normed_and_rotated), slopes(by_autodiff)
    assert [a.dtype for a in ours] == [jnp.bfloat16, scale.dtype]
    for a, b in zip(ours, theirs):
        a, b = (np.asarray(found, np.float64) for found in (a, b))
        assert np.linalg.norm(a - b) < 1e-2 * np.linalg.norm(b)


@pytest.mark.parametrize("K", [2, 8, 64])
def test_rotating_back_is_the_inverse(K):
    x = jnp.asarray(RNG.standard_normal((2, 5, 3, K)), jnp.float32)
    angles = rope.angles(jnp.arange(5)[None] * 11, K, 10_000.0)
    back = rope.rotate_back(rope.rotate(x, *angles), *angles)
    np.testing.assert_allclose(back, x, atol=1e-5)
