"""Losses of n-gram models of a mixture: what text statistics alone reach, beside a model's loss.

An n-gram model is interpolated with the shorter one (Jelinek and Mercer's recursion with a pseudo
count):

    p_n(b | c) = (C(c, b) + k_n p_(n-1)(b | c')) / (C(c) + k_n),   p_0 = 1 / V

c are the n - 1 tokens before b, c' all but the first of them; at the start of a window they are
those that are there, as for the model that is compared. Each k_n minimises the loss on the last
HELD_OUT of every domain's training text, which is not counted.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from stepladder.train.data.ngrams import HELD_OUT
from stepladder.train.data.read.mixture import check_recipe
from stepladder.train.data.read.store import Store

ORDERS = {"unigram": 1, "bigram": 2, "5gram": 5}
MAX_TOKENS = 1 << 23  # counted of a domain: a bound on memory
_PSEUDO = tuple(float(2**k) for k in range(-4, 13))


@dataclass(frozen=True)
class Order:
    """Counts of the n-grams of one order.

    A context is a number: that of its shorter context's n-gram. keys: context * V + token, int64,
    ascending; an n-gram's number is its place in them.
    """

    keys: np.ndarray
    counts: np.ndarray  # of each key, float64: weighted
    totals: np.ndarray  # of each context


def floors(
    store: Store, weights: Mapping[str, float], windows: Mapping[str, np.ndarray]
) -> dict[str, dict[str, float]]:
    """Nats a token of the models of ORDERS, on the last L tokens of every window.

    Args:
        store: the token store.
        weights: of the mixture, over the store's domains.
        windows: validation domain -> int [n, L + 1].

    Returns:
        {order: {domain: nats a token, "all": their mean}}.

    Raises:
        UserError: weights that do not fit the store.
    """
    check_recipe(tuple(weights.items()), store.domains)
    texts = [(_text(store, name), weight) for name, weight in weights.items() if weight > 0]
    counted = [(text[: _cut(text)], weight) for text, weight in texts]
    held = [text[_cut(text) :] for text, _ in texts]
    n, V = max(ORDERS.values()), store.vocab_size
    orders = count(counted, n, V)
    rows = [_contexts(orders, text[None, :], V) for text in held]
    pseudo = _smoothing(orders, rows, [weight for _, weight in counted], V)
    found: dict[str, dict[str, float]] = {name: {} for name in ORDERS}
    for domain, windows_NT in windows.items():
        nats = _nats(orders, _contexts(orders, windows_NT, V), pseudo, V)
        for name, order in ORDERS.items():
            found[name][domain] = float(nats[order - 1].mean())
    return {name: {"all": float(np.mean(list(of.values()))), **of} for name, of in found.items()}


def count(texts: list[tuple[np.ndarray, float]], n: int, vocabulary: int) -> list[Order]:
    """The n-grams of orders 1..n in texts, each with the weight of its domain: a domain counts as
    its weight in the tokens of all, however long its text is.
    """
    total = sum(len(text) for text, _ in texts)
    share = sum(weight for _, weight in texts)
    tokens = np.concatenate([text.astype(np.int64) for text, _ in texts])
    weight = np.concatenate(
        [np.full(len(text), total * weight / share / len(text)) for text, weight in texts]
    )
    # how many tokens of its own text stand before each
    before = np.concatenate([np.arange(len(text)) for text, _ in texts])
    context = np.zeros(len(tokens), np.int64)
    orders = []
    for order in range(1, n + 1):
        there = before >= order - 1
        keys, places, counts = _unique(context[there] * vocabulary + tokens[there], weight[there])
        contexts = len(orders[-1].keys) if orders else 1
        orders.append(
            Order(keys, counts, np.bincount(keys // vocabulary, counts, minlength=contexts))
        )
        # the context of the next token is the n-gram that ends here
        number = np.full(len(tokens), -1, np.int64)
        number[there] = places
        context = np.roll(number, 1)
    return orders


def _unique(keys: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    found, places = np.unique(keys, return_inverse=True)
    return found, places, np.bincount(places, weight, minlength=len(found))


def _contexts(orders: list[Order], rows_NT: np.ndarray, vocabulary: int) -> list[np.ndarray]:
    """For each order the number of every target's context, (N, L); -1: never counted, or too
    short. And last the targets.
    """
    tokens_NT = rows_NT.astype(np.int64)
    context_NT = np.zeros(tokens_NT.shape, np.int64)
    found = []
    for order in orders:
        found.append(context_NT[:, 1:])
        number_NT = _find(order.keys, context_NT, tokens_NT, vocabulary)
        context_NT = np.pad(number_NT[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
    return [*found, tokens_NT[:, 1:]]


def _find(keys: np.ndarray, context: np.ndarray, tokens: np.ndarray, vocabulary: int) -> np.ndarray:
    """The numbers of n-grams; -1 for one that is not there."""
    wanted = context * vocabulary + tokens
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where((context >= 0) & (keys[place] == wanted), place, -1)


def _step(
    order: Order,
    context: np.ndarray,
    targets: np.ndarray,
    shorter: np.ndarray,
    pseudo: float,
    vocabulary: int,
) -> np.ndarray:
    """p_n of the targets from p_(n-1); where the context was never counted, the latter."""
    place = _find(order.keys, context, targets, vocabulary)
    seen = np.where(place >= 0, order.counts[place], 0.0)
    total = np.where(context >= 0, order.totals[context], 0.0)
    return (seen + pseudo * shorter) / (total + pseudo)


def _smoothing(
    orders: list[Order], held: list[list[np.ndarray]], weights: list[float], vocabulary: int
) -> list[float]:
    """The pseudo count of every order, one after another, by the loss on the held-out rows."""
    chosen = []
    shorter = [np.full(rows[-1].shape, 1 / vocabulary) for rows in held]
    for i, order in enumerate(orders):
        longer = {
            k: [
                _step(order, rows[i], rows[-1], p, k, vocabulary)
                for rows, p in zip(held, shorter, strict=True)
            ]
            for k in _PSEUDO
        }
        loss = {
            k: sum(w * -np.log(p).mean() for p, w in zip(found, weights, strict=True))
            for k, found in longer.items()
        }
        chosen.append(min(loss, key=loss.__getitem__))
        shorter = longer[chosen[-1]]
    return chosen


def _nats(
    orders: list[Order], rows: list[np.ndarray], pseudo: list[float], vocabulary: int
) -> list[np.ndarray]:
    """Negative log-likelihood of every target by every order, each (N, L)."""
    p, found = np.full(rows[-1].shape, 1 / vocabulary), []
    for i, (order, k) in enumerate(zip(orders, pseudo, strict=True)):
        p = _step(order, rows[i], rows[-1], p, k, vocabulary)
        found.append(-np.log(p))
    return found


def _text(store: Store, domain: str) -> np.ndarray:
    return np.asarray(store.tokens(domain, "train")[:MAX_TOKENS])


def _cut(text: np.ndarray) -> int:
    """Where the held-out end of a text begins."""
    return max(1, min(int(len(text) * (1 - HELD_OUT)), len(text) - 2))
