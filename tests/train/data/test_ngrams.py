"""N-gram baselines against a slow reference, a known source, and what smoothing must do."""

import itertools

import numpy as np
import pytest

from stepladder.configs.core.errors import UserError
from stepladder.train.data import ngrams
from stepladder.train.data.prepare.prepare import prepare
from stepladder.train.data.read.batches import evaluation_windows
from tests.train.data.test_prepare import jsonl, spec, text


def chain(n, seed, V=7):
    """Tokens of a Markov chain whose entropy rate is known."""
    rng = np.random.default_rng(seed)
    P = np.random.default_rng(0).dirichlet(np.full(V, 0.5), V)
    tokens = [0]
    for u in rng.random(n - 1):
        tokens.append(int(np.searchsorted(np.cumsum(P[tokens[-1]]), u).clip(0, V - 1)))
    values, vectors = np.linalg.eig(P.T)
    stationary = np.real(vectors[:, np.argmax(values.real)])
    stationary /= stationary.sum()
    logs = np.log(np.maximum(P, 1e-300))
    return (
        np.array(tokens),
        float(-(stationary @ (P * logs).sum(1))),
        float(-(stationary @ np.log(stationary))),
    )


def test_a_markov_chain_is_learnt_to_its_entropy():
    (train, h2, h1), (held, *_), (test, *_) = chain(60_000, 1), chain(4000, 2), chain(40_000, 3)
    model = ngrams.fit({"x": ngrams.count(train, 7)}, {"x": ngrams.count(held, 7)}, {"x": 1.0}, 7)
    assert model.bigram(ngrams.count(test, 7)) == pytest.approx(h2, abs=0.02)
    assert model.unigram(ngrams.count(test, 7)) == pytest.approx(h1, abs=0.02)


@pytest.mark.parametrize("vocabulary", [7, 5000])
def test_counts_equal_a_loop_also_in_parts(monkeypatch, vocabulary):
    tokens = np.random.default_rng(0).integers(0, vocabulary, 1001)
    monkeypatch.setattr(ngrams, "_CHUNK", 64)
    found = ngrams.count(tokens, vocabulary)
    expected: dict = {}
    for a, b in itertools.pairwise(tokens):
        expected[a * vocabulary + b] = expected.get(a * vocabulary + b, 0) + 1
    assert (
        dict(zip(found.keys.tolist(), found.counts.tolist())) == expected
        and (np.diff(found.keys) > 0).all()
    )


def test_probabilities_sum_to_one_and_mixture_weights_count():
    rng = np.random.default_rng(0)
    a, b = (
        ngrams.count(rng.integers(low, low + 5, size), 8) for low, size in ((0, 5000), (3, 300))
    )
    held = {"a": a, "b": b}
    model = ngrams.fit(held, held, {"a": 0.5, "b": 0.5}, 8)
    assert model.probabilities().sum() == pytest.approx(1) and (model.probabilities() > 0).all()
    for first in range(8):
        every = ngrams.Pairs(np.arange(8) + first * 8, np.ones(8))
        total = sum(
            np.exp(-model.bigram(ngrams.Pairs(every.keys[i : i + 1], np.ones(1)))) for i in range(8)
        )
        assert total == pytest.approx(1)
    # 300 tokens of b at half the weight count as much as 5,000 of a: only b holds token 7, only a
    # token 0
    assert model.probabilities()[7] == pytest.approx(model.probabilities()[0], rel=0.35)
    only = ngrams.fit(held, held, {"a": 1.0, "b": 0.0}, 8)
    assert only.unigram(b) > model.unigram(b)


def test_baselines_of_a_store_rank_the_matching_domain_first(tmp_path):
    sources = {
        "letters": jsonl(tmp_path / "a.jsonl", [text(i) for i in range(40)]),
        "digits": jsonl(
            tmp_path / "b.jsonl", [" ".join(str(k * i) for k in range(200)) for i in range(1, 41)]
        ),
    }
    store = prepare(spec(sources), tmp_path / "s", show=False)
    windows = {d: evaluation_windows(store, d, 32, 16) for d in sources}
    recipes = {
        "letters": {"letters": 1.0},
        "digits": {"digits": 1.0},
        "both": {"letters": 0.5, "digits": 0.5},
    }
    found = ngrams.baselines(store, recipes, windows)
    for kind in ("unigram", "bigram"):
        for domain in sources:
            own, both, other = (
                found[kind][r][domain]
                for r in (domain, "both", next(s for s in sources if s != domain))
            )
            assert own < both < other
    assert all(
        found["bigram"][r][d] < found["unigram"][r][d]
        for r in ("letters", "both")
        for d in ("letters",)
    )
    # against counting by hand: the unigram loss of the scored tokens
    tokens = store.tokens("letters", "train")
    cut = int(len(tokens) * (1 - ngrams.HELD_OUT))
    alpha = found["smoothing"]["letters"]["alpha"]
    counts = np.bincount(tokens[1:cut], minlength=store.vocab_size) + alpha
    expected = -np.log(counts / counts.sum())[windows["letters"][:, 1:]].mean()
    assert found["unigram"]["letters"]["letters"] == pytest.approx(expected, rel=1e-9)
    with pytest.raises(UserError, match="no such domain"):
        ngrams.baselines(store, {"r": {"nothing": 1.0}}, windows)
