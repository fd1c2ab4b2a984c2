"""Rows of the embedding for the tokens of a device, and how the gradients of a row are summed.

The sum has as many terms as the token occurs, thousands for a frequent one, so it is held in
float32 at least. What adds them where they lie (`scatter`) is the quickest on a CPU and a TPU. A
GPU does it with atomic additions, in whatever order the threads arrive: other bits every time.
`sorted` brings equal tokens together and adds in an order that the tokens alone decide.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from stepladder.model.parallel.collectives import Parallel, Shard, scatter

BLOCK = 128  # sorted tokens that are summed by one product of matrices


def embed_lookup(
    parallel: Parallel,
    table_VD: jax.Array,
    tokens_BL: jax.Array,
    dtype: jnp.dtype,
    gradient: str = "scatter",
) -> jax.Array:
    """Rows of the embedding for the device's own tokens, in `dtype`.

    Args:
        parallel: how the devices of a mesh share the work.
        table_VD: the embedding, or the device's piece of it along D.
        tokens_BL: token ids.
        dtype: the compute dtype.
        gradient: key of SUMS.
    """
    shard = parallel.shard_of("embed")
    if shard is None and gradient == "scatter":
        return table_VD[tokens_BL].astype(dtype)
    return _lookup(table_VD, tokens_BL, dtype, shard, gradient)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _lookup(
    table_VD: jax.Array, tokens_BL: jax.Array, dtype: jnp.dtype, shard: Shard | None, gradient: str
) -> jax.Array:
    table_VD = table_VD.astype(dtype)
    if shard is not None:
        table_VD = jax.lax.all_gather(table_VD, shard.axes, axis=shard.dim, tiled=True)
    return table_VD[tokens_BL]


def _lookup_forward(
    table_VD: jax.Array, tokens_BL: jax.Array, dtype: jnp.dtype, shard: Shard | None, gradient: str
) -> tuple:
    saved = tokens_BL, table_VD[:, :0]
    return _lookup(table_VD, tokens_BL, dtype, shard, gradient), saved


def _lookup_backward(
    dtype: jnp.dtype, shard: Shard | None, gradient: str, saved: tuple, slope_BLD: jax.Array
) -> tuple:
    tokens_BL, empty_V0 = saved
    sums_VD = SUMS[gradient](tokens_BL, slope_BLD, empty_V0)
    return sums_VD if shard is None else scatter(sums_VD, shard), None


_lookup.defvjp(_lookup_forward, _lookup_backward)


def _scatter_add(tokens_BL: jax.Array, slope_BLD: jax.Array, like_V0: jax.Array) -> jax.Array:
    sums_VD = jnp.zeros((like_V0.shape[0], slope_BLD.shape[-1]), like_V0.dtype)
    return sums_VD.at[tokens_BL].add(slope_BLD.astype(like_V0.dtype))


def _sorted_sums(tokens_BL: jax.Array, slope_BLD: jax.Array, like_V0: jax.Array) -> jax.Array:
    """Sums over equal tokens without a scatter: sorted, added to their neighbours, and of every row
    the sum gathered.
    """
    tokens_Y, rows_V = tokens_BL.reshape(-1), jnp.arange(like_V0.shape[0])
    order_Y = jnp.argsort(tokens_Y, stable=True)
    ids_Y, slope_YD = tokens_Y[order_Y], slope_BLD.reshape(-1, slope_BLD.shape[-1])[order_Y]
    sums_YD = _sums_of_equal(ids_Y, slope_YD, like_V0.dtype)
    last_V = jnp.searchsorted(ids_Y, rows_V, side="right") - 1  # of the tokens up to v; -1: none
    found_V = (last_V >= 0) & (ids_Y[last_V] == rows_V)
    return jnp.where(found_V[:, None], sums_YD[last_V], 0)


def _sums_of_equal(ids_Y: jax.Array, values_YD: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """For every entry of a list ordered by ids: the sum of all with the same id, (Y, D)."""
    Y, D = values_YD.shape
    fill = -Y % BLOCK
    ids_Cl = jnp.pad(ids_Y, (0, fill), constant_values=jnp.iinfo(ids_Y.dtype).max)
    ids_Cl = ids_Cl.reshape(-1, BLOCK)
    values_ClD = jnp.pad(values_YD, ((0, fill), (0, 0))).reshape(-1, BLOCK, D)
    same_Cll = ids_Cl[:, :, None] == ids_Cl[:, None, :]
    sums_ClD = jnp.matmul(  # of zeros and ones: exact, but for the order of the sums
        same_Cll.astype(values_ClD.dtype),
        values_ClD,
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=dtype,
    )
    if len(ids_Cl) > 1:
        sums_ClD = _joined(ids_Cl, sums_ClD)
    return sums_ClD.reshape(-1, D)[:Y]


def _joined(ids_Cl: jax.Array, sums_ClD: jax.Array) -> jax.Array:
    """Sums within blocks, with those of equal ids in other blocks: only the first and last id of
    a block can be in others.
    """
    ends = jnp.array([0, -1])
    ids_C2, sums_C2D = ids_Cl[:, ends], sums_ClD[:, ends]
    # a block that is all one id counts once
    again_C2 = jnp.stack([jnp.zeros(len(ids_C2), bool), ids_C2[:, 0] == ids_C2[:, 1]], axis=1)
    sums_ED = jnp.where(again_C2[..., None], 0, sums_C2D).reshape(-1, sums_C2D.shape[-1])
    joined_ED = _sums_of_equal(ids_C2.reshape(-1), sums_ED, sums_ED.dtype)
    first_C1D, last_C1D = jnp.split(joined_ED.reshape(sums_C2D.shape), 2, axis=1)
    is_first_Cl1 = (ids_Cl == ids_Cl[:, :1])[..., None]
    is_last_Cl1 = (ids_Cl == ids_Cl[:, -1:])[..., None]
    return jnp.where(is_first_Cl1, first_C1D, jnp.where(is_last_Cl1, last_C1D, sums_ClD))


SUMS: dict[str, Callable] = {"scatter": _scatter_add, "sorted": _sorted_sums}
