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

from stepladder.model.parallel.rules import PARAMETERS, RULES, name_of

GATHERED = "gathered"  # name of what remat must not save: weights in full size


class Cut(NamedTuple):
    """A weight's dimension that is in pieces, the mesh axes it is cut along, and `Parallel.rings`
    where fsdp is one.
    """

    dim: int
    axes: tuple[str, ...]
    rings: tuple[int, ...] = ()


@dataclass(frozen=True)
class Parallel:
    """What a device does with the others while it computes its part; by default nothing.

    fsdp, tensor: sizes of the mesh's axes. rings: the axis fsdp as the sides of a box of a TPU's
    torus, outermost first: libtpu turns a reduce-scatter over more than one side into an all-reduce
    of twice the bytes, so it is made side by side.
    """

    fsdp: int = 1
    tensor: int = 1
    rings: tuple[int, ...] = ()

    @classmethod
    def on(cls, mesh: Mesh) -> "Parallel":
        return cls(mesh.shape["fsdp"], mesh.shape["tensor"], _rings(mesh.devices[0, 0, :, 0]))

    def cut(self, name: str) -> "Cut | None":
        """How a weight is gathered before use; None when it is used as it lies."""
        for dim, axis in enumerate(PARAMETERS[name]):
            if axis in ("embed", "table"):
                axes = (RULES[axis],) if isinstance(RULES[axis], str) else RULES[axis]
                found = tuple(a for a in axes if getattr(self, a) > 1)
                return Cut(dim, found, self.rings if "fsdp" in found else ()) if found else None
        return None

    def whole(self, name: str, weight: jax.Array, dtype: jnp.dtype) -> jax.Array:
        """Parameter `name` in `dtype`, gathered from its pieces; of a stack of layers, one
        layer's.
        """
        cut = self.cut(name)
        if cut is None:
            return weight.astype(dtype)
        cut = cut._replace(dim=cut.dim - len(PARAMETERS[name]) + weight.ndim)
        return checkpoint_name(_gather(weight, dtype, cut), GATHERED)

    def layer(self, weights: Any, dtype: jnp.dtype) -> Any:
        """One layer's weights with all cut ones gathered; the others as they are."""

        def one(path: tuple, weight: jax.Array) -> jax.Array:
            return self.whole(name_of(path), weight, dtype) if self.cut(name_of(path)) else weight

        return jax.tree_util.tree_map_with_path(one, weights)

    def rows(self, table_VD: jax.Array, tokens_BL: jax.Array, dtype: jnp.dtype) -> jax.Array:
        """Rows of the embedding for the device's own tokens.

        The gradient is summed in float32: a frequent token has thousands of terms.
        """
        cut = self.cut("embed")
        if cut is None:
            return table_VD[tokens_BL].astype(dtype)
        return _rows(table_VD, tokens_BL, dtype, cut)

    def own(self, x_BL: jax.Array) -> jax.Array:
        """The device's part of a sequence that all devices of its tensor group hold whole."""
        if self.tensor == 1:
            return x_BL
        size = x_BL.shape[1] // self.tensor
        return jax.lax.dynamic_slice_in_dim(x_BL, jax.lax.axis_index("tensor") * size, size, axis=1)

    def enter(self, x_BLD: jax.Array) -> jax.Array:
        """Before a block: the whole sequence, from the parts of the tensor group."""
        return (
            x_BLD if self.tensor == 1 else jax.lax.all_gather(x_BLD, "tensor", axis=1, tiled=True)
        )

    def leave(self, x_BLD: jax.Array) -> jax.Array:
        """After a block: the device's part of the sequence, summed over the tensor group's heads or
        hidden units.
        """
        return (
            x_BLD
            if self.tensor == 1
            else jax.lax.psum_scatter(x_BLD, "tensor", scatter_dimension=1, tiled=True)
        )


ALONE = Parallel()


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gather(weight: jax.Array, dtype: jnp.dtype, cut: Cut) -> jax.Array:
    """Gathered in the compute dtype; the gradients meet in float32 at least."""
    return jax.lax.all_gather(weight.astype(dtype), cut.axes, axis=cut.dim, tiled=True)


def _scatter(gradient: jax.Array, cut: Cut) -> jax.Array:
    """The device's piece of the sum over the cut's axes: along the rings of fsdp one after another,
    the outermost first.
    """
    for axis in cut.axes:
        rings = _groups(cut.rings) if axis == "fsdp" and len(cut.rings) > 1 else (None,)
        for turn, groups in enumerate(rings):
            scatter = functools.partial(
                jax.lax.psum_scatter, axis_name=axis, axis_index_groups=groups, tiled=True
            )
            gradient = (
                _by_rows(scatter, gradient, cut.dim)
                if turn
                else scatter(gradient, scatter_dimension=cut.dim)
            )
    return gradient


def _by_rows(scatter: Callable, gradient: jax.Array, dim: int) -> jax.Array:
    """`scatter` of dimension `dim`, stored major. Stored minor, in pieces that do not fill the 128
    lanes of a TPU, libtpu makes an all-reduce of it too. This costs a copy: for later rings, of
    what the first has left.
    """
    moved = jnp.moveaxis(gradient, dim, 0)
    rows = with_layout_constraint(moved.reshape(moved.shape[0], -1), Layout((0, 1)))
    return jnp.moveaxis(scatter(rows, scatter_dimension=0).reshape(-1, *moved.shape[1:]), 0, dim)


def _groups(rings: tuple[int, ...]) -> list[list[list[int]]]:
    """For every side of a box of devices, numbered row by row, the lines of devices along it."""
    found, every = [], range(math.prod(rings))
    for side, length in enumerate(rings):
        stride = math.prod(rings[side + 1 :])
        found.append(
            [[i + k * stride for k in range(length)] for i in every if i // stride % length == 0]
        )
    return found


def _rings(line: Sequence[jax.Device]) -> tuple[int, ...]:
    """The sides above 1 of the box that a line of TPU devices fills row by row; empty when they do
    not, or are no TPU devices.
    """
    if not hasattr(line[0], "coords"):
        return ()
    places = [(*device.coords, device.core_on_chip) for device in line]
    sides = [range(min(along), max(along) + 1) for along in zip(*places)]
    return (
        tuple(len(side) for side in sides if len(side) > 1)
        if places == list(itertools.product(*sides))
        else ()
    )


_gather.defvjp(
    lambda weight, dtype, cut: (_gather(weight, dtype, cut), jnp.zeros((), weight.dtype)),
    lambda dtype, cut, like, gradient: (_scatter(gradient.astype(like.dtype), cut),),
)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _rows(table_VD: jax.Array, tokens_BL: jax.Array, dtype: jnp.dtype, cut: Cut) -> jax.Array:
    return jax.lax.all_gather(table_VD.astype(dtype), cut.axes, axis=cut.dim, tiled=True)[tokens_BL]


def _rows_backward(dtype: jnp.dtype, cut: Cut, saved: tuple, gradient_BLD: jax.Array) -> tuple:
    tokens_BL, empty_V0 = saved
    sums_VD = jnp.zeros((empty_V0.shape[0], gradient_BLD.shape[-1]), empty_V0.dtype)
    sums_VD = sums_VD.at[tokens_BL].add(gradient_BLD.astype(empty_V0.dtype))
    return _scatter(sums_VD, cut), None


_rows.defvjp(
    lambda table_VD, tokens_BL, dtype, cut: (
        _rows(table_VD, tokens_BL, dtype, cut),
        (tokens_BL, table_VD[:, :0]),
    ),
    _rows_backward,
)


def split(function: Callable, mesh: Mesh, in_specs: Any, out_specs: Any) -> Callable:
    """`function` of local pieces, on every device of the mesh.

    check_vma would turn the gradient of what is whole on every device into one all-reduce a tensor
    and a micro-batch.
    """
    return jax.shard_map(
        function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
    )
