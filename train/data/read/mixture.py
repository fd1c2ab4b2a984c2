"""Which window of which domain every example is.

Example i is a pure function of (weights, seed, i), by integer arithmetic: resuming, packing and
resharding need no state of the data.

Weights are rounded to units of 2^-20. Examples come in blocks of 1,024; a block holds of every
domain its whole number of rows, and the fractions left over go round over 1,024 blocks, so that
counts are exact over a period and never off by more than one row in a block. A permutation of the
block mixes the rows; the k-th row of a domain is window k of an endless sequence of shuffled
epochs.
"""

import functools
import hashlib

import numpy as np

from stepladder.configs.core.errors import UserError, nearest
from stepladder.configs.core.spec import EXAMPLES_A_BLOCK, check_weights
from stepladder.train.data.read.permute import permute
from stepladder.train.data.read.store import Store
from stepladder.train.data.words import mix

Weights = tuple[tuple[str, float], ...]  # (domain, weight)
Seen = tuple[tuple[str, int], ...]  # (domain, windows)

BLOCK = EXAMPLES_A_BLOCK
PERIOD = 1024  # blocks
UNITS = BLOCK * PERIOD


def check_recipe(weights: Weights, domains: list[str]) -> None:
    """Raise UserError unless the weights name domains of the store, each once, and are weights."""
    names = [name for name, _ in weights]
    for name, weight in weights:
        if name not in domains:
            raise UserError(
                f"weights.{name}={weight}: the store has no such domain; {nearest(name, domains)}"
            )
        if names.count(name) > 1:
            raise UserError(
                f"weights.{name}={weight}: named {names.count(name)} times; name every domain once"
            )
        if 0 < weight < 1 / UNITS:
            raise UserError(
                f"weights.{name}={weight}: below the finest weight {1 / UNITS:.1e}; use 0 to leave "
                "the domain out"
            )
    check_weights(dict(weights), "weights")


class Mixture:
    """Domain, draw and window of every example.

    `windows` is the number of windows of each domain of `weights`; the first row of a domain is the
    window after those that it has `seen`.
    """

    def __init__(
        self,
        weights: Weights,
        windows: dict[str, int],
        seed: int,
        seen: Seen = (),
    ) -> None:
        used = [(name, weight) for name, weight in weights if weight > 0]
        self.domains = [name for name, _ in used]
        self.seed = seed
        self._windows = [windows[name] for name in self.domains]
        self._seen = [dict(seen).get(name, 0) for name in self.domains]
        # A domain's order depends on its name, not on its place in the recipe: recipes that share a
        # domain read it in the same order.
        self._keys = [_key(name) for name in self.domains]
        units = _units(np.array([weight for _, weight in used]))
        whole, rest = units // PERIOD, units % PERIOD
        edges = np.concatenate([[0], np.cumsum(rest)])
        # The fraction of a block at which its left-over rows are taken: bit reversal spreads every
        # run of blocks evenly.
        offset = np.array([int(f"{b:010b}"[::-1], 2) for b in range(PERIOD)])
        counts = whole + np.diff((edges[None, :] + offset[:, None]) // PERIOD, axis=1)
        # [PERIOD, domains] rows of each domain in a block; every line sums to BLOCK
        self._counts = counts
        self._before = np.concatenate(
            [np.zeros((1, len(used)), np.int64), np.cumsum(counts, axis=0)]
        )
        self._block = functools.lru_cache(maxsize=4)(self._compute_block)

    def __getstate__(self) -> dict:
        return {k: v for k, v in self.__dict__.items() if k != "_block"}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._block = functools.lru_cache(maxsize=4)(self._compute_block)

    def rows(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Examples start..stop-1 -> (int [n] domain numbers, int64 [n] window numbers)."""
        parts = []
        for block in range(start // BLOCK, (stop - 1) // BLOCK + 1):
            domain, window = self._block(block)
            at = slice(max(start - block * BLOCK, 0), min(stop - block * BLOCK, BLOCK))
            parts.append((domain[at], window[at]))
        if len(parts) == 1:
            return parts[0]
        return np.concatenate([d for d, _ in parts]), np.concatenate([w for _, w in parts])

    def draws(self, examples: int) -> dict[str, int]:
        """Rows of every domain among the first `examples`, exact to one block."""
        blocks, rest = divmod(examples, BLOCK)
        total = self._draws_before(blocks)
        if rest:
            total = total + np.bincount(self._block(blocks)[0][:rest], minlength=len(self.domains))
        return dict(zip(self.domains, map(int, total)))

    def _draws_before(self, block: int) -> np.ndarray:
        period, b = divmod(block, PERIOD)
        return period * self._before[-1] + self._before[b]

    def _compute_block(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        counts = self._counts[block % PERIOD]
        key = mix(np.array([self.seed % (1 << 63), block], np.uint64))
        order = np.argsort(
            mix(np.arange(BLOCK, dtype=np.uint64) ^ mix(key[:1] * np.uint64(3) + key[1:])),
            kind="stable",
        )
        domain = np.empty(BLOCK, np.int16)
        window = np.empty(BLOCK, np.int64)
        first = np.concatenate([[0], np.cumsum(counts)])
        for d, draw in enumerate(self._draws_before(block)):
            rows = np.sort(order[first[d] : first[d + 1]])
            domain[rows] = d
            window[rows] = self._window(d, self._seen[d] + draw + np.arange(len(rows)))
        return domain, window

    def _window(self, d: int, draw: np.ndarray) -> np.ndarray:
        """Draws of a domain -> windows, both int64 [n].

        Every epoch is a permutation of its own.
        """
        epoch, k = np.divmod(draw, self._windows[d])
        key = mix(
            mix(np.array([self._keys[d]]) + np.uint64(self.seed % (1 << 63)))
            + epoch.astype(np.uint64)
        )
        return permute(k, self._windows[d], key)


def windows(store: Store, weights: Weights, seq_len: int) -> dict[str, int]:
    """Training windows of every domain.

    Raises UserError when a domain in use is shorter than one window.
    """
    counts = {}
    for name, weight in weights:
        counts[name] = (store.count(name, "train") - 1) // seq_len
        if weight > 0 and counts[name] < 1:
            raise UserError(
                f"seq_len={seq_len}: domain {name} has {store.count(name, 'train'):,} training "
                "tokens, less than one window; give more text"
            )
    return counts


def epochs(
    store: Store, weights: Weights, seq_len: int, examples: int, seen: Seen = ()
) -> dict[str, float]:
    """Times every domain in use is seen in `examples` examples of `seq_len` tokens, and in the
    windows that it has `seen` before.

    Raises UserError for bad weights.
    """
    check_recipe(weights, store.domains)
    have, before = windows(store, weights, seq_len), dict(seen)
    draws = Mixture(weights, have, 0).draws(examples)
    return {name: (before.get(name, 0) + n) / have[name] for name, n in draws.items()}


def check_epochs(
    store: Store,
    weights: Weights,
    seq_len: int,
    examples: int,
    max_epochs: float,
    seen: Seen = (),
) -> dict[str, float]:
    """`epochs`, refused with a UserError when one is above `max_epochs`."""
    found = epochs(store, weights, seq_len, examples, seen)
    for name, n in sorted(found.items(), key=lambda item: -item[1]):
        if n > max_epochs:
            have = windows(store, weights, seq_len)[name] * seq_len
            raise UserError(
                f"max_epochs={max_epochs:g}: the run asks {round(n * have):,} tokens of {name}, "
                f"which has {have:,} ({n:.2f} epochs); train on fewer tokens, lower "
                f"weights.{name}, prepare more text, or set max_epochs={np.ceil(n):g}"
            )
    return found


def _units(weights: np.ndarray) -> np.ndarray:
    """Weights -> int64 units of 2^-20 that sum to UNITS, by largest remainder."""
    exact = weights / weights.sum() * UNITS
    units = np.floor(exact).astype(np.int64)
    units[np.argsort(units - exact, kind="stable")[: UNITS - units.sum()]] += 1
    return units


def _key(name: str) -> np.uint64:
    """64 bits of a domain's name."""
    return np.uint64(
        int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
    )
