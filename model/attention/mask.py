"""Which memory a query sees, as one boolean array; kernels that skip what is masked never make
it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


def documents(tokens_BL: jax.Array, end: int) -> jax.Array:
    """Number of a token's document in its sequence, (B, L) int32: how many tokens `end` stand
    before it; `end` belongs to what it ends.
    """
    ends_BL = (tokens_BL == end).astype(jnp.int32)
    return jnp.cumsum(ends_BL, axis=1) - ends_BL


class Limits(NamedTuple):
    """What a query may look at, as `attention.attend` defines it; all that is given must hold."""

    causal: bool = True
    window: int = 0
    documents_BL: jax.Array | None = None
    mask_BLM: jax.Array | None = None


def visible(L: int, M: int, limits: Limits) -> jax.Array | None:
    """True where query l sees memory m: (B or 1, L, M), or None for everywhere."""
    causal, window, documents_BL, mask_BLM = limits
    found = []
    if causal:
        found.append((jnp.arange(L)[:, None] >= jnp.arange(M))[None])
    if window:
        found.append((jnp.arange(L)[:, None] - jnp.arange(M) < window)[None])
    if documents_BL is not None:
        found.append(documents_BL[:, :, None] == documents_BL[:, None, :])
    if mask_BLM is not None:
        found.append(mask_BLM)
    for each in found[1:]:
        found[0] = found[0] & each
    return found[0] if found else None
