"""The loss of the next token, in nats, and the z-loss (arXiv:2204.02311, section 5).

Logits are V wide where everything else is D wide: with Execution.loss_floats the loss takes a
piece of the sequence at a time (model/loss/pieces.py), so that the float32 logits of a batch are
never in memory at once.
"""

import jax
import jax.numpy as jnp

from stepladder.model.arithmetic import in_its_arithmetic
from stepladder.model.execution import Execution
from stepladder.model.loss.cross_entropy import CappedCrossEntropy
from stepladder.model.loss.pieces import mean_loss, nll_in_pieces
from stepladder.model.parallel.collectives import SINGLE_DEVICE, Parallel
from stepladder.model.shape import Shape
from stepladder.model.transformer import (
    final_hidden_and_unembedding,
    logits_of,
    residual_stream,
)


@in_its_arithmetic
def token_nll(
    cfg: Shape,
    params: dict,
    tokens_BT: jax.Array,
    *,
    execution: Execution = Execution(),
    parallel: Parallel = SINGLE_DEVICE,
) -> jax.Array:
    """Negative log-likelihood in nats of tokens 1..T-1 given those before: (B, T - 1), or the
    device's part; 0 for a token that is marked (Shape.marked).
    """
    x_BLD, unembed_DV, targets_BL = _before_the_logits(cfg, params, tokens_BT, execution, parallel)
    nats = CappedCrossEntropy(cfg.logit_cap, execution.normaliser, cfg.marked)
    B, L = targets_BL.shape
    n = piece_count(B, L, unembed_DV.shape[1], execution.loss_floats)
    if n > 1:
        return nll_in_pieces(nats, n, x_BLD, unembed_DV, targets_BL)
    return nats(logits_of(x_BLD, unembed_DV), targets_BL)[0]


@in_its_arithmetic
def next_token_loss(
    cfg: Shape,
    params: dict,
    tokens_BT: jax.Array,
    z_loss: jax.Array | float = 0.0,
    *,
    execution: Execution = Execution(),
    parallel: Parallel = SINGLE_DEVICE,
) -> tuple[jax.Array, dict]:
    """(mean nats a token + z_loss * mean log(Z)^2, {loss, z_loss, nll_BL}) of tokens (B, L + 1), or
    of the device's part of them.

    `z_loss` may be traced. Marked tokens (Shape.marked) add 0 to a mean over all. In pieces
    (execution.loss_floats) only the first result can be differentiated, once, and in reverse.
    """
    x_BLD, unembed_DV, targets_BL = _before_the_logits(cfg, params, tokens_BT, execution, parallel)
    nats = CappedCrossEntropy(cfg.logit_cap, execution.normaliser, cfg.marked)
    B, L = targets_BL.shape
    n = piece_count(B, L, unembed_DV.shape[1], execution.loss_floats)
    if n > 1:
        z_loss = jnp.asarray(z_loss, jnp.float32)
        return mean_loss(nats, n, x_BLD, unembed_DV, targets_BL, z_loss)
    nll_BL, log_z_BL = nats(logits_of(x_BLD, unembed_DV), targets_BL)
    loss, penalty = nll_BL.mean(), z_loss * jnp.square(log_z_BL).mean()
    return loss + penalty, {"loss": loss, "z_loss": penalty, "nll_BL": nll_BL}


def piece_count(sequences: int, seq_len: int, vocab_size: int, floats: int) -> int:
    """Pieces that every sequence is cut into: the smallest divisor of its length with which a piece
    of all sequences has at most `floats` logits; `floats` 0 is no cut.
    """
    if not floats:
        return 1
    for n in range(1, seq_len + 1):
        if seq_len % n == 0 and sequences * (seq_len // n) * vocab_size <= floats:
            return n
    return seq_len


def _before_the_logits(
    cfg: Shape, params: dict, tokens_BT: jax.Array, execution: Execution, parallel: Parallel
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(final hidden (B, L, D), unembedding (D, V), targets (B, L)) of a device."""
    tokens_BL = tokens_BT[:, :-1]
    if cfg.marked:
        tokens_BL = jnp.where(tokens_BL < 0, ~tokens_BL, tokens_BL)
    x_BLD = residual_stream(cfg, params, tokens_BL, execution=execution, parallel=parallel)
    x_BLD, unembed_DV = final_hidden_and_unembedding(cfg, params, x_BLD, parallel)
    return x_BLD, unembed_DV, parallel.local_sequence(tokens_BT[:, 1:])
