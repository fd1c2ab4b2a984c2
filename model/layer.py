"""One layer, and how the stack of them runs: scanned or unrolled, with or without
rematerialisation.
"""

from collections.abc import Callable
from functools import lru_cache

import jax
from flax import nnx

from stepladder.model import parametrization
from stepladder.model.attention import rope
from stepladder.model.attention.attend import Attention
from stepladder.model.attention.mask import MaskSpec
from stepladder.model.execution import Execution
from stepladder.model.init import Init
from stepladder.model.mlp import MLP
from stepladder.model.norm import rms_norm
from stepladder.model.parallel import collectives
from stepladder.model.parallel.collectives import SINGLE_DEVICE, Parallel
from stepladder.model.shape import Shape

Record = Callable[[str, jax.Array], None]  # is given activations by name


def no_record(name: str, value: jax.Array) -> None:
    """Keeps nothing."""


def _all_but_gathered(primitive, *_, name: str = "", call_jaxpr=None, **__) -> bool:
    """Policy: what autodiff asks for is saved, but weights that were gathered from other devices
    (Parallel.gather_weight) are gathered again.
    """
    # jax.checkpoint_policies.save_anything_except_these_names(GATHERED) is not enough: it saves the
    # result of the all-gather before it is given its name, and what reshapes the named one (of four
    # gathers in a layer's backward pass none is left).
    gathers = call_jaxpr is not None and any(
        eqn.primitive.name == "all_gather" for eqn in call_jaxpr.eqns
    )
    return (
        not gathers
        and name != collectives.GATHERED
        and primitive.name not in ("reshape", "transpose", "squeeze")
    )


# What the backward pass finds saved; everything else of a layer is computed again.
REMAT: dict[str, Callable] = {
    "none": _all_but_gathered,
    # keep projections; recompute attention and activations
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,  # keep the layer's input only
}


class Layer(nnx.Module):
    """Pre-norm residual layer.

    Parameters carry a leading N; `__call__` runs on one layer's slice of them.
    """

    def __init__(self, cfg: Shape, init: Init):
        self.eps, self.branch_scale = cfg.norm_eps, parametrization.residual(cfg)
        self.attention_norm = init("attention_norm", (cfg.n_layers, cfg.d_model))
        self.attention = Attention(cfg, init)
        self.mlp_norm = init("mlp_norm", (cfg.n_layers, cfg.d_model))
        self.mlp = MLP(cfg, init)

    def __call__(
        self,
        x_BLD: jax.Array,
        angles_BLK: rope.Angles,
        mask: MaskSpec,
        implementation: str = "xla",
        parallel: Parallel = SINGLE_DEVICE,
        record: Record = no_record,
    ) -> jax.Array:
        """The residual stream after the layer; `record` is given what flows inside of it."""
        normed_BLD = rms_norm(x_BLD, self.attention_norm[...], self.eps)
        branch_BLD = parallel.reduce_scatter_sequence(
            self.attention(
                parallel.all_gather_sequence(normed_BLD), angles_BLK, mask, implementation, record
            )
        )
        record("attention", branch_BLD)
        x_BLD = x_BLD + self.scaled(branch_BLD)
        normed_BLD = rms_norm(x_BLD, self.mlp_norm[...], self.eps)
        branch_BLD = parallel.reduce_scatter_sequence(
            self.mlp(parallel.all_gather_sequence(normed_BLD), record)
        )
        record("mlp", branch_BLD)
        return x_BLD + self.scaled(branch_BLD)

    def scaled(self, branch_BLD: jax.Array) -> jax.Array:
        """What a branch adds to the residual stream: its output times the parametrisation's
        multiplier.
        """
        return branch_BLD if self.branch_scale == 1 else self.branch_scale * branch_BLD


@lru_cache(maxsize=64)
def graphdef(cfg: Shape) -> nnx.GraphDef:
    """The static half of `Layer`; nothing is computed."""
    return nnx.graphdef(nnx.eval_shape(lambda: Layer(cfg, Init(cfg, jax.random.key(0)))))


def _scan(body: Callable, x_BLD: jax.Array, stacked: dict) -> jax.Array:
    return jax.lax.scan(lambda x_BLD, layer: (body(x_BLD, layer), None), x_BLD, stacked)[0]


def _unroll(body: Callable, x_BLD: jax.Array, stacked: dict) -> jax.Array:
    leaves, tree = jax.tree.flatten(stacked)
    # lax.split, not indexing: its transpose is one concatenation, where indexing sums N zero-padded
    # gradients.
    pieces = [jax.lax.split(leaf, (1,) * leaf.shape[0], axis=0) for leaf in leaves]
    for layer in zip(*pieces):
        x_BLD = body(
            x_BLD, jax.tree.unflatten(tree, [leaf.reshape(leaf.shape[1:]) for leaf in layer])
        )
    return x_BLD


RUNNERS = {"scan": _scan, "unroll": _unroll}


def run(
    cfg: Shape,
    stacked: dict,
    x_BLD: jax.Array,
    angles_BLK: rope.Angles,
    mask: MaskSpec,
    *,
    execution: Execution,
    parallel: Parallel,
) -> jax.Array:
    """The residual stream after all layers, whose parameters `stacked` have a leading N."""

    def body(x_BLD: jax.Array, weights: dict) -> jax.Array:
        layer = nnx.merge(graphdef(cfg), parallel.gather_layer(weights, x_BLD.dtype))
        return layer(x_BLD, angles_BLK, mask, execution.attention, parallel)

    if execution.remat != "none" or parallel.fsdp > 1:
        policy, prevent_cse = REMAT[execution.remat], execution.layers != "scan"
        body = jax.checkpoint(body, policy=policy, prevent_cse=prevent_cse)
    return RUNNERS[execution.layers](body, x_BLD, stacked)
