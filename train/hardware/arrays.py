"""Arrays from host memory to devices, in one process or several.

In a group of processes each one fills its own devices; nothing is sent between hosts.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, Sharding


def batch_rows(sharding: Sharding, shape: tuple[int, ...], axis: int) -> np.ndarray:
    """Which rows of the global `shape` along `axis` this process's devices hold: int64 [n].

    Ascending. Several processes may hold the same rows (tensor parallelism), and rows need not be
    contiguous (the order of the mesh).
    """
    held = sharding.addressable_devices_indices_map(shape).values()
    parts = {index[axis].indices(shape[axis])[:2] for index in held if index is not None}
    return np.unique(np.concatenate([np.arange(*part) for part in parts]))


def place_rows(
    local: np.ndarray, rows: np.ndarray, sharding: Sharding, shape: tuple[int, ...], axis: int
) -> jax.Array:
    """The global array of `shape`, from the rows that this process's devices hold.

    `local` holds those rows, `rows` of the global array along `axis` (`batch_rows`).
    """
    if sharding.is_fully_addressable:
        return jax.device_put(local, sharding)

    def part(index: tuple[slice, ...] | None) -> np.ndarray:
        assert index is not None
        start, stop, _ = index[axis].indices(shape[axis])
        first = int(np.searchsorted(rows, start))
        return local[(*index[:axis], slice(first, first + stop - start), *index[axis + 1 :])]

    return jax.make_array_from_callback(shape, sharding, part)


def place(tree: Any, sharding: Any) -> Any:
    """Put host values, which every process holds whole, on devices.

    `sharding` is one for all leaves, or a tree of them.
    """
    shardings = _sharding_of_leaves(tree, sharding)
    if _one_process(shardings):
        return jax.device_put(tree, shardings)
    return jax.tree.map(_place, tree, shardings)


def move(tree: Any, sharding: Any) -> Any:
    """Move arrays from one mesh to another.

    Between processes the values go through each host's memory, which suits models that are small
    enough for packs.
    """
    shardings = _sharding_of_leaves(tree, sharding)
    if _one_process(shardings):
        return jax.device_put(tree, shardings)
    whole = jax.tree.map(lambda x: NamedSharding(x.sharding.mesh, PartitionSpec()), tree)
    copies = jax.tree.map(
        lambda x: np.asarray(x.addressable_data(0)), jax.jit(_same, out_shardings=whole)(tree)
    )
    return jax.tree.map(_place, copies, shardings)


def _same(tree: Any) -> Any:
    return tree


def _place(value: Any, sharding: Sharding) -> jax.Array:
    value = np.asarray(value)
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])


def _sharding_of_leaves(tree: Any, sharding: Any) -> Any:
    return jax.tree.map(lambda _: sharding, tree) if isinstance(sharding, Sharding) else sharding


def _one_process(shardings: Any) -> bool:
    return all(sharding.is_fully_addressable for sharding in jax.tree.leaves(shardings))
