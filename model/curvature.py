"""First and second derivatives of a loss along directions: gradients, Hessian-vector products,
traces, and the largest eigenvalue.

Vectors are flat: P is the number of parameters, in the order of `jax.flatten_util.ravel_pytree`.
Windows come in C chunks of B sequences with a weight each, so that a padded chunk costs nothing but
time: the loss is the weighted sum of the windows' mean nats a token.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from stepladder.model.execution import Execution
from stepladder.model.loss.next_token import token_nll
from stepladder.model.shape import Shape


def _chunk_loss(
    cfg: Shape, execution: Execution, params: dict, tokens_BT: jax.Array, weight_B: jax.Array
) -> jax.Array:
    nll_B = token_nll(cfg, params, tokens_BT, execution=execution).mean(axis=-1)
    return jnp.dot(weight_B, nll_B, precision="highest")


def gradient(
    cfg: Shape,
    execution: Execution,
    params: dict,
    tokens_CBT: jax.Array,
    weight_CB: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """(loss, its gradient (P,))."""

    def add(sums: tuple, chunk: tuple) -> tuple:
        loss, grads = jax.value_and_grad(lambda p: _chunk_loss(cfg, execution, p, *chunk))(params)
        return jax.tree.map(jnp.add, sums, (loss, ravel_pytree(grads)[0])), None

    zero = (jnp.float32(0), jnp.zeros_like(ravel_pytree(params)[0]))
    return jax.lax.scan(add, zero, (tokens_CBT, weight_CB))[0]


def hessian_vector(
    cfg: Shape,
    execution: Execution,
    params: dict,
    tokens_CBT: jax.Array,
    weight_CB: jax.Array,
    vector_P: jax.Array,
) -> jax.Array:
    """H v (P,): forward over reverse, so about three gradients' work and no second backward
    pass.
    """
    flat_P, unravel = ravel_pytree(params)

    def add(sum_P: jax.Array, chunk: tuple) -> tuple:
        slope = jax.grad(lambda flat_P: _chunk_loss(cfg, execution, unravel(flat_P), *chunk))
        return sum_P + jax.jvp(slope, (flat_P,), (vector_P,))[1], None

    return jax.lax.scan(add, jnp.zeros_like(flat_P), (tokens_CBT, weight_CB))[0]


def hutchinson(
    apply: Callable[[jax.Array], jax.Array],
    like: dict,
    reduce: Callable[[dict], dict],
    keys: jax.Array,
) -> dict:
    """Estimates of the diagonal of a symmetric `apply`, one a key, after `reduce`.

    v * (A v) with v of random signs has the diagonal of A as its mean (Hutchinson, 1990), so its
    sum over any block of coordinates has the trace of that block as its mean. One product serves
    all blocks.

    Args:
        apply: A as a function of a vector (P,).
        like: a tree of P numbers, in whose form `reduce` is given an estimate.
        reduce: what is kept of an estimate, e.g. sums over blocks; it is linear.
        keys: one an estimate.

    Returns:
        What `reduce` returns, with a leading axis of the keys.
    """
    flat_P, unravel = ravel_pytree(like)

    def one(key: jax.Array) -> dict:
        sign_P = jax.random.rademacher(key, flat_P.shape, flat_P.dtype)
        return reduce(unravel(sign_P * apply(sign_P)))

    return jax.lax.map(one, keys)


class Eigenvalue(NamedTuple):
    """The largest eigenvalue, in magnitude or of all, and how it was found."""

    value: jax.Array
    # |A v - value v| / |value|: the eigenvalue of a symmetric matrix is within residual * |value|
    residual: jax.Array
    iterations: jax.Array


def largest_magnitude(
    apply: Callable[[jax.Array], jax.Array],
    start_P: jax.Array,
    iterations: int,
    tolerance: float,
    shift: jax.Array | float = 0.0,
) -> Eigenvalue:
    """Power iteration on a symmetric `apply` less `shift` times the identity; traceable.

    It ends when the residual is below `tolerance` or `iterations` products are spent.
    """

    def unfinished(state: tuple) -> jax.Array:
        return (state[1].iterations < iterations) & (state[1].residual > tolerance)

    def step(state: tuple) -> tuple:
        vector_P, found = state
        product_P = apply(vector_P) - shift * vector_P
        value = jnp.dot(vector_P, product_P, precision="highest")
        residual = jnp.linalg.norm(product_P - value * vector_P) / jnp.maximum(
            jnp.abs(value), 1e-30
        )
        return product_P / jnp.maximum(jnp.linalg.norm(product_P), 1e-30), Eigenvalue(
            value, residual, found.iterations + 1
        )

    start = (
        start_P / jnp.linalg.norm(start_P),
        Eigenvalue(jnp.float32(0), jnp.float32(jnp.inf), jnp.int32(0)),
    )
    return jax.lax.while_loop(unfinished, step, start)[1]


def largest(iterate: Callable[[jax.Array | float], Eigenvalue]) -> Eigenvalue:
    """The largest eigenvalue, not the largest in magnitude; `iterate` is `largest_magnitude` as a
    function of its shift.

    When the largest in magnitude is negative, shifting by it leaves no negative one, and a second
    iteration finds the top. Iterations are summed; the residual is relative to the value returned.
    Calls `iterate` from Python, so that it compiles once.
    """
    first = iterate(jnp.float32(0))
    if first.value >= 0:
        return first
    found = iterate(first.value)
    value = found.value + first.value
    residual = found.residual * jnp.abs(found.value) / jnp.maximum(jnp.abs(value), 1e-30)
    return Eigenvalue(value, residual, found.iterations + first.iterations)
