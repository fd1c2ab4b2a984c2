"""Which parameters a step changes: all, the last layer, or low-rank adapters beside them.

The optimizer acts on a tree that is `tuned`; the loss's gradient is one of the parameters, and
`pull` brings it to that tree. A kind is one row of TRAINABLE.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from stepladder.configs.core.errors import UserError, nearest
from stepladder.configs.core.spec import OptimizerSpec

Tree = Any  # of arrays

# Matrices with adapters, by their path below `layers` -> axes of their input, after that of the
# layers.
INPUT_AXES = {
    ("attention", "qkv"): 1,
    ("attention", "out"): 2,
    ("mlp", "up"): 1,
    ("mlp", "down"): 1,
}
SCALE = 2.0  # of adapters: alpha over rank in arXiv:2106.09685; our choice


@dataclass(frozen=True)
class Trainable:
    """A kind of training.

    Attributes:
        tuned: a state -> the tree that the optimizer changes.
        pull: (state, gradient of the parameters) -> gradient of the tree.
        keep: updates of the tree -> those that are made.
        merged: (state, the changed tree) -> entries of the next state: `params`, and the tree.
        own_roles: whether the tree is the parameters, whose rates a parametrisation scales.
    """

    tuned: Callable[[dict], Tree]
    pull: Callable[[dict, Tree], Tree]
    keep: Callable[[Tree], Tree]
    merged: Callable[[dict, Tree], dict]
    own_roles: bool


def check(optim: OptimizerSpec) -> None:
    """Raise UserError for an unknown kind, and for a rank that does not go with it."""
    if optim.trainable not in TRAINABLE:
        known = nearest(optim.trainable, TRAINABLE)
        raise UserError(f"optimizer.trainable={optim.trainable!r}: unknown; {known}")
    if (optim.rank >= 1) != (optim.trainable == "lora"):
        raise UserError(
            f"optimizer.rank={optim.rank}: with optimizer.trainable={optim.trainable!r}; use a "
            "rank of 1 or more for lora, and 0 for the others"
        )


def is_plain(optim: OptimizerSpec) -> bool:
    """Whether a state holds nothing beside parameters, moments and counts."""
    return optim.trainable != "lora" and not optim.to_start


def extended(optim: OptimizerSpec, state: dict, key: jax.Array) -> dict:
    """A plain state with what its kind of training needs beside it; its parameters are where the
    run starts.
    """
    if is_plain(optim):
        return state
    start = jax.tree.map(jnp.copy, state["params"])
    lora = {"lora": adapters(start, optim.rank, key)} if optim.trainable == "lora" else {}
    return {**state, "start": start, **lora}


def adapters(params: dict, rank: int, key: jax.Array) -> dict:
    """Two factors of every matrix of INPUT_AXES, whose product is 0 (arXiv:2106.09685).

    a: (layers, inputs, rank), normal with variance 1 / inputs; b: (layers, rank, outputs), zeros.
    """
    made: dict[str, dict[str, dict[str, jax.Array]]] = {}
    for (block, name), axes in INPUT_AXES.items():
        layers, inputs, outputs = _as_matrices(params["layers"][block][name], axes)
        drawn = jax.random.fold_in(key, zlib.crc32(f"{block}.{name}".encode()))
        a_NIR = jax.random.normal(drawn, (layers, inputs, rank), jnp.float32) / inputs**0.5
        b_NRO = jnp.zeros((layers, rank, outputs), jnp.float32)
        made.setdefault(block, {})[name] = {"a": a_NIR, "b": b_NRO}
    return made


def with_adapters(start: dict, lora: dict) -> dict:
    """The parameters `start` with the adapters' products added."""
    layers = dict(start["layers"])
    for block, name in INPUT_AXES:
        weight, ab = start["layers"][block][name], lora[block][name]
        product = jnp.einsum("nir,nro->nio", ab["a"], ab["b"])
        changed = weight + SCALE * product.reshape(weight.shape)
        layers[block] = {**layers[block], name: changed}
    return {**start, "layers": layers}


def _as_matrices(weight: jax.Array, axes: int) -> tuple[int, int, int]:
    """(layers, inputs, outputs) of the stacked matrices of a role."""
    layers, *rest = weight.shape
    inputs, outputs = 1, 1
    for i, size in enumerate(rest):
        inputs, outputs = (inputs * size, outputs) if i < axes else (inputs, outputs * size)
    return layers, inputs, outputs


def _last_only(tree: Tree) -> Tree:
    """Zero but in the last layer, the final norm and an unembedding of its own."""

    def kept(path: tuple, x: jax.Array) -> jax.Array:
        top = path[0].key
        if top == "layers":
            last = jnp.arange(x.shape[0]) == x.shape[0] - 1
            return jnp.where(last.reshape(-1, *(1,) * (x.ndim - 1)), x, 0.0)
        return x if top in ("final_norm", "unembed") else jnp.zeros_like(x)

    return jax.tree_util.tree_map_with_path(kept, tree)


def _pull_to_adapters(state: dict, gradient: Tree) -> Tree:
    _, pull = jax.vjp(lambda lora: with_adapters(state["start"], lora), state["lora"])
    return pull(gradient)[0]


TRAINABLE: dict[str, Trainable] = {
    "all": Trainable(
        tuned=lambda state: state["params"],
        pull=lambda _, gradient: gradient,
        keep=lambda updates: updates,
        merged=lambda _, params: {"params": params},
        own_roles=True,
    ),
    "last": Trainable(
        tuned=lambda state: state["params"],
        pull=lambda _, gradient: _last_only(gradient),
        keep=_last_only,
        merged=lambda _, params: {"params": params},
        own_roles=True,
    ),
    "lora": Trainable(
        tuned=lambda state: state["lora"],
        pull=_pull_to_adapters,
        keep=lambda updates: updates,
        merged=lambda state, lora: {"params": with_adapters(state["start"], lora), "lora": lora},
        own_roles=False,
    ),
}
