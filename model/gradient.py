"""Loss and gradient of a batch: in micro-batches that fit the memory, each device its part of them.

Micro-batches change the order of a sum and nothing else: the mean over a batch is the mean over
equal micro-batches.
"""

import math

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, PartitionSpec

from stepladder.model.execution import Execution
from stepladder.model.loss.next_token import next_token_loss, token_nll
from stepladder.model.parallel import rules
from stepladder.model.parallel.collectives import SINGLE_DEVICE, Parallel, on_devices
from stepladder.model.shape import Shape

FLAT = 2**22  # numbers; gradients up to this size meet in one collective


def _accumulated(
    cfg: Shape,
    params: dict,
    tokens_BT: jax.Array,
    z_loss: jax.Array,
    execution: Execution,
    parallel: Parallel,
) -> tuple[dict, dict]:
    """({loss, z_loss}, gradient) of a device's sequences, a micro-batch after another."""

    def gradient(tokens_bT: jax.Array) -> tuple[dict, dict]:
        def loss(params: dict) -> tuple[jax.Array, dict]:
            total, aux = next_token_loss(
                cfg, params, tokens_bT, z_loss, execution=execution, parallel=parallel
            )
            return total, {"loss": aux["loss"], "z_loss": aux["z_loss"]}

        grads, aux = jax.grad(loss, has_aux=True)(params)
        return aux, grads

    (B, T), b = tokens_BT.shape, execution.micro_batch
    if not b or b >= B:
        return gradient(tokens_BT)
    if B % b:
        raise ValueError(f"micro_batch={b}: does not divide the {B} sequences of a device")
    zero = jax.tree.map(jnp.zeros_like, jax.eval_shape(gradient, tokens_BT[:b]))

    def add(sums, tokens_bT):
        return (jax.tree.map(jnp.add, sums, gradient(tokens_bT)), None)

    sums, _ = jax.lax.scan(add, zero, tokens_BT.reshape(-1, b, T))
    return jax.tree.map(lambda x: x * (b / B), sums)


def loss_and_gradient(
    cfg: Shape,
    params: dict,
    tokens_BT: jax.Array,
    z_loss: jax.Array | float = 0.0,
    *,
    execution: Execution = Execution(),
) -> tuple[dict, dict]:
    """Loss of a batch and its gradient.

    Args:
        cfg: shape of the model.
        params: its parameters; on execution.mesh as model/parallel/rules.py says, if there is one.
        tokens_BT: the batch, (B, L + 1) int32; its rows lie on the mesh likewise.
        z_loss: weight of the z-loss; may be traced.
        execution: how the step runs.

    Returns:
        {loss, z_loss} in nats a token, and the gradient of their sum, which lies as `params` do.

    Raises:
        ValueError: when execution.micro_batch does not divide the sequences of a device.
    """
    z_loss, mesh = jnp.asarray(z_loss, jnp.float32), execution.mesh
    if mesh is None or mesh.size == 1:
        return _accumulated(cfg, params, tokens_BT, z_loss, execution, SINGLE_DEVICE)
    places, replicated = rules.partitions(params), PartitionSpec()

    def local(params: dict, tokens_BT: jax.Array, z_loss: jax.Array) -> tuple[dict, dict]:
        parallel = Parallel.on(mesh)
        aux, grads = _accumulated(cfg, params, tokens_BT, z_loss, execution, parallel)
        if execution.layers == "unroll":
            # libtpu sums in bfloat16 what was computed in it, unless a loop or this is in between
            aux, grads = jax.lax.optimization_barrier((aux, grads))
        return _mean_over_devices(aux, grads, places, mesh)

    by_batch = rules.partition(rules.TOKENS_BT)
    mapped = on_devices(local, mesh, (places, by_batch, replicated), (replicated, places))
    return mapped(params, tokens_BT, z_loss)


def window_losses(
    cfg: Shape, params: dict, tokens_BT: jax.Array, *, execution: Execution = Execution()
) -> jax.Array:
    """Mean negative log-likelihood, nats a token, of every window (B, L + 1): (B,).

    `execution` as in `loss_and_gradient`, but for its micro_batch.
    """
    mesh = execution.mesh
    if mesh is None or mesh.size == 1:
        return token_nll(cfg, params, tokens_BT, execution=execution).mean(axis=-1)

    def local(params: dict, tokens_BT: jax.Array) -> jax.Array:
        parallel = Parallel.on(mesh)
        nll_BL = token_nll(cfg, params, tokens_BT, execution=execution, parallel=parallel)
        nll_B = nll_BL.mean(axis=-1)
        return jax.lax.pmean(nll_B, "tensor") if mesh.shape["tensor"] > 1 else nll_B

    by_batch = rules.partition(("batch",))
    mapped = on_devices(local, mesh, (rules.partitions(params), by_batch), by_batch)
    return mapped(params, tokens_BT)


def _mean_over_devices(aux: dict, grads: dict, places: dict, mesh: Mesh) -> tuple[dict, dict]:
    """Means over all devices that share a batch, from each one's part: sums over the axes along
    which a gradient is not cut.
    """
    sharing = tuple(axis for axis in rules.AXES[1:] if mesh.shape[axis] > 1)
    leaves, tree = jax.tree.flatten((aux, grads))
    cut = [()] * len(aux) + [
        jax.tree.leaves(tuple(place)) for place in jax.tree.leaves(places, is_leaf=_is_partition)
    ]
    missing = [tuple(axis for axis in sharing if axis not in axes) for axes in cut]
    for axes in dict.fromkeys(missing):
        at = [i for i, found in enumerate(missing) if found == axes]
        for i, leaf in zip(at, _sum([leaves[i] for i in at], axes)):
            leaves[i] = leaf / math.prod(mesh.shape[axis] for axis in sharing)
    return jax.tree.unflatten(tree, leaves)


def _is_partition(value: object) -> bool:
    return isinstance(value, PartitionSpec)


def _sum(leaves: list[jax.Array], axes: tuple[str, ...]) -> list[jax.Array]:
    """Their sums over mesh axes.

    Small ones meet as one flat vector: a collective costs a rendezvous, whatever its size (most on
    CPU).
    """
    if not axes:
        return leaves
    if sum(leaf.size for leaf in leaves) > FLAT:  # a copy of all would cost more
        return jax.lax.psum(leaves, axes)
    flat, unravel = ravel_pytree(leaves)
    return unravel(jax.lax.psum(flat, axes))
