"""How one step is shared by devices: which dimension of which array lies on which mesh axis, and
the collectives between them.

A step runs as one program on local pieces (`jax.shard_map`), so every collective in it is written
here:

- data: each device has its rows of the batch and all of the state;
- fsdp: rows of the batch too, and a part of the state. A layer's weights are gathered when the
  layer runs, once more in its backward pass, and their gradients leave it summed and scattered
  (ZeRO-3, arXiv:1910.02054; arXiv:2304.11277);
- tensor: heads and the MLP's hidden units are shared (arXiv:1909.08053), and between blocks the
  sequence is (arXiv:2205.05198), so that every device holds distinct tokens of the residual stream
  and has its own part of the loss.

The gradient of a tensor is then the sum over all devices of their parts: over fsdp and tensor where
the tensor is cut, its piece.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.layout import Layout, with_layout_constraint
from jax.sharding import Mesh

from stepladder.model.parallel.device import JaxDevice, place_in_slice
from stepladder.model.parallel.rules import PARAMETERS, RULES, name_of

GATHERED = "gathered"  # name of what remat must not save: weights in full size


class Shard(NamedTuple):
    """How a weight is cut: the dimension that is in pieces, the mesh axes along which they lie, and
    `Parallel.rings` where fsdp is one of them.
    """

    dim: int
    axes: tuple[str, ...]
    rings: tuple[int, ...] = ()


@dataclass(frozen=True)
class Parallel:
    """What a device does with the others while it computes its part; by default nothing.

    fsdp, tensor: sizes of these axes of the mesh. rings: the axis fsdp as the sides of a box of a
    TPU's torus, outermost first: libtpu turns a reduce-scatter over more than one side into an
    all-reduce of twice the bytes, so it is made side by side.
    """

    fsdp: int = 1
    tensor: int = 1
    rings: tuple[int, ...] = ()

    @classmethod
    def on(cls, mesh: Mesh) -> "Parallel":
        """What the devices of a mesh do."""
        return cls(mesh.shape["fsdp"], mesh.shape["tensor"], _rings(list(mesh.devices[0, 0, :, 0])))

    def shard_of(self, name: str) -> Shard | None:
        """How weight `name` is cut, and so gathered before use; None when it is used as it lies."""
        for dim, axis in enumerate(PARAMETERS[name]):
            if axis in ("embed", "table"):
                rule = RULES[axis]
                axes = (rule,) if isinstance(rule, str) else rule
                found = tuple(a for a in axes if getattr(self, a) > 1)
                return Shard(dim, found, self.rings if "fsdp" in found else ()) if found else None
        return None

    def gather_weight(self, name: str, weight: jax.Array, dtype: jnp.dtype) -> jax.Array:
        """Parameter `name` in `dtype`, gathered from its pieces; of a stack of layers, one
        layer's.
        """
        shard = self.shard_of(name)
        if shard is None:
            return weight.astype(dtype)
        shard = shard._replace(dim=shard.dim - len(PARAMETERS[name]) + weight.ndim)
        return checkpoint_name(_gather(weight, dtype, shard), GATHERED)

    def gather_layer(self, weights: Any, dtype: jnp.dtype) -> Any:
        """One layer's weights: those that are cut are gathered, the others stay as they are."""

        def one(path: tuple, weight: jax.Array) -> jax.Array:
            name = name_of(path)
            return self.gather_weight(name, weight, dtype) if self.shard_of(name) else weight

        return jax.tree_util.tree_map_with_path(one, weights)

    def local_sequence(self, x_BL: jax.Array) -> jax.Array:
        """The device's part of a sequence that all devices of its tensor group hold whole."""
        if self.tensor == 1:
            return x_BL
        size = x_BL.shape[1] // self.tensor
        return jax.lax.dynamic_slice_in_dim(x_BL, jax.lax.axis_index("tensor") * size, size, axis=1)

    def all_gather_sequence(self, x_BLD: jax.Array) -> jax.Array:
        """Before a block: the whole sequence, from the parts of the tensor group."""
        if self.tensor == 1:
            return x_BLD
        return jax.lax.all_gather(x_BLD, "tensor", axis=1, tiled=True)

    def reduce_scatter_sequence(self, x_BLD: jax.Array) -> jax.Array:
        """After a block: the device's part of the sequence, summed over the tensor group's heads or
        hidden units.
        """
        if self.tensor == 1:
            return x_BLD
        return jax.lax.psum_scatter(x_BLD, "tensor", scatter_dimension=1, tiled=True)


SINGLE_DEVICE = Parallel()


def on_devices(function: Callable, mesh: Mesh, in_partitions: Any, out_partitions: Any) -> Callable:
    """`function` of local pieces, on every device of the mesh.

    check_vma would turn the gradient of what is whole on every device into one all-reduce a tensor
    and a micro-batch.
    """
    return jax.shard_map(
        function, mesh=mesh, in_specs=in_partitions, out_specs=out_partitions, check_vma=False
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gather(weight: jax.Array, dtype: jnp.dtype, shard: Shard) -> jax.Array:
    """Gathered in the compute dtype; the gradients meet in float32 at least."""
    return jax.lax.all_gather(weight.astype(dtype), shard.axes, axis=shard.dim, tiled=True)


def _gather_forward(weight: jax.Array, dtype: jnp.dtype, shard: Shard) -> tuple:
    return _gather(weight, dtype, shard), jnp.zeros((), weight.dtype)


def _gather_backward(dtype: jnp.dtype, shard: Shard, like: jax.Array, slope: jax.Array) -> tuple:
    return (scatter(slope.astype(like.dtype), shard),)


_gather.defvjp(_gather_forward, _gather_backward)


def scatter(gradient: jax.Array, shard: Shard) -> jax.Array:
    """The device's piece of the sum of all devices' gradients of a whole weight: along the rings of
    fsdp one after another, the outermost first.
    """
    for axis in shard.axes:
        rings = _groups(shard.rings) if axis == "fsdp" and len(shard.rings) > 1 else (None,)
        for turn, groups in enumerate(rings):
            along = functools.partial(
                jax.lax.psum_scatter, axis_name=axis, axis_index_groups=groups, tiled=True
            )
            gradient = (
                _by_rows(along, gradient, shard.dim)
                if turn
                else along(gradient, scatter_dimension=shard.dim)
            )
    return gradient


def _by_rows(along: Callable, gradient: jax.Array, dim: int) -> jax.Array:
    """`along` of dimension `dim`, stored major. Stored minor, in pieces that do not fill the 128
    lanes of a TPU, libtpu makes an all-reduce of it too. This costs a copy: for later rings, of
    what the first has left.
    """
    moved = jnp.moveaxis(gradient, dim, 0)
    rows = with_layout_constraint(moved.reshape(moved.shape[0], -1), Layout((0, 1)))
    return jnp.moveaxis(along(rows, scatter_dimension=0).reshape(-1, *moved.shape[1:]), 0, dim)


def _groups(rings: tuple[int, ...]) -> list[list[list[int]]]:
    """For every side of a box of devices, numbered row by row, the lines of devices along it."""
    found, every = [], range(math.prod(rings))
    for side, length in enumerate(rings):
        stride = math.prod(rings[side + 1 :])
        found.append(
            [[i + k * stride for k in range(length)] for i in every if i // stride % length == 0]
        )
    return found


def _rings(line: Sequence[JaxDevice]) -> tuple[int, ...]:
    """The sides above 1 of the box that a line of TPU devices fills row by row; empty when they do
    not, or are no TPU devices.
    """
    places = [place_in_slice(device) for device in line]
    sides = [range(min(along), max(along) + 1) for along in zip(*places)]
    return (
        tuple(len(side) for side in sides if len(side) > 1)
        if places == list(itertools.product(*sides))
        else ()
    )
