"""What flows through the model, by name, for a coordinate check: the forward pass with its
intermediate values returned.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from stepladder.model import layer, transformer
from stepladder.model.arithmetic import in_its_arithmetic
from stepladder.model.attention import rope
from stepladder.model.shape import Shape

# Activation -> the role of the tensor that makes it (parametrization.ROLES).
MADE_BY = {
    "embed": "embed",  # the stream before the first layer
    "qkv": "hidden",  # queries, keys and values, before norm and rotation
    "up": "hidden",  # the MLP before its activation
    "attention": "output",  # of the branch, before the multiplier with which it joins the stream
    "mlp": "output",  # the same of the MLP
    "stream": "output",  # after the last layer, before the final norm
    "logits": "unembed",
}


@in_its_arithmetic
def activations(cfg: Shape, params: dict, tokens_BL: jax.Array) -> dict[str, jax.Array]:
    """Activations by the names of `MADE_BY`; those of layers are stacked on a leading N. `logits`
    are those of transformer.logits.
    """
    mask = transformer.mask_spec(cfg, tokens_BL)
    angles_BLK = rope.angles(jnp.arange(tokens_BL.shape[1])[None], cfg.head_dim, cfg.rope_theta)

    def body(x_BLD: jax.Array, weights: dict) -> tuple[jax.Array, dict]:
        found = {}
        one = nnx.merge(layer.graphdef(cfg), weights)
        return one(x_BLD, angles_BLK, mask, record=found.__setitem__), found

    embed_BLD = transformer.embed_tokens(cfg, params, tokens_BL)
    stream_BLD, by_layer = jax.lax.scan(body, embed_BLD, params["layers"])
    return {
        "embed": embed_BLD,
        **by_layer,
        "stream": stream_BLD,
        "logits": transformer.unembed(cfg, params, stream_BLD),
    }
