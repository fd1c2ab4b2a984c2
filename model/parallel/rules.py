"""Which dimension of which array lies on which mesh axis: logical axes and their rules."""

from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import PartitionSpec

AXES = ("run", "data", "fsdp", "tensor")

# Logical axis -> mesh axes; what is not named here is whole on every device.
RULES: Mapping[str, str | tuple[str, ...]] = {
    "run": "run",  # members of a pack
    "batch": ("data", "fsdp"),
    "heads": "tensor",  # key/value heads with their query heads
    "mlp": "tensor",
    "embed": "fsdp",  # the side of a layer's matrices that meets the residual stream
    # the same side of the embedding: all of its rows are needed by every token
    "table": ("fsdp", "tensor"),
}

# Parameter, by its path below `layers` -> logical axes.
PARAMETERS: Mapping[str, tuple[str | None, ...]] = {
    "embed": (None, "table"),
    "attention_norm": (None, None),
    "attention.qkv": (None, "embed", "heads", None, None),
    "attention.q_norm": (None, None),
    "attention.k_norm": (None, None),
    "attention.out": (None, "heads", None, "embed"),
    "mlp_norm": (None, None),
    "mlp.up": (None, "embed", None, "mlp"),
    "mlp.down": (None, "mlp", "embed"),
    "final_norm": (None,),
    "unembed": ("table", None),
}
TOKENS_BT = ("batch", None)  # logical axes of a batch


def name_of(path: tuple) -> str:
    """The key of `PARAMETERS` that a leaf at `path` belongs to: of parameters, of an optimizer's
    moments, of a layer; else its last key.
    """
    keys = [part.key for part in path if isinstance(part, jax.tree_util.DictKey)]
    return next(
        (name for name in (".".join(keys[-2:]), *keys[-1:]) if name in PARAMETERS),
        keys[-1] if keys else "",
    )


def partition(axes: tuple[str | None, ...]) -> PartitionSpec:
    """The partition of an array with these logical axes."""
    return PartitionSpec(*(RULES.get(axis) if axis else None for axis in axes))


def partition_of(path: tuple, leaf: Any = None) -> PartitionSpec:
    """The partition of a leaf of a state or of parameters, by its path: that of the parameter it
    belongs to, else whole.
    """
    return partition(PARAMETERS.get(name_of(path), ()))


def partitions(tree: Any) -> Any:
    """`partition_of` every leaf: of parameters, of an optimizer's state, of a training state."""
    return jax.tree_util.tree_map_with_path(partition_of, tree)
