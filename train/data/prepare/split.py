"""Training and validation: whole groups by hash order, then a 13-gram check between the two sides.

Memory is bounded: only 13-grams of the validation side are held, and of those a sample by hash when
they are many.
"""

from collections.abc import Callable, Iterable

import numpy as np

from stepladder.configs.core.errors import UserError
from stepladder.train.data import words

GRAM = 13  # words
# a validation document with a larger share of its 13-grams in training is dropped
MAX_OVERLAP = 0.2
MAX_GRAMS = 1 << 24  # validation 13-grams held at once (128 MB); above, an unbiased sample by hash

TRAIN, VALIDATION = 0, 1


def assign(
    group: np.ndarray, size: np.ndarray, keep: np.ndarray, fraction: float, seed: int, domain: str
) -> np.ndarray:
    """Divide a domain into training and validation by whole groups.

    Groups go to validation in hash order while they fit, until `fraction` of the bytes is reached.

    Args:
        group: uint64 [docs], hashes of the documents' groups.
        size: int [docs], bytes.
        keep: bool [docs], the documents to divide.
        fraction: of the bytes, for validation.
        seed: of the order.
        domain: named in errors.

    Returns:
        uint8 [docs]: TRAIN or VALIDATION.

    Raises:
        UserError: fewer than two groups.
    """
    ids, inverse = np.unique(group[keep], return_inverse=True)
    if len(ids) < 2:
        raise UserError(
            f"sources.{domain}={len(ids)} document(s) left: validation is split by document (code: "
            "by package), so two are needed; give more files, or JSON lines with one document a "
            "line"
        )
    sizes = np.bincount(inverse, weights=size[keep]).astype(np.int64)
    target = max(int(fraction * sizes.sum()), 1)
    order = np.argsort(words.mix(ids ^ words.mix(np.array([seed], np.uint64))[0]), kind="stable")
    chosen, total = np.zeros(len(ids), bool), 0
    for g in order[:-1]:  # at least one group trains
        if total + sizes[g] <= 1.2 * target:
            chosen[g], total = True, total + sizes[g]
        if total >= target:
            break
    # only big groups were left: the smallest of them rather than next to nothing
    if total < target / 2:
        rest = order[~chosen[order]]
        if len(rest) > 1:
            chosen[rest[np.argmin(sizes[rest])]] = True
    side = np.full(len(group), TRAIN, np.uint8)
    side[keep] = np.where(chosen[inverse], VALIDATION, TRAIN)
    return side


def overlap(
    validation: Callable[[], Iterable[bytes]], validation_bytes: int, train: Iterable[bytes]
) -> np.ndarray:
    """How much of each validation document training has: float [validation docs].

    That is the share of its distinct 13-grams. `validation` is called twice and must yield the same
    texts; `train` is streamed once.
    """
    keep_one_in = sampling(validation_bytes)

    def sample(text):
        return sampled(text, keep_one_in)

    held = np.unique(
        np.concatenate([np.empty(0, np.uint64), *(sample(text) for text in validation())])
    )
    hit = np.zeros(len(held) + 1, bool)
    for text in train:
        found, where = find(held, sample(text))
        hit[where[found]] = True
    shares = []
    for text in validation():
        mine = sample(text)
        shares.append(hit[find(held, mine)[1]].mean() if len(mine) else 0.0)
    return np.array(shares)


def sampling(validation_bytes: int) -> int:
    """Of how many 13-grams one is looked at.

    Chosen so that at most MAX_GRAMS are held for a validation side of this size.
    """
    # a word is above four bytes in nearly every text
    return max(1, -(-validation_bytes // (4 * MAX_GRAMS)))


def sampled(text: bytes, keep_one_in: int) -> np.ndarray:
    """The distinct 13-grams of a text that are looked at: sorted uint64 hashes."""
    hashes = words.grams(words.word_hashes(text), GRAM)
    return np.unique(hashes if keep_one_in == 1 else hashes[hashes % np.uint64(keep_one_in) == 0])


def find(held: np.ndarray, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """bool [n] whether each hash is held, and int [n] where."""
    where = np.searchsorted(held, hashes)
    inside = where < len(held)
    found = np.zeros(len(hashes), bool)
    found[inside] = held[where[inside]] == hashes[inside]
    return found, where
