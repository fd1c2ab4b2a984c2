"""The feed-forward sub-layer, and the table of activations."""

from collections.abc import Callable
from typing import NamedTuple

import jax
from flax import nnx

from stepladder.model.init import Init
from stepladder.model.shape import Shape


class Activation(NamedTuple):
    """How many projections of the input an activation takes, and the function of them (each ...F ->
    ...F).
    """

    inputs: int
    function: Callable[..., jax.Array]


ACTIVATIONS = {
    "swiglu": Activation(2, lambda gate, up: jax.nn.silu(gate) * up),  # arXiv:2002.05202
    # arXiv:1606.08415, tanh form
    "gelu": Activation(1, lambda up: jax.nn.gelu(up, approximate=True)),
}


class MLP(nnx.Module):
    """Position-wise MLP; the `inputs` projections of the activation are one fused matrix.

    Raises KeyError for an unknown activation.
    """

    def __init__(self, cfg: Shape, init: Init):
        D, F, N = cfg.d_model, cfg.d_ff, cfg.n_layers
        self.activation = cfg.activation
        self.up = init("mlp.up", (N, D, ACTIVATIONS[cfg.activation].inputs, F), fan_in=D)
        self.down = init("mlp.down", (N, F, D), fan_in=F)

    def __call__(self, x_BLD: jax.Array, record: Callable[[str, jax.Array], None]) -> jax.Array:
        """Output of the branch; `record` is given the inputs of the activation as "up"."""
        (B, L, D), dtype = x_BLD.shape, x_BLD.dtype
        inputs, function = ACTIVATIONS[self.activation]
        up_DXF = self.up[...].astype(dtype)
        up_YXF = (x_BLD.reshape(B * L, D) @ up_DXF.reshape(D, -1)).reshape(B * L, inputs, -1)
        record("up", up_YXF)
        hidden_YF = function(*(up_YXF[:, i] for i in range(inputs)))
        return (hidden_YF @ self.down[...].astype(dtype)).reshape(B, L, D)
