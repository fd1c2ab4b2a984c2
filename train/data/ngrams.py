"""Unigram and bigram baselines: what part of a recipe's loss is statistics of pairs of tokens.

A mixture's counts are those of its domains, each scaled to its weight, as many tokens as it gives
in one epoch of its scarcest domain:

    p1(b)     = (C(b) + alpha) / (C + alpha V)
    p2(b | a) = (C(a, b) + beta p1(b)) / (C(a) + beta)

alpha and beta minimise the loss on the last HELD_OUT of every domain's training text, which is not
counted. Validation is only read to be scored.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from stepladder.train.data.read.mixture import check_recipe
from stepladder.train.data.read.store import Store

HELD_OUT = 0.05  # of a domain's training tokens
# counted of a domain, from its start: enough for pairs, and a bound for corpora of any size
MAX_TOKENS = 1 << 25
ALPHAS = tuple(10.0**k for k in range(-3, 5))
BETAS = tuple(10.0 ** (k / 2) for k in range(-4, 11))
_CHUNK = 1 << 22  # tokens read at once
_DENSE = 1 << 24  # pairs of the vocabulary up to which counting needs no sort


@dataclass(frozen=True)
class Pairs:
    """Counts of pairs of tokens.

    `keys` are first token * vocabulary + second, int64, ascending; `counts` are float64.
    """

    keys: np.ndarray
    counts: np.ndarray

    @property
    def total(self) -> float:
        return float(self.counts.sum())


def count(tokens: np.ndarray, vocabulary: int) -> Pairs:
    """Pairs of neighbouring tokens, int [n] (may be a memmap; it is read in parts)."""
    parts = [
        _count_part(np.asarray(tokens[i : i + _CHUNK + 1], np.int64), vocabulary)
        for i in range(0, max(len(tokens) - 1, 0), _CHUNK)
    ]
    return merge(parts, [1.0] * len(parts))


def _count_part(tokens: np.ndarray, vocabulary: int) -> Pairs:
    keys = tokens[:-1] * vocabulary + tokens[1:]
    if vocabulary * vocabulary <= _DENSE:
        dense = np.bincount(keys, minlength=vocabulary * vocabulary)
        found = np.flatnonzero(dense)
        return Pairs(found, dense[found].astype(np.float64))
    found, counts = np.unique(keys, return_counts=True)
    return Pairs(found, counts.astype(np.float64))


def merge(parts: list[Pairs], scales: list[float]) -> Pairs:
    """The sum of `parts`, each times its scale."""
    keys, inverse = np.unique(
        np.concatenate([np.empty(0, np.int64), *(p.keys for p in parts)]), return_inverse=True
    )
    values = np.concatenate([np.empty(0), *(p.counts * s for p, s in zip(parts, scales))])
    return Pairs(keys, np.bincount(inverse, weights=values, minlength=len(keys)))


@dataclass(frozen=True)
class Model:
    """Smoothed counts of one mixture."""

    pairs: Pairs
    first_V: np.ndarray  # C(a): times a token starts a pair
    second_V: np.ndarray  # C(b): times a token ends one
    alpha: float
    beta: float

    def probabilities(self) -> np.ndarray:
        """p1, [V]."""
        total = self.second_V.sum() + self.alpha * len(self.second_V)
        return (self.second_V + self.alpha) / total

    def unigram(self, text: Pairs) -> float:
        """Mean nats of the second tokens of `text`."""
        b = text.keys % len(self.second_V)
        return float(-(text.counts @ np.log(self.probabilities()[b])) / text.total)

    def bigram(self, text: Pairs) -> float:
        """Mean nats of the second tokens of `text`, given the first."""
        a, b = np.divmod(text.keys, len(self.second_V))
        where = np.minimum(np.searchsorted(self.pairs.keys, text.keys), len(self.pairs.keys) - 1)
        seen = np.where(self.pairs.keys[where] == text.keys, self.pairs.counts[where], 0.0)
        p2 = (seen + self.beta * self.probabilities()[b]) / (self.first_V[a] + self.beta)
        return float(-(text.counts @ np.log(p2)) / text.total)


def fit(
    counted: dict[str, Pairs], held: dict[str, Pairs], weights: Mapping[str, float], vocabulary: int
) -> Model:
    """The model of one mixture.

    Smoothing is chosen on `held`: text of the same domains that is not counted.
    """
    names = [name for name, weight in weights.items() if weight > 0]
    tokens = min(counted[name].total / weights[name] for name in names)
    pairs = merge(
        [counted[name] for name in names],
        [tokens * weights[name] / counted[name].total for name in names],
    )
    text = merge(
        [held[name] for name in names], [weights[name] / held[name].total for name in names]
    )
    first_V = np.bincount(pairs.keys // vocabulary, weights=pairs.counts, minlength=vocabulary)
    second_V = np.bincount(pairs.keys % vocabulary, weights=pairs.counts, minlength=vocabulary)
    alpha = min(ALPHAS, key=lambda a: Model(pairs, first_V, second_V, a, 1.0).unigram(text))
    beta = min(BETAS, key=lambda b: Model(pairs, first_V, second_V, alpha, b).bigram(text))
    return Model(pairs, first_V, second_V, alpha, beta)


def baselines(
    store: Store, recipes: Mapping[str, Mapping[str, float]], windows: Mapping[str, np.ndarray]
) -> dict:
    """Unigram and bigram losses of recipes, on the last L tokens of every window.

    Args:
        store: the token store.
        recipes: name -> weights over the store's domains.
        windows: validation domain -> int [n, L + 1].

    Returns:
        {"unigram", "bigram": {recipe: {domain: nats a token}},
        "smoothing": {recipe: {"alpha", "beta"}}}.

    Raises:
        UserError: weights that do not fit the store.
    """
    V = store.vocab_size
    for weights in recipes.values():
        check_recipe(tuple(weights.items()), store.domains)
    counted, held = {}, {}
    for name in sorted(
        {name for weights in recipes.values() for name, weight in weights.items() if weight > 0}
    ):
        tokens = store.tokens(name, "train")
        cut = max(int(len(tokens) * (1 - HELD_OUT)), 2)
        counted[name] = count(tokens[: min(cut, MAX_TOKENS)], V)
        held[name] = count(tokens[min(cut, len(tokens) - 2) :][:MAX_TOKENS], V)
    scored = {domain: _rows(window_NT, V) for domain, window_NT in windows.items()}
    found: dict[str, dict] = {"unigram": {}, "bigram": {}, "smoothing": {}}
    for recipe, weights in recipes.items():
        model = fit(counted, held, weights, V)
        found["smoothing"][recipe] = {"alpha": model.alpha, "beta": model.beta}
        found["unigram"][recipe] = {domain: model.unigram(text) for domain, text in scored.items()}
        found["bigram"][recipe] = {domain: model.bigram(text) for domain, text in scored.items()}
    return found


def _rows(window_NT: np.ndarray, vocabulary: int) -> Pairs:
    """Pairs within each row, never across two."""
    keys = window_NT[:, :-1].astype(np.int64) * vocabulary + window_NT[:, 1:]
    found, counts = np.unique(keys, return_counts=True)
    return Pairs(found, counts.astype(np.float64))
