"""Where the time of a training step goes: its phases, and its modules alone.

Used by step_vs_torch.py.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from stepladder.configs.core.spec import ModelSpec
from stepladder.model.attention import rope
from stepladder.model.attention.mask import MaskSpec
from stepladder.model.execution import Execution
from stepladder.model.init import Init
from stepladder.model.layer import Layer, no_record
from stepladder.model.loss.cross_entropy import cross_entropy
from stepladder.model.loss.next_token import next_token_loss


def repeated(compiled: Callable, *arguments) -> Callable[[int], float]:
    """A function that runs `compiled` n times."""

    def run(n: int) -> float:
        for _ in range(n):
            jax.block_until_ready(compiled(*arguments))
        return 0.0

    return run


def forward_of(
    spec: ModelSpec, params: dict, tokens_BT: jax.Array, micro_batch: int, layers: str
) -> Callable[[int], float]:
    """The forward pass and loss of one device's sequences, in the micro-batches of the step."""
    tokens_CBT = tokens_BT.reshape(-1, micro_batch, tokens_BT.shape[1])
    execution = Execution(layers=layers)
    forward = jax.jit(
        lambda p, t: jax.lax.map(
            lambda t_BT: next_token_loss(spec, p, t_BT, execution=execution)[0], t
        ).mean()
    )
    return repeated(forward.lower(params, tokens_CBT).compile(), params, tokens_CBT)


def modules_of(
    spec: ModelSpec, params: dict, sequences: int, seq_len: int, micro_batch: int
) -> dict[str, tuple[int, Callable[[int], float]]]:
    """Forward and backward of one module alone on one device: name -> (how often a step runs it,
    function of n runs).
    """
    layer = Layer(spec, Init(spec, jax.random.key(0)))
    angles_LK = rope.angles(jnp.arange(seq_len)[None], spec.head_dim, spec.rope_theta)
    x_BLD = jax.random.normal(jax.random.key(0), (micro_batch, seq_len, spec.d_model))
    targets_BL = jnp.zeros((micro_batch, seq_len), jnp.int32)
    first = jax.tree.map(lambda p: p[0], params["layers"])

    def attention(p: dict, x_BLD: jax.Array) -> jax.Array:
        module = nnx.merge(nnx.graphdef(layer.attention), p)
        return module(x_BLD, angles_LK, MaskSpec(), "xla", no_record)

    def mlp(p: dict, x_BLD: jax.Array) -> jax.Array:
        return nnx.merge(nnx.graphdef(layer.mlp), p)(x_BLD, no_record)

    def unembed(p: jax.Array, x_BLD: jax.Array) -> jax.Array:
        return cross_entropy(
            (x_BLD.reshape(-1, spec.d_model) @ p).reshape(micro_batch, seq_len, -1), targets_BL
        )[0]

    unembed_DV = params["embed"].T if spec.tied else params["unembed"]
    parts = {
        "attention": (attention, first["attention"]),
        "mlp": (mlp, first["mlp"]),
        "unembed+loss": (unembed, unembed_DV),
    }
    count = sequences // micro_batch
    result = {}
    for name, (part, weights) in parts.items():
        gradient = jax.jit(
            jax.grad(lambda p, x, part=part: jnp.square(part(p, x)).mean(), argnums=(0, 1))
        )
        times = count * (1 if name == "unembed+loss" else spec.n_layers)
        result[name] = times, repeated(gradient.lower(weights, x_BLD).compile(), weights, x_BLD)
    return result
