"""One layer, and how the stack of them runs: scanned or unrolled, with or without
rematerialisation.
"""

from collections.abc import Callable

import jax
from flax import nnx

from stepladder.model import parametrization, rope
from stepladder.model.attention.attend import Attention, Visible
from stepladder.model.execution import Execution
from stepladder.model.init import Init
from stepladder.model.mlp import MLP
from stepladder.model.norm import rms_norm
from stepladder.model.parallel import collectives
from stepladder.model.shape import Shape


def _all_but_gathered(primitive, *_, name: str = "", call_jaxpr=None, **__) -> bool:
    """Policy: what autodiff asks for is saved, but weights that were gathered from other devices
    (parallel.whole) are gathered again.

    Reshaping costs nothing: were its result saved, it could be that of a weight.
    """
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
        self.eps, self.branch = cfg.norm_eps, parametrization.residual(cfg)
        self.attention_norm = init("attention_norm", (cfg.n_layers, cfg.d_model))
        self.attention = Attention(cfg, init)
        self.mlp_norm = init("mlp_norm", (cfg.n_layers, cfg.d_model))
        self.mlp = MLP(cfg, init)

    def __call__(
        self,
        x_BLD: jax.Array,
        angles_BLK: rope.Angles,
        visible: Visible,
        implementation: str,
        shared: collectives.Parallel,
    ) -> jax.Array:
        normed_BLD = shared.enter(rms_norm(x_BLD, self.attention_norm[...], self.eps))
        x_BLD = x_BLD + self.scaled(
            shared.leave(self.attention(normed_BLD, angles_BLK, visible, implementation))
        )
        return x_BLD + self.scaled(
            shared.leave(self.mlp(shared.enter(rms_norm(x_BLD, self.mlp_norm[...], self.eps))))
        )

    def scaled(self, branch_BLD: jax.Array) -> jax.Array:
        """What a branch adds to the residual stream: its output times the parametrisation's
        multiplier.
        """
        return branch_BLD if self.branch == 1 else self.branch * branch_BLD


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
    layers: Layer, x_BLD: jax.Array, *args, execution: Execution, shared: collectives.Parallel
) -> jax.Array:
    """The residual stream after all layers; `args` are those of `Layer` after the stream."""
    graphdef, stacked = nnx.split(layers)

    def body(x_BLD: jax.Array, layer: nnx.State) -> jax.Array:
        return nnx.merge(graphdef, shared.layer(layer, x_BLD.dtype))(x_BLD, *args, shared)

    if execution.remat != "none" or shared.fsdp > 1:
        policy, prevent_cse = REMAT[execution.remat], execution.layers != "scan"
        body = jax.checkpoint(body, policy=policy, prevent_cse=prevent_cse)
    return RUNNERS[execution.layers](body, x_BLD, stacked)
