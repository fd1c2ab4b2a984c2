"""Exact and near duplicates over all domains at once, before anything is split.

MinHash signatures are datasketch's. Its LSH index is a Python dict per band, which for millions of
documents exceeds the memory bound; the bands are sorted here instead, one at a time.
"""

import functools
import hashlib
from collections.abc import Callable

import numpy as np

from stepladder.configs.core.errors import UserError, nearest
from stepladder.train.data import words

METHODS = ("none", "exact", "minhash")
SHINGLE = 5  # words
PERMUTATIONS = 64  # standard error of the estimate 0.05 at the threshold
BANDS = 16  # of 4 rows: a pair of similarity 0.8 is found with probability 0.9998
THRESHOLD = 0.8  # estimated Jaccard similarity from which a document counts as a near duplicate
_CHUNK = 1 << 16  # shingles a call: the temporary is chunk x permutations x 4 bytes
_LEADERS = 64  # within one bucket, distinct texts that later ones are compared with

# of datasketch >= 2: named, so that signatures never change with the library's default
_SCHEME = "affine32"


def check(method: str) -> None:
    """Raise UserError for a method that does not exist."""
    if method not in METHODS:
        raise UserError(f"dedup={method}: no such method; {nearest(method, METHODS)}")


def exact_hash(data: bytes) -> int:
    """The 64-bit hash under which two documents are the same text; white space is ignored."""
    return int.from_bytes(
        hashlib.blake2b(b" ".join(data.split()), digest_size=8).digest(), "little"
    )


def signature(data: bytes) -> np.ndarray:
    """MinHash over runs of five words: UTF-8 text -> uint32 [PERMUTATIONS].

    A shorter text is one run of all its words.
    """
    hashes = words.word_hashes(data)
    shingles = words.grams(hashes, min(SHINGLE, max(len(hashes), 1)))
    low = np.unique((shingles & np.uint64(0xFFFFFFFF)).astype(np.uint32))
    sketch = _minhash(permutations=_permutations(), hashfunc=lambda h: h, gpu_mode="disable")
    for start in range(0, len(low), _CHUNK):
        sketch.update_batch(low[start : start + _CHUNK])
    return sketch.hashvalues.astype(np.uint32)


def _minhash(**options):
    # with scipy most of a second to import, and most commands prepare no text
    from datasketch import MinHash

    return MinHash(num_perm=PERMUTATIONS, seed=1, scheme=_SCHEME, **options)


@functools.cache
def _permutations():
    return _minhash().permutations


def exact_duplicates(hashes: np.ndarray) -> np.ndarray:
    """uint64 [docs] -> bool [docs]: True for every copy after the first."""
    duplicate = np.ones(len(hashes), bool)
    duplicate[np.unique(hashes, return_index=True)[1]] = False
    return duplicate


def near_duplicates(
    signatures: np.ndarray, candidate: np.ndarray, release: Callable[[], None] = lambda: None
) -> np.ndarray:
    """Which documents are nearly the same as an earlier one: bool [docs].

    Args:
        signatures: uint32 [docs, PERMUTATIONS]; may be a memmap, it is read in parts.
        candidate: bool [docs], the documents to compare.
        release: called after each part, to give its pages back.
    """
    rows = PERMUTATIONS // BANDS
    alive = np.flatnonzero(candidate)
    drop = np.zeros(len(candidate), bool)
    for band in range(BANDS):
        keys = np.empty(len(alive), np.uint64)
        for start in range(0, len(alive), _CHUNK):
            columns = signatures[alive[start : start + _CHUNK]][:, band * rows : (band + 1) * rows]
            keys[start : start + _CHUNK] = words.grams(columns.astype(np.uint64).ravel(), rows)[
                ::rows
            ]
            release()
        # stable: within a bucket documents stay in corpus order
        order = np.argsort(keys, kind="stable")
        edges = np.flatnonzero(np.diff(keys[order])) + 1
        starts = np.concatenate([[0], edges])
        sizes = np.diff(np.append(starts, len(order)))
        for start, size in zip(starts[sizes > 1], sizes[sizes > 1]):
            _mark(signatures, alive[order[start : start + size]], drop)
        release()
    return drop


def _mark(signatures: np.ndarray, bucket: np.ndarray, drop: np.ndarray) -> None:
    """Mark the duplicates within one bucket.

    The first document stays and drops those like it; then the first of the rest, and so on.
    """
    for _ in range(_LEADERS):
        rest = bucket[1:]
        if not len(rest):
            return
        same = np.concatenate(
            [
                (signatures[part] == signatures[bucket[0]]).mean(1) >= THRESHOLD
                for part in _parts(rest)
            ]
        )
        drop[rest[same]] = True
        bucket = rest[~same]


def _parts(index: np.ndarray) -> list[np.ndarray]:
    return [index[i : i + _CHUNK] for i in range(0, len(index), _CHUNK)]
