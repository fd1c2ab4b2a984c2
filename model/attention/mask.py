"""What a query may look at, and the same as one boolean array; kernels that skip what is masked
never make it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class MaskSpec(NamedTuple):
    """What a query may look at. All that is given must hold.

    causal: query l sees memory m <= l. window: only the last `window` positions, itself the last;
    0 is no window; needs `causal`. documents_BL: only the query's own document, by the numbers of
    `document_numbers`. mask_BLM: only where it is True (B or 1, L, M).
    """

    causal: bool = True
    window: int = 0
    documents_BL: jax.Array | None = None
    mask_BLM: jax.Array | None = None


def document_numbers(tokens_BL: jax.Array, end: int) -> jax.Array:
    """Number of each token's document in its sequence, (B, L) int32: how many tokens `end` stand
    before it. A token `end` belongs to the document it ends.
    """
    ends_BL = (tokens_BL == end).astype(jnp.int32)
    return jnp.cumsum(ends_BL, axis=1) - ends_BL


def mask_of(L: int, M: int, mask: MaskSpec) -> jax.Array | None:
    """True where query l sees memory m: (B or 1, L, M), or None for everywhere."""
    found = []
    if mask.causal:
        found.append((jnp.arange(L)[:, None] >= jnp.arange(M))[None])
    if mask.window:
        found.append((jnp.arange(L)[:, None] - jnp.arange(M) < mask.window)[None])
    if mask.documents_BL is not None:
        found.append(mask.documents_BL[:, :, None] == mask.documents_BL[:, None, :])
    if mask.mask_BLM is not None:
        found.append(mask.mask_BLM)
    for each in found[1:]:
        found[0] = found[0] & each
    return found[0] if found else None
