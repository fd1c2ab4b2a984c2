"""The loss in pieces of the sequence, so that the float32 logits of a batch are never in memory at
once. Called by model/loss/next_token.py alone.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from stepladder.model.loss.cross_entropy import CappedCrossEntropy
from stepladder.model.transformer import logits_of


def nll_in_pieces(
    nats: CappedCrossEntropy,
    n: int,
    x_BLD: jax.Array,
    unembed_DV: jax.Array,
    targets_BL: jax.Array,
) -> jax.Array:
    """Negative log-likelihood (B, L) in n pieces of the sequence. For a gradient the logits of each
    are computed again; it can be differentiated twice.
    """

    @jax.checkpoint
    def nll(piece: tuple[jax.Array, jax.Array]) -> jax.Array:
        x_BlD, targets_Bl = piece
        return nats(logits_of(x_BlD, unembed_DV), targets_Bl)[0]

    return _join(jax.lax.map(nll, (_cut(x_BLD, n), _cut(targets_BL, n))))


def mean_loss(
    nats: CappedCrossEntropy,
    n: int,
    x_BLD: jax.Array,
    unembed_DV: jax.Array,
    targets_BL: jax.Array,
    z_loss: jax.Array,
) -> tuple[jax.Array, dict]:
    """What `loss.next_token_loss` returns, in n pieces of the sequence; only the first result can
    be differentiated, once, and in reverse.
    """
    found: Any = _mean_loss(nats, n, x_BLD, unembed_DV, targets_BL, z_loss)
    total, nll_BL, square = found
    aux = {"loss": nll_BL.mean(), "z_loss": z_loss * square, "nll_BL": nll_BL}
    return total, jax.lax.stop_gradient(aux)


def _cut(x_BLX: jax.Array, n: int) -> jax.Array:
    """(n, B, L / n, ...): pieces of all sequences, so that the batch stays as it is sharded or
    mapped.
    """
    B, L = x_BLX.shape[:2]
    return x_BLX.reshape(B, n, L // n, *x_BLX.shape[2:]).swapaxes(0, 1)


def _join(x_nBlX: jax.Array) -> jax.Array:
    """The inverse of `_cut`."""
    x_BnlX = x_nBlX.swapaxes(0, 1)
    return x_BnlX.reshape(x_BnlX.shape[0], -1, *x_BnlX.shape[3:])


def _scan(
    each: Callable, n: int, x_BLD: jax.Array, targets_BL: jax.Array, sums: jax.Array | None
) -> tuple:
    """(sums, results of `each`, stacked) over n pieces of the sequence."""
    return jax.lax.scan(
        lambda sums, piece: each(sums, *piece), sums, (_cut(x_BLD, n), _cut(targets_BL, n))
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _mean_loss(
    nats: CappedCrossEntropy,
    n: int,
    x_BLD: jax.Array,
    unembed_DV: jax.Array,
    targets_BL: jax.Array,
    z_loss: jax.Array,
) -> tuple:
    """(mean nll + z_loss * mean log(Z)^2, nll_BL, mean log(Z)^2); only the first has a gradient,
    which the forward pass leaves behind.

    A piece's logits are used for its loss and its gradient at once: three matmuls as without
    pieces, where computing them again is four.
    """

    def each(sums: None, x_BlD: jax.Array, targets_Bl: jax.Array) -> tuple:
        return sums, nats(logits_of(x_BlD, unembed_DV), targets_Bl)

    nll_BL, log_z_BL = jax.tree.map(_join, _scan(each, n, x_BLD, targets_BL, None)[1])
    square = jnp.square(log_z_BL).mean()
    return nll_BL.mean() + z_loss * square, nll_BL, square


def _mean_loss_forward(
    nats: CappedCrossEntropy,
    n: int,
    x_BLD: jax.Array,
    unembed_DV: jax.Array,
    targets_BL: jax.Array,
    z_loss: jax.Array,
) -> tuple:
    """(`_mean_loss`, what its backward pass needs): the gradients of the sums of nats, and mean
    log(Z)^2.
    """
    dtype, wide = x_BLD.dtype, jnp.promote_types(x_BLD.dtype, jnp.float32)

    def each(sums_DV: jax.Array, x_BlD: jax.Array, targets_Bl: jax.Array) -> tuple:
        def loss(logits_BlV: jax.Array) -> tuple:
            nll_Bl, log_z_Bl = nats(logits_BlV, targets_Bl)
            return nll_Bl.sum() + z_loss * jnp.square(log_z_Bl).sum(), (nll_Bl, log_z_Bl)

        slope_BlV, (nll_Bl, log_z_Bl) = jax.grad(loss, has_aux=True)(logits_of(x_BlD, unembed_DV))
        # as the weights are: a matmul of mixed types would run in float32
        slope_BlV = slope_BlV.astype(dtype)
        slope_BlD = jnp.einsum(
            "BlV,DV->BlD", slope_BlV, unembed_DV, preferred_element_type=wide
        ).astype(dtype)
        sums_DV += jnp.einsum("BlD,BlV->DV", x_BlD, slope_BlV, preferred_element_type=wide)
        return sums_DV, (slope_BlD, nll_Bl, log_z_Bl)

    sums_DV, pieces = _scan(each, n, x_BLD, targets_BL, jnp.zeros(unembed_DV.shape, wide))
    slope_BLD, nll_BL, log_z_BL = jax.tree.map(_join, pieces)
    square = jnp.square(log_z_BL).mean()
    return (nll_BL.mean() + z_loss * square, nll_BL, square), (
        slope_BLD,
        sums_DV.astype(unembed_DV.dtype),
        square,
    )


def _mean_loss_backward(nats: CappedCrossEntropy, n: int, saved: tuple, slopes: tuple) -> tuple:
    slope_BLD, sums_DV, square = saved
    total, B, L = slopes[0], *slope_BLD.shape[:2]

    def mean(sums):
        return (total / (B * L) * sums).astype(sums.dtype)

    return mean(slope_BLD), mean(sums_DV), None, total * square


_mean_loss.defvjp(_mean_loss_forward, _mean_loss_backward)
