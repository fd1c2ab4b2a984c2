"""Hashes of words and word n-grams: what near-duplicate removal and the overlap check compare.

Stable across machines, Python versions and processes (crc32 and 64-bit integer arithmetic; never
`hash`).
"""

import zlib

import numpy as np


def _fold(byte: int) -> int:
    """Letters lower-cased, digits, _ and non-ASCII bytes as they are, all else a space."""
    if byte >= 128:
        return byte
    character = chr(byte)
    return ord(character.lower()) if character.isalnum() or character == "_" else ord(" ")


_FOLD = bytes(map(_fold, range(256)))
_GOLDEN = 0x9E3779B97F4A7C15


def mix(x: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser, elementwise: uint64 [...] -> uint64 [...]."""
    x = x.astype(np.uint64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


_MULTIPLIERS = mix(np.arange(1, 65, dtype=np.uint64) * np.uint64(_GOLDEN)) | np.uint64(1)


def word_hashes(data: bytes) -> np.ndarray:
    """UTF-8 text -> uint64 [words].

    A word is a run of letters, digits or non-ASCII bytes, case folded.

    Text without spaces (Chinese, Japanese, base64) has next to no such runs: then every character
    is a word.
    """
    words = data.translate(_FOLD).split()
    if len(data) > 64 and len(words) * 24 < len(data):
        return np.frombuffer(data.decode("utf-8").encode("utf-32-le"), np.uint32).astype(np.uint64)
    return np.fromiter(map(zlib.crc32, words), np.uint64, len(words))


def grams(words: np.ndarray, n: int) -> np.ndarray:
    """One 64-bit hash per run of n words: uint64 [words] -> uint64 [words - n + 1].

    Empty when there are fewer than n.
    """
    count = len(words) - n + 1
    if count <= 0:
        return np.empty(0, np.uint64)
    total = np.zeros(count, np.uint64)
    for i in range(n):
        total += words[i : i + count] * _MULTIPLIERS[i]
    return mix(total)
