"""The decoder-only Transformer: its parameters as a Flax NNX module, and what is computed with them
as pure functions of the parameters, a nested dict of arrays.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from stepladder.model import layer, parametrization
from stepladder.model.arithmetic import compute_dtype, in_its_arithmetic
from stepladder.model.attention import rope
from stepladder.model.attention.mask import MaskSpec, document_numbers
from stepladder.model.execution import Execution
from stepladder.model.init import Init
from stepladder.model.norm import rms_norm
from stepladder.model.parallel.collectives import SINGLE_DEVICE, Parallel
from stepladder.model.parallel.embedding import embed_lookup
from stepladder.model.shape import Shape


class Transformer(nnx.Module):
    """Parameters of the embedding, N layers, the final norm and the unembedding.

    Those of the layers are stacked on a leading N, however the layers run. `makes` says what a
    parameter is made of: its initial values, or what is asked about them.
    """

    def __init__(self, cfg: Shape, key: jax.Array, makes: type[Init] = Init):
        init = makes(cfg, key)
        self.embed = init("embed", (cfg.vocab_size, cfg.d_model))
        self.layers = layer.Layer(cfg, init)
        self.final_norm = init("final_norm", (cfg.d_model,))
        if not cfg.tied:
            self.unembed = init("unembed", (cfg.d_model, cfg.vocab_size), fan_in=cfg.d_model)


def init(cfg: Shape, key: jax.Array) -> dict:
    """Parameters of a new model: a nested dict of float32 arrays.

    Traceable in `key` (jit, vmap): a sweep over seeds compiles once.
    """
    return nnx.to_pure_dict(nnx.state(Transformer(cfg, key), nnx.Param))


@in_its_arithmetic
def logits(
    cfg: Shape,
    params: dict,
    tokens_BL: jax.Array,
    *,
    execution: Execution = Execution(),
    positions_BL: jax.Array | None = None,
    mask_BLM: jax.Array | None = None,
) -> jax.Array:
    """Next-token logits (B, L, V), float32; arguments as in `residual_stream`."""
    x_BLD = residual_stream(
        cfg,
        params,
        tokens_BL,
        execution=execution,
        positions_BL=positions_BL,
        mask_BLM=mask_BLM,
    )
    return unembed(cfg, params, x_BLD)


def residual_stream(
    cfg: Shape,
    params: dict,
    tokens_BL: jax.Array,
    *,
    execution: Execution = Execution(),
    positions_BL: jax.Array | None = None,
    mask_BLM: jax.Array | None = None,
    parallel: Parallel = SINGLE_DEVICE,
) -> jax.Array:
    """The residual stream after the last layer (B, L, D), in the compute dtype.

    Args:
        cfg: shape of the model.
        params: its parameters; a device's pieces of them, with `parallel`.
        tokens_BL: token ids.
        execution: how the layers run; its mesh and micro_batch are not read here.
        positions_BL: for RoPE (B or 1, L); counted from 0 when None.
        mask_BLM: True where a query may look (B or 1, L, L), on top of causality, the window and
            documents.
        parallel: how the devices of a mesh share the work (model/parallel/collectives.py); the
            result is then the device's part of the sequence.
    """
    if positions_BL is None:
        positions_BL = jnp.arange(tokens_BL.shape[1])[None]
    x_BLD = embed_tokens(cfg, params, tokens_BL, execution, parallel)
    angles_BLK = rope.angles(positions_BL, cfg.head_dim, cfg.rope_theta)
    mask = mask_spec(cfg, tokens_BL, mask_BLM)
    return layer.run(
        cfg, params["layers"], x_BLD, angles_BLK, mask, execution=execution, parallel=parallel
    )


def embed_tokens(
    cfg: Shape,
    params: dict,
    tokens_BL: jax.Array,
    execution: Execution = Execution(),
    parallel: Parallel = SINGLE_DEVICE,
) -> jax.Array:
    """The residual stream before the first layer, in the compute dtype."""
    own_BL, dtype = parallel.local_sequence(tokens_BL), compute_dtype(cfg)
    return embed_lookup(parallel, params["embed"], own_BL, dtype, execution.embedding)


def mask_spec(cfg: Shape, tokens_BL: jax.Array, mask_BLM: jax.Array | None = None) -> MaskSpec:
    """What a query of this model may look at: what came before it, in the model's window, and of
    its own document where the model keeps to documents.
    """
    documents_BL = document_numbers(tokens_BL, cfg.document_end) if cfg.document_end >= 0 else None
    return MaskSpec(True, cfg.window, documents_BL, mask_BLM)


def unembed(cfg: Shape, params: dict, x_BLD: jax.Array) -> jax.Array:
    """Logits (B, L, V), float32, of the residual stream after the last layer."""
    return soft_cap(logits_of(*final_hidden_and_unembedding(cfg, params, x_BLD)), cfg.logit_cap)


def final_hidden_and_unembedding(
    cfg: Shape, params: dict, x_BLD: jax.Array, parallel: Parallel = SINGLE_DEVICE
) -> tuple[jax.Array, jax.Array]:
    """(normed and scaled residual stream (B, L, D), unembedding (D, V)) whose product are the
    logits before the cap, in the compute dtype: for a loss that never holds all logits.
    """
    dtype, scale = x_BLD.dtype, parametrization.logits(cfg)
    x_BLD = rms_norm(x_BLD, params["final_norm"], cfg.norm_eps)
    if scale != 1:  # here, D wide, and not on the logits, which are V wide
        x_BLD = scale * x_BLD
    if cfg.tied:
        return x_BLD, parallel.gather_weight("embed", params["embed"], dtype).T
    return x_BLD, parallel.gather_weight("unembed", params["unembed"], dtype)


def logits_of(x_BLD: jax.Array, unembed_DV: jax.Array) -> jax.Array:
    """Logits (B, L, V) before the cap, summed in float32 at least."""
    (B, L, D), wide = x_BLD.shape, jnp.promote_types(x_BLD.dtype, jnp.float32)
    logits_YV = jnp.dot(x_BLD.reshape(B * L, D), unembed_DV, preferred_element_type=wide)
    return logits_YV.reshape(B, L, -1)


def soft_cap(logits_BLV: jax.Array, cap: float) -> jax.Array:
    """The logits, within (-cap, cap) by a tanh; 0 is off."""
    return cap * jnp.tanh(logits_BLV / cap) if cap else logits_BLV
