"""The two ways in which the devices of a mesh take the steps of a pack's K members.

`map`: every device takes its members one after another (lax.map): bit for bit the run alone on one
device. For backends that a single member already keeps busy, such as a CPU core. `vmap`: all
members of a device at once, for accelerators that a small model leaves idle.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from stepladder.configs.core.spec import ModelSpec, OptimizerSpec
from stepladder.model.execution import Execution
from stepladder.model.parallel import collectives
from stepladder.train.step.step import train_step, train_steps, zeros_like_metrics

RUN, REPLICATED = PartitionSpec("run"), PartitionSpec()


def map_steps(
    model: ModelSpec,
    optim: OptimizerSpec,
    execution: Execution,
    mesh: Mesh,
    state_K: dict,
    hyper_K: dict,
    count_K: jax.Array,
    stream_K: jax.Array,
    tokens_USBT: jax.Array,
) -> tuple[dict, dict]:
    """`train_steps` of every member, a device's members in turn: member k takes count[k] of the S
    batches of stream[k].
    """

    def local(state_k, hyper_k, count_k, stream_k, tokens_USBT):
        def one(member: tuple) -> tuple[dict, dict]:
            state, hyper, count, stream = member
            tokens_SBT = jax.lax.dynamic_index_in_dim(tokens_USBT, stream, keepdims=False)
            return train_steps(model, optim, execution, state, hyper, count, tokens_SBT)

        return jax.lax.map(one, (state_k, hyper_k, count_k, stream_k))

    mapped = collectives.on_devices(local, mesh, (RUN, RUN, RUN, RUN, REPLICATED), (RUN, RUN))
    return mapped(state_K, hyper_K, count_K, stream_K, tokens_USBT)


def vmap_steps(
    model: ModelSpec,
    optim: OptimizerSpec,
    execution: Execution,
    mesh: Mesh,
    state_K: dict,
    hyper_K: dict,
    count_K: jax.Array,
    stream_K: jax.Array,
    tokens_USBT: jax.Array,
) -> tuple[dict, dict]:
    """The same with all members in one step; a member that has taken its count keeps its state."""
    batches_of = _batches_of(members=count_K.shape[0], streams=tokens_USBT.shape[0])
    one = functools.partial(train_step, model, optim, execution)
    batch_axis = None if batches_of is _one_stream else 0
    step_K = jax.vmap(one, in_axes=(0, 0, batch_axis), spmd_axis_name="run")

    def batch(i: jax.Array | int) -> jax.Array:
        tokens_UBT = jax.lax.dynamic_index_in_dim(tokens_USBT, i, axis=1, keepdims=False)
        return batches_of(tokens_UBT, stream_K)

    def body(i: jax.Array, carry: tuple) -> tuple:
        active_K = i < count_K

        def keep(new: jax.Array, old: jax.Array) -> jax.Array:
            return jnp.where(active_K.reshape(-1, *(1,) * (new.ndim - 1)), new, old)

        return jax.tree.map(keep, step_K(carry[0], hyper_K, batch(i)), carry)

    no_metrics = zeros_like_metrics(step_K, state_K, hyper_K, batch(0))
    return jax.lax.fori_loop(0, count_K.max(), body, (state_K, no_metrics))


def _one_stream(tokens_UBT: jax.Array, stream_K: jax.Array) -> jax.Array:
    """The one batch (B, T), broadcast to all members."""
    return tokens_UBT[0]


def _own_streams(tokens_UBT: jax.Array, stream_K: jax.Array) -> jax.Array:
    """The batches (K, B, T) as they lie: member k has stream k."""
    return tokens_UBT


def _shared_streams(tokens_UBT: jax.Array, stream_K: jax.Array) -> jax.Array:
    """The batches (K, B, T) of the members' streams, gathered."""
    return tokens_UBT[stream_K]


def _batches_of(members: int, streams: int) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """How members get their batches of one step from those of U streams."""
    if streams == 1:
        return _one_stream
    return _own_streams if streams == members else _shared_streams


MODES = {"map": map_steps, "vmap": vmap_steps}
