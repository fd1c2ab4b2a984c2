"""Weights rounded to integers of a few bits, one scale an output channel, and back to float32.

Only weights are rounded, after training; activations and the products stay as they are. The library
is qwix: symmetric, scale = largest magnitude of a channel / (2^(bits - 1) - 0.5), rounded to the
nearest, so a weight moves by at most half a scale.
"""

import jax
import jax.numpy as jnp
import qwix

from stepladder.model.noise import TENSORS, name, role

# Tensor -> the axes that its product sums over; the others are output channels, each with a scale
# of its own. An embedding has a scale a token: so has its row as a column of a tied unembedding.
SUMMED: dict[str, tuple[int, ...]] = {
    "embed": (1,),
    "attention.qkv": (1,),
    "attention.out": (1, 2),
    "mlp.up": (1,),
    "mlp.down": (1,),
    "unembed": (0,),
}
# Bits -> the type as qwix calls it
TYPES = {bits: f"int{bits}" for bits in range(2, 8)} | {4: jnp.int4, 8: jnp.int8}


def quantised(params: dict, bits: int, tensors: str) -> dict:
    """The parameters, with those of a set (key of noise.TENSORS) rounded to `bits` (key of TYPES)
    bits.
    """

    def of(path: tuple, leaf: jax.Array) -> jax.Array:
        if role(path) not in TENSORS[tensors]:
            return leaf
        channels = tuple(axis for axis in range(leaf.ndim) if axis not in SUMMED[name(path)])
        return qwix.dequantize(qwix.quantize(leaf, TYPES[bits], channelwise_axes=channels))

    return jax.tree_util.tree_map_with_path(of, params)
