"""Curvature against the dense Hessian, finite differences, and matrices whose eigenvalues are
known.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from stepladder.configs.core import sizes
from stepladder.model import curvature, transformer
from stepladder.model.execution import Execution
from stepladder.model.loss.next_token import token_nll

UNROLLED = Execution(layers="unroll")


@pytest.fixture(scope="module")
def tiny():
    """A model of a few hundred parameters, away from initialisation; 3 chunks of 2 windows, the
    last of weight 0.
    """
    cfg = sizes.shape("w4d1h2", vocab_size=11)
    params = jax.tree.map(
        lambda x: x + 0.3 * jax.random.normal(jax.random.key(x.size), x.shape),
        transformer.init(cfg, jax.random.key(0)),
    )
    tokens_CBT = jax.random.randint(jax.random.key(1), (3, 2, 9), 0, 11)
    weight_CB = jnp.array([[0.3, 0.2], [0.1, 0.25], [0.15, 0.0]])
    return cfg, params, tokens_CBT, weight_CB


@pytest.fixture(scope="module")
def dense(tiny):
    cfg, params, tokens_CBT, weight_CB = tiny
    flat_P, unravel = ravel_pytree(params)

    def loss(flat_P):
        nll_W = token_nll(cfg, unravel(flat_P), tokens_CBT.reshape(6, 9), execution=UNROLLED)
        return nll_W.mean(axis=-1) @ weight_CB.reshape(6)

    # Run once: LLVM takes longer over it than it saves.
    options = {"xla_backend_optimization_level": 0}
    return jax.jit(
        lambda x_P: (loss(x_P), jax.grad(loss)(x_P), jax.hessian(loss)(x_P)),
        compiler_options=options,
    )(flat_P)


def test_gradient(tiny, dense):
    cfg, params, tokens_CBT, weight_CB = tiny
    loss, grad_P = jax.jit(lambda p: curvature.gradient(cfg, UNROLLED, p, tokens_CBT, weight_CB))(
        params
    )
    assert loss == pytest.approx(float(dense[0]), rel=1e-5)
    np.testing.assert_allclose(grad_P, dense[1], rtol=1e-3, atol=1e-5)


def test_hessian_vector_against_the_dense_hessian(tiny, dense):
    cfg, params, tokens_CBT, weight_CB = tiny
    hessian_PP = np.asarray(dense[2])
    np.testing.assert_allclose(hessian_PP, hessian_PP.T, atol=1e-4)
    product = jax.jit(
        lambda v: curvature.hessian_vector(cfg, UNROLLED, params, tokens_CBT, weight_CB, v)
    )
    for seed in range(3):
        v_P = jax.random.normal(jax.random.key(seed), dense[1].shape)
        found_P = product(v_P)
        np.testing.assert_allclose(found_P, hessian_PP @ v_P, rtol=2e-3, atol=2e-4)


def test_hessian_vector_of_a_model_that_computes_in_bfloat16(tiny, dense):
    """To bfloat16's rounding: that it can be differentiated twice at all."""
    cfg, params, tokens_CBT, weight_CB = tiny
    low = dataclasses.replace(cfg, compute_dtype="bfloat16")
    v_P = jax.random.normal(jax.random.key(0), dense[1].shape)
    found_P = jax.jit(
        lambda v: curvature.hessian_vector(low, UNROLLED, params, tokens_CBT, weight_CB, v)
    )(v_P)
    want_P = np.asarray(dense[2]) @ v_P
    assert np.linalg.norm(found_P - want_P) < 0.2 * np.linalg.norm(want_P)


def test_hessian_vector_against_finite_differences(tiny, dense):
    cfg, params, tokens_CBT, weight_CB = tiny
    flat_P, unravel = ravel_pytree(params)
    v_P = dense[1] / jnp.linalg.norm(dense[1])
    slope = jax.jit(
        lambda x_P: curvature.gradient(cfg, UNROLLED, unravel(x_P), tokens_CBT, weight_CB)[1]
    )
    step = 2e-3
    difference_P = (slope(flat_P + step * v_P) - slope(flat_P - step * v_P)) / (2 * step)
    found_P = jax.jit(
        lambda v: curvature.hessian_vector(cfg, UNROLLED, params, tokens_CBT, weight_CB, v)
    )(v_P)
    assert jnp.linalg.norm(found_P - difference_P) < 0.005 * jnp.linalg.norm(found_P)


def test_largest_eigenvalue_of_the_model(tiny, dense):
    cfg, params, tokens_CBT, weight_CB = tiny

    def apply(v_P):
        return curvature.hessian_vector(cfg, UNROLLED, params, tokens_CBT, weight_CB, v_P)

    start_P = jax.random.normal(jax.random.key(5), dense[1].shape)
    found = curvature.largest(
        jax.jit(lambda shift: curvature.largest_magnitude(apply, start_P, 2000, 1e-3, shift))
    )
    expected = float(jnp.linalg.eigvalsh(dense[2])[-1])
    assert found.residual <= 1e-2 and found.iterations < 4000
    assert abs(float(found.value) - expected) <= found.residual * expected


@pytest.mark.parametrize(
    ("spectrum", "expected"),
    [((5.0, 2.0, -1.0, 0.1), 5.0), ((3.0, 1.0, -7.0, 0.5), 3.0), ((-1.0, -2.0, -4.0, -9.0), -1.0)],
)
def test_largest_is_the_algebraic_one(spectrum, expected):
    basis_PP = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
    matrix_PP = jnp.asarray(basis_PP @ np.diag(spectrum) @ basis_PP.T, jnp.float32)
    start_P = jnp.ones(4) + jnp.arange(4.0)
    found = curvature.largest(
        lambda shift: curvature.largest_magnitude(
            lambda v: matrix_PP @ v, start_P, 500, 1e-4, shift
        )
    )
    assert float(found.value) == pytest.approx(expected, abs=2e-3)


def test_an_exhausted_iteration_says_so():
    matrix_PP = jnp.diag(jnp.array([1.0, 0.999, 0.9, 0.1]))
    found = curvature.largest_magnitude(lambda v: matrix_PP @ v, jnp.ones(4), 3, 1e-6)
    assert found.iterations == 3 and found.residual > 1e-6


def test_hutchinson_estimates_the_traces_of_blocks():
    """Unbiased by its own standard error; exact, whatever the signs, for a diagonal matrix."""
    rng = np.random.default_rng(1)
    half_PP = rng.normal(size=(12, 12)).astype(np.float32)
    matrix_PP = jnp.asarray(half_PP + half_PP.T)
    like = {"a": jnp.zeros((2, 4)), "b": jnp.zeros(4)}

    def sums(tree):
        return {"a": tree["a"].sum(axis=1), "b": tree["b"].sum()}

    keys = jax.random.split(jax.random.key(0), 400)
    found = curvature.hutchinson(lambda v: matrix_PP @ v, like, sums, keys)
    diagonal_P = np.diag(matrix_PP)
    samples = np.column_stack([found["a"], found["b"]])
    want = diagonal_P.reshape(3, 4).sum(axis=1)
    se = samples.std(axis=0, ddof=1) / np.sqrt(len(keys))
    assert (np.abs(samples.mean(axis=0) - want) < 4 * se).all() and (se < 0.6).all()
    exact = curvature.hutchinson(lambda v: jnp.diag(diagonal_P) @ v, like, sums, keys[:2])
    np.testing.assert_allclose(np.column_stack([exact["a"], exact["b"]]), [want] * 2, rtol=1e-5)
