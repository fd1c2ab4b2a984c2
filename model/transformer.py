"""The decoder-only Transformer: parameters as a Flax NNX module, use as pure functions of a plain
nested dict of arrays.
"""

from functools import lru_cache

import jax
import jax.numpy as jnp
from flax import nnx

from stepladder.model import layer, parametrization, rope
from stepladder.model.attention.attend import Visible
from stepladder.model.attention.mask import documents
from stepladder.model.execution import Execution
from stepladder.model.init import Init
from stepladder.model.norm import rms_norm
from stepladder.model.parallel.collectives import ALONE, Parallel
from stepladder.model.shape import Shape


class Transformer(nnx.Module):
    """Embedding, N layers, final norm, unembedding.

    Layer parameters are stacked on a leading N however the layers run.
    """

    def __init__(self, cfg: Shape, key: jax.Array):
        init = Init(cfg, key)
        self.cfg, self.logit_scale = cfg, parametrization.logits(cfg)
        self.embed = init("embed", (cfg.vocab_size, cfg.d_model))
        self.layers = layer.Layer(cfg, init)
        self.final_norm = init("final_norm", (cfg.d_model,))
        if not cfg.tied:
            self.unembed = init("unembed", (cfg.d_model, cfg.vocab_size), fan_in=cfg.d_model)

    def __call__(
        self,
        tokens_BL: jax.Array,
        *,
        execution: Execution = Execution(),
        shared: Parallel = ALONE,
        **limits,
    ) -> jax.Array:
        """Logits (B, L, V), float32. `limits` are the positions and mask of `stream`."""
        x_BLD = self.stream(tokens_BL, execution=execution, shared=shared, **limits)
        return self.read_out(x_BLD, shared)

    def stream(
        self,
        tokens_BL: jax.Array,
        *,
        execution: Execution = Execution(),
        positions_BL: jax.Array | None = None,
        mask_BLM: jax.Array | None = None,
        shared: Parallel = ALONE,
    ) -> jax.Array:
        """The residual stream after the last layer (B, L, D), in the compute dtype; the device's
        part of the sequence when it is shared.
        """
        positions_BL = (
            jnp.arange(tokens_BL.shape[1])[None] if positions_BL is None else positions_BL
        )
        x_BLD = self.embedded(tokens_BL, shared)
        angles_BLK = rope.angles(positions_BL, self.cfg.head_dim, self.cfg.rope_theta)
        visible = self.visible(tokens_BL, mask_BLM)
        return layer.run(
            self.layers,
            x_BLD,
            angles_BLK,
            visible,
            execution.attention,
            execution=execution,
            shared=shared,
        )

    def embedded(self, tokens_BL: jax.Array, shared: Parallel = ALONE) -> jax.Array:
        """The residual stream before the first layer, in the compute dtype."""
        return shared.rows(
            self.embed[...], shared.own(tokens_BL), jnp.dtype(self.cfg.compute_dtype)
        )

    def visible(self, tokens_BL: jax.Array, mask_BLM: jax.Array | None = None) -> Visible:
        """What a token may look at beside what came before it: its own document, where the model
        keeps to documents.
        """
        end = self.cfg.document_end
        return Visible(documents(tokens_BL, end) if end >= 0 else None, mask_BLM)

    def read_out(self, x_BLD: jax.Array, shared: Parallel = ALONE) -> jax.Array:
        """Logits (B, L, V), float32, of the residual stream after the last layer."""
        return capped(product(*self.factors(x_BLD, shared)), self.cfg.logit_cap)

    def factors(self, x_BLD: jax.Array, shared: Parallel = ALONE) -> tuple[jax.Array, jax.Array]:
        """(normed and scaled stream (B, L, D), unembedding (D, V)) whose product are the logits
        before the cap, in the compute dtype.
        """
        cfg, dtype = self.cfg, x_BLD.dtype
        x_BLD = rms_norm(x_BLD, self.final_norm[...], cfg.norm_eps)
        # D wide, where the logits are V wide
        x_BLD = x_BLD if self.logit_scale == 1 else self.logit_scale * x_BLD
        return x_BLD, shared.whole("embed", self.embed[...], dtype).T if cfg.tied else shared.whole(
            "unembed", self.unembed[...], dtype
        )


def product(x_BLD: jax.Array, unembed_DV: jax.Array) -> jax.Array:
    """Logits (B, L, V) before the cap, summed in float32 at least."""
    (B, L, D), wide = x_BLD.shape, jnp.promote_types(x_BLD.dtype, jnp.float32)
    return jnp.dot(x_BLD.reshape(B * L, D), unembed_DV, preferred_element_type=wide).reshape(
        B, L, -1
    )


def capped(logits_BLV: jax.Array, cap: float) -> jax.Array:
    """The logits, within (-cap, cap) by a tanh; 0 is off."""
    return cap * jnp.tanh(logits_BLV / cap) if cap else logits_BLV


@lru_cache(maxsize=64)
def graphdef(cfg: Shape) -> nnx.GraphDef:
    """The static half of the module; nothing is computed."""
    return nnx.split(nnx.eval_shape(lambda: Transformer(cfg, jax.random.key(0))))[0]


def init(cfg: Shape, key: jax.Array) -> dict:
    """Parameters: a nested dict of float32 arrays.

    Traceable in `key` (jit, vmap): a sweep over seeds compiles once.
    """
    return nnx.to_pure_dict(nnx.state(Transformer(cfg, key), nnx.Param))


def create(cfg: Shape, key: jax.Array) -> tuple[nnx.GraphDef, dict]:
    """(static half, parameters) of a new model. `nnx.merge` of the two is the module."""
    return graphdef(cfg), init(cfg, key)


def logits(
    cfg: Shape,
    params: dict,
    tokens_BL: jax.Array,
    *,
    execution: Execution = Execution(),
    **limits,
) -> jax.Array:
    """Next-token logits (B, L, V), float32. `limits` are the positions and mask of `factors`."""
    pair = factors(cfg, params, tokens_BL, execution=execution, **limits)
    return capped(product(*pair), cfg.logit_cap)


def factors(
    cfg: Shape,
    params: dict,
    tokens_BL: jax.Array,
    *,
    execution: Execution = Execution(),
    positions: jax.Array | None = None,
    mask: jax.Array | None = None,
    shared: Parallel = ALONE,
) -> tuple[jax.Array, jax.Array]:
    """(stream (B, L, D), unembedding (D, V)) whose product are the logits before the cap: for a
    loss that never holds all logits.

    positions: (B or 1, L) for RoPE, counted from 0 by default. mask: (B or 1, L, L), True where a
    query may look, on top of causality. shared: how the devices of a mesh share the work, when this
    runs on local pieces of the parameters (model/parallel/collectives.py).
    """
    model = nnx.merge(graphdef(cfg), params)
    x_BLD = model.stream(
        tokens_BL, execution=execution, positions_BL=positions, mask_BLM=mask, shared=shared
    )
    return model.factors(x_BLD, shared)
