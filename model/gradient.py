"""Loss and gradient of a batch: in chunks that fit the memory, each device its part of them.

Chunks change the order of a sum and nothing else: the mean over a batch is the mean over equal
chunks.
"""

import math

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, PartitionSpec

from stepladder.model.loss import next_token_loss, token_nll
from stepladder.model.parallel import collectives, rules
from stepladder.model.shape import Shape

FLAT = 2**22  # numbers; gradients up to this size meet in one collective


def _chunked(
    cfg: Shape, params: dict, tokens_BT: jax.Array, z_loss: jax.Array, chunk: int, how: dict
) -> tuple[dict, dict]:
    def gradient(tokens_bT: jax.Array) -> tuple[dict, dict]:
        def loss(params: dict) -> tuple[jax.Array, dict]:
            total, aux = next_token_loss(cfg, params, tokens_bT, z_loss, **how)
            return total, {"loss": aux["loss"], "z_loss": aux["z_loss"]}

        grads, aux = jax.grad(loss, has_aux=True)(params)
        return aux, grads

    B, T = tokens_BT.shape
    if not chunk or chunk >= B:
        return gradient(tokens_BT)
    if B % chunk:
        raise ValueError(f"chunk={chunk}: does not divide the {B} sequences of a device")
    zero = jax.tree.map(jnp.zeros_like, jax.eval_shape(gradient, tokens_BT[:chunk]))

    def add(sums, tokens_bT):
        return (jax.tree.map(jnp.add, sums, gradient(tokens_bT)), None)

    sums, _ = jax.lax.scan(add, zero, tokens_BT.reshape(-1, chunk, T))
    return jax.tree.map(lambda x: x * (chunk / B), sums)


def loss_and_gradient(
    cfg: Shape,
    params: dict,
    tokens_BT: jax.Array,
    z_loss: jax.Array | float = 0.0,
    *,
    chunk: int = 0,
    mesh: Mesh | None = None,
    **how,
) -> tuple[dict, dict]:
    """({loss, z_loss} in nats, gradient of their sum) for tokens (B, L + 1); `how` is passed to
    `logits`.

    chunk: sequences a device handles at a time, a divisor of those it holds; 0 is all (see
    layout.chunk). mesh: with one, parameters and batch lie on it as model/parallel/collectives.py
    says, and so do the gradients. Raises ValueError when a size does not divide.
    """
    z_loss = jnp.asarray(z_loss, jnp.float32)
    if mesh is None or mesh.size == 1:
        return _chunked(cfg, params, tokens_BT, z_loss, chunk, how)
    places = rules.specs(params)

    def local(params: dict, tokens_BT: jax.Array, z_loss: jax.Array) -> tuple[dict, dict]:
        parts = _chunked(
            cfg, params, tokens_BT, z_loss, chunk, {**how, "shared": collectives.Parallel.on(mesh)}
        )
        return _meet(*parts, places, mesh)

    whole = PartitionSpec()
    split = collectives.split(
        local,
        mesh,
        (places, rules.spec(rules.ACTIVATIONS["tokens_BT"]), whole),
        (whole, places),
    )
    return split(params, tokens_BT, z_loss)


def window_losses(
    cfg: Shape, params: dict, tokens_BT: jax.Array, *, mesh: Mesh | None = None, **how
) -> jax.Array:
    """Mean negative log-likelihood, nats a token, of every window (B, L + 1): (B,).

    Mesh and `how` as in `loss_and_gradient`.
    """
    if mesh is None or mesh.size == 1:
        return token_nll(cfg, params, tokens_BT, **how).mean(axis=-1)

    def local(params: dict, tokens_BT: jax.Array) -> jax.Array:
        nll_B = token_nll(cfg, params, tokens_BT, shared=collectives.Parallel.on(mesh), **how).mean(
            axis=-1
        )
        return jax.lax.pmean(nll_B, "tensor") if mesh.shape["tensor"] > 1 else nll_B

    batch = rules.spec(("batch",))
    return collectives.split(local, mesh, (rules.specs(params), batch), batch)(params, tokens_BT)


def _meet(aux: dict, grads: dict, places: dict, mesh: Mesh) -> tuple[dict, dict]:
    """Means over all devices that share a batch, from each one's part: sums over the axes along
    which a gradient is not cut.
    """
    sharing = tuple(axis for axis in rules.AXES[1:] if mesh.shape[axis] > 1)
    leaves, tree = jax.tree.flatten((aux, grads))
    cut = [()] * len(aux) + [
        jax.tree.leaves(tuple(place)) for place in jax.tree.leaves(places, is_leaf=_is_spec)
    ]
    missing = [tuple(axis for axis in sharing if axis not in axes) for axes in cut]
    for axes in dict.fromkeys(missing):
        at = [i for i, found in enumerate(missing) if found == axes]
        for i, leaf in zip(at, _sum([leaves[i] for i in at], axes)):
            leaves[i] = leaf / math.prod(mesh.shape[axis] for axis in sharing)
    return jax.tree.unflatten(tree, leaves)


def _is_spec(value: object) -> bool:
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
