"""Cross-entropy of the next token, in nats, and the z-loss (arXiv:2204.02311, section 5).

Logits are V wide where everything else is D wide: on an accelerator the loss works in chunks of the
sequence (`loss_floats`), so that the float32 logits of a batch never stand in memory at once.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from stepladder.model.execution import Execution
from stepladder.model.parallel.collectives import ALONE, Parallel
from stepladder.model.shape import Shape
from stepladder.model.transformer import capped, factors, product


def cross_entropy(logits_BLV: jax.Array, targets_BL: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(negative log-likelihood, log of the softmax's normaliser), both (B, L) in nats."""
    peak_BL = jax.lax.stop_gradient(logits_BLV.max(axis=-1))
    log_z_BL = peak_BL + jnp.log(jnp.exp(logits_BLV - peak_BL[..., None]).sum(axis=-1))
    # A comparison instead of a gather: the gradient is then an elementwise product and not a
    # scatter.
    chosen_BLV = targets_BL[..., None] == jnp.arange(logits_BLV.shape[-1])
    return log_z_BL - jnp.where(chosen_BLV, logits_BLV, 0.0).sum(axis=-1), log_z_BL


def chunks(sequences: int, seq_len: int, vocab_size: int, floats: int) -> int:
    """Pieces a sequence is cut into: the smallest divisor of its length with at most `floats`
    logits a piece of all sequences; 0 is no cut.
    """

    def fits(n):
        return sequences * (seq_len // n) * vocab_size <= floats

    return (
        next((n for n in range(1, seq_len + 1) if seq_len % n == 0 and fits(n)), seq_len)
        if floats
        else 1
    )


def token_nll(
    cfg: Shape,
    params: dict,
    tokens_BT: jax.Array,
    *,
    execution: Execution = Execution(),
    shared: Parallel = ALONE,
) -> jax.Array:
    """Negative log-likelihood in nats of tokens 1..T-1 given those before: (B, T - 1), or the
    device's part.

    With execution.loss_floats, pieces of the sequence are computed again for a gradient.
    """
    (x_BLD, unembed_DV), targets_BL = (
        factors(cfg, params, tokens_BT[:, :-1], execution=execution, shared=shared),
        shared.own(tokens_BT[:, 1:]),
    )

    def nll(x_BlD, targets_Bl):
        return cross_entropy(capped(product(x_BlD, unembed_DV), cfg.logit_cap), targets_Bl)[0]

    n = chunks(*targets_BL.shape, unembed_DV.shape[1], execution.loss_floats)
    if n == 1:
        return nll(x_BLD, targets_BL)
    return _join(
        jax.lax.map(
            jax.checkpoint(lambda piece: nll(*piece)), (_cut(x_BLD, n), _cut(targets_BL, n))
        )
    )


def next_token_loss(
    cfg: Shape,
    params: dict,
    tokens_BT: jax.Array,
    z_loss: jax.Array | float = 0.0,
    *,
    execution: Execution = Execution(),
    shared: Parallel = ALONE,
) -> tuple[jax.Array, dict]:
    """(mean nats a token + z_loss * mean log(Z)^2, {loss, z_loss, nll_BL}) of tokens (B, L + 1), or
    of the device's part of them.

    `z_loss` may be traced. With execution.loss_floats only the first result can be differentiated,
    once, and in reverse.
    """
    (x_BLD, unembed_DV), targets_BL = (
        factors(cfg, params, tokens_BT[:, :-1], execution=execution, shared=shared),
        shared.own(tokens_BT[:, 1:]),
    )
    n = chunks(*targets_BL.shape, unembed_DV.shape[1], execution.loss_floats)
    if n == 1:
        nll_BL, log_z_BL = cross_entropy(
            capped(product(x_BLD, unembed_DV), cfg.logit_cap), targets_BL
        )
        loss, penalty = nll_BL.mean(), z_loss * jnp.square(log_z_BL).mean()
        return loss + penalty, {"loss": loss, "z_loss": penalty, "nll_BL": nll_BL}
    total, nll_BL, square = _chunked(
        cfg.logit_cap, n, x_BLD, unembed_DV, targets_BL, jnp.asarray(z_loss, jnp.float32)
    )
    return total, jax.lax.stop_gradient(
        {"loss": nll_BL.mean(), "z_loss": z_loss * square, "nll_BL": nll_BL}
    )


def _cut(x_BLX: jax.Array, n: int) -> jax.Array:
    """(n, B, L / n, ...): pieces of all sequences, so that the batch stays as it is sharded or
    mapped.
    """
    B, L = x_BLX.shape[:2]
    return x_BLX.reshape(B, n, L // n, *x_BLX.shape[2:]).swapaxes(0, 1)


def _join(x_nBlX: jax.Array) -> jax.Array:
    n, B, l = x_nBlX.shape[:3]  # noqa: E741
    return x_nBlX.swapaxes(0, 1).reshape(B, n * l, *x_nBlX.shape[3:])


def _scan(
    each: Callable, n: int, x_BLD: jax.Array, targets_BL: jax.Array, sums: jax.Array
) -> tuple:
    return jax.lax.scan(
        lambda sums, piece: each(sums, *piece), sums, (_cut(x_BLD, n), _cut(targets_BL, n))
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _chunked(
    cap: float,
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
        return sums, cross_entropy(capped(product(x_BlD, unembed_DV), cap), targets_Bl)

    nll_BL, log_z_BL = jax.tree.map(_join, _scan(each, n, x_BLD, targets_BL, None)[1])
    square = jnp.square(log_z_BL).mean()
    return nll_BL.mean() + z_loss * square, nll_BL, square


def _forward(
    cap: float,
    n: int,
    x_BLD: jax.Array,
    unembed_DV: jax.Array,
    targets_BL: jax.Array,
    z_loss: jax.Array,
) -> tuple:
    dtype, wide = x_BLD.dtype, jnp.promote_types(x_BLD.dtype, jnp.float32)

    def each(sums_DV: jax.Array, x_BlD: jax.Array, targets_Bl: jax.Array) -> tuple:
        def loss(logits_BlV: jax.Array) -> tuple:
            nll_Bl, log_z_Bl = cross_entropy(capped(logits_BlV, cap), targets_Bl)
            return nll_Bl.sum() + z_loss * jnp.square(log_z_Bl).sum(), (nll_Bl, log_z_Bl)

        slope_BlV, (nll_Bl, log_z_Bl) = jax.grad(loss, has_aux=True)(product(x_BlD, unembed_DV))
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


def _backward(cap: float, n: int, saved: tuple, slopes: tuple) -> tuple:
    slope_BLD, sums_DV, square = saved
    total, B, L = slopes[0], *slope_BLD.shape[:2]

    def mean(sums):
        return (total / (B * L) * sums).astype(sums.dtype)

    return mean(slope_BLD), mean(sums_DV), None, total * square


_chunked.defvjp(_forward, _backward)
