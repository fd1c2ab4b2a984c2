"""What flows through the model, by name, for a coordinate check: the forward pass with its
intermediate values returned.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from stepladder.model import rope, transformer
from stepladder.model.norm import rms_norm
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


def activations(cfg: Shape, params: dict, tokens_BL: jax.Array) -> dict[str, jax.Array]:
    """Activations by the names of `MADE_BY`; those of layers are stacked on a leading N. `logits`
    are those of transformer.logits.
    """
    model = nnx.merge(transformer.graphdef(cfg), params)
    graphdef, stacked = nnx.split(model.layers)
    visible = model.visible(tokens_BL)
    angles_BLK = rope.angles(jnp.arange(tokens_BL.shape[1])[None], cfg.head_dim, cfg.rope_theta)

    def body(x_BLD: jax.Array, layer_state: nnx.State) -> tuple[jax.Array, dict]:
        layer = nnx.merge(graphdef, layer_state)
        normed_BLD = rms_norm(x_BLD, layer.attention_norm[...], cfg.norm_eps)
        found = {
            "qkv": _projected(normed_BLD, layer.attention.qkv[...]),
            "attention": layer.attention(normed_BLD, angles_BLK, visible, "xla"),
        }
        x_BLD = x_BLD + layer.scaled(found["attention"])
        normed_BLD = rms_norm(x_BLD, layer.mlp_norm[...], cfg.norm_eps)
        found |= {"up": _projected(normed_BLD, layer.mlp.up[...]), "mlp": layer.mlp(normed_BLD)}
        return x_BLD + layer.scaled(found["mlp"]), found

    embed_BLD = model.embedded(tokens_BL)
    stream_BLD, by_layer = jax.lax.scan(body, embed_BLD, stacked)
    return {
        "embed": embed_BLD,
        **by_layer,
        "stream": stream_BLD,
        "logits": model.read_out(stream_BLD),
    }


def _projected(x_BLD: jax.Array, weight_Dx: jax.Array) -> jax.Array:
    return x_BLD @ weight_Dx.astype(x_BLD.dtype).reshape(x_BLD.shape[-1], -1)
