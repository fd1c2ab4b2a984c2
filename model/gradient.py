"""Loss and gradient of a batch, in chunks that fit the cache and with one collective for all parameters.

Chunks change the order of a sum and nothing else: the mean over a batch is the mean over equal chunks.
"""

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, PartitionSpec

from stepladder.model.loss import next_token_loss
from stepladder.model.shape import Shape


def _chunked(cfg: Shape, params: dict, tokens_BT: jax.Array, z_loss: jax.Array, chunk: int, how: dict) -> tuple[dict, dict]:
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
    add = lambda sums, tokens_bT: (jax.tree.map(jnp.add, sums, gradient(tokens_bT)), None)  # noqa: E731
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
    axis: str = "data",
    **how,
) -> tuple[dict, dict]:
    """({loss, z_loss} in nats, gradient of their sum) for tokens (B, L + 1); `how` is passed to `logits`.

    chunk: sequences a device handles at a time, a divisor of those it holds; 0 is all (see layout.chunk). mesh: with one, the parameters
    are replicated and the batch is sharded over its `axis`; gradients then meet in a single all-reduce of one flat vector (a collective
    of XLA's CPU backend costs a rendezvous of threads, whatever its size). Raises ValueError when a size does not divide.
    """
    z_loss = jnp.asarray(z_loss, jnp.float32)
    if mesh is None or mesh.shape[axis] == 1:
        return _chunked(cfg, params, tokens_BT, z_loss, chunk, how)

    def local(params: dict, tokens_BT: jax.Array, z_loss: jax.Array) -> tuple[dict, dict]:
        flat, unravel = ravel_pytree(_chunked(cfg, params, tokens_BT, z_loss, chunk, how))
        return unravel(jax.lax.pmean(flat, axis))

    whole = PartitionSpec()
    # check_vma would turn the gradient of replicated parameters into one all-reduce a tensor and a chunk.
    split = jax.shard_map(local, mesh=mesh, in_specs=(whole, PartitionSpec(axis), whole), out_specs=whole, check_vma=False)
    return split(params, tokens_BT, z_loss)
