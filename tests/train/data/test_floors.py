"""N-gram floors against counts made one by one, and against known entropies."""

import math
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from stepladder.configs.core.errors import UserError
from stepladder.train.data import floors
from tests.support.errors import assert_user_error


def counted(texts, n):
    """C(gram) of every length up to n, each text weighted as `count` does."""
    total, share = sum(len(text) for text, _ in texts), sum(weight for _, weight in texts)
    found = Counter()
    for text, weight in texts:
        for order in range(1, n + 1):
            for i in range(order - 1, len(text)):
                gram = tuple(text[i - order + 1 : i + 1])
                found[gram] += total * weight / share / len(text)
    return found


def probability(found, gram, pseudo, vocabulary):
    """p_n of the last token of a gram given those before, written out."""
    if not gram:
        return 1 / vocabulary
    *context, _ = gram
    total = sum(found[(*context, token)] for token in range(vocabulary))
    shorter = probability(found, gram[1:], pseudo, vocabulary)
    k = pseudo[len(gram) - 1]
    return (found[tuple(gram)] + k * shorter) / (total + k)


def test_the_recursion_is_the_one_written_out():
    rng, V, n = np.random.default_rng(0), 4, 3
    texts = [(rng.integers(V, size=60), 0.7), (rng.integers(V - 1, size=25), 0.3)]
    pseudo = [0.5, 2.0, 8.0]
    orders = floors.count(texts, n, V)
    rows_NT = rng.integers(V, size=(3, 6))
    nats = floors._nats(orders, floors._contexts(orders, rows_NT, V), pseudo, V)
    found = counted(texts, n)
    for order in range(1, n + 1):
        for row, values in zip(rows_NT.tolist(), nats[order - 1], strict=True):
            for t in range(1, len(row)):
                gram = row[max(0, t - order + 1) : t + 1]
                want = -math.log(probability(found, gram, pseudo, V))
                assert values[t - 1] == pytest.approx(want, rel=1e-9)


def store_of(**domains):
    text = {name: np.asarray(tokens, np.int32) for name, tokens in domains.items()}
    return SimpleNamespace(
        domains=list(text), vocab_size=8, tokens=lambda domain, split: text[domain]
    )


def test_longer_contexts_find_longer_rules():
    """A text whose next token is the sum of the last two, modulo 7: pairs say nothing, three
    tokens all.
    """
    text = [1, 1]
    rng = np.random.default_rng(1)
    while len(text) < 20_000:
        new = (text[-1] + text[-2]) % 7
        text.append(new if rng.random() < 0.9 else int(rng.integers(7)))
    store = store_of(sums=text)
    windows = {"sums": np.asarray(text[:4000], np.int32).reshape(100, 40)}
    found = floors.floors(store, {"sums": 1.0}, windows)
    entropy = -(0.9 + 0.1 / 7) * math.log(0.9 + 0.1 / 7) - 6 * (0.1 / 7) * math.log(0.1 / 7)
    assert found["unigram"]["sums"] == pytest.approx(math.log(7), abs=0.05)
    assert found["bigram"]["sums"] > 1.5
    # the first target of a window has one token before it, so it is a pair's
    assert found["5gram"]["sums"] == pytest.approx(entropy, abs=0.12)
    assert found["5gram"]["all"] == found["5gram"]["sums"]


def test_a_domain_counts_as_its_weight():
    """However long its text is."""
    store = store_of(long=[1] * 9000, short=[2] * 900)
    windows = {"long": np.ones((4, 5), np.int32)}
    even = floors.floors(store, {"long": 0.5, "short": 0.5}, windows)
    assert even["unigram"]["long"] == pytest.approx(math.log(2), abs=1e-2)


def test_weights_that_do_not_fit_are_refused():
    with pytest.raises(UserError) as raised:
        floors.floors(store_of(a=[1, 2, 3]), {"b": 1.0}, {})
    assert_user_error(raised, field="weights.b", remedy="known|did you mean|nearest|a")
