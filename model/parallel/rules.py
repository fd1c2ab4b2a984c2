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
    "length": "tensor",  # positions of the residual stream
    "heads": "tensor",  # key/value heads with their query heads
    "mlp": "tensor",
    "embed": "fsdp",  # the side of a layer's matrices that meets the residual stream
    # the same side of the embedding: all of its rows are needed by every token
    "table": ("fsdp", "tensor"),
}

# Parameter (by its path below `layers`) and activation -> logical axes.
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
ACTIVATIONS: Mapping[str, tuple[str | None, ...]] = {
    "tokens_BT": ("batch", None),
    "x_BLD": ("batch", "length", None),  # between blocks, and what the logits are made of
    "heads_BLHK": ("batch", None, "heads", None),
    "hidden_BLF": ("batch", None, "mlp"),
}


def name_of(path: tuple) -> str:
    """The key of `PARAMETERS` that a leaf at `path` belongs to: of parameters, of an optimizer's
    moments, of a layer; else its last key.
    """
    keys = [part.key for part in path if isinstance(part, jax.tree_util.DictKey)]
    return next(
        (name for name in (".".join(keys[-2:]), *keys[-1:]) if name in PARAMETERS),
        keys[-1] if keys else "",
    )


def spec(axes: tuple[str | None, ...]) -> PartitionSpec:
    """The partition of an array with these logical axes."""
    return PartitionSpec(*(RULES.get(axis) if axis else None for axis in axes))


def spec_of(path: tuple, leaf: Any = None) -> PartitionSpec:
    """The partition of a leaf of a state or of parameters, by its path: that of the parameter it
    belongs to, else whole.
    """
    return spec(PARAMETERS.get(name_of(path), ()))


def specs(tree: Any) -> Any:
    """`spec_of` every leaf: of parameters, of an optimizer's state, of a whole training state."""
    return jax.tree_util.tree_map_with_path(spec_of, tree)
