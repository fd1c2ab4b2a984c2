"""Example i is a pure function of (recipe, seed, i): over hosts, restarts and threads; counts
follow the weights; epochs are whole.
"""

import itertools
import pickle
from collections import Counter

import numpy as np
import pytest

from stepladder.configs.core.errors import UserError
from stepladder.train.data import tokenizer as tokenizers
from stepladder.train.data.read import mixture
from stepladder.train.data.read.batches import BatchSource, batches, evaluation_windows
from stepladder.train.data.read.mixture import BLOCK, PERIOD, Mixture, check_epochs, epochs
from stepladder.train.data.read.permute import permute
from stepladder.train.data.read.store import SplitWriter, Store, write_manifest

SEQ = 16
SIZES = {"a": 1601, "b": 803, "c": 322}  # training tokens: 100, 50 and 20 windows
WEIGHTS = (("a", 0.5), ("b", 0.3), ("c", 0.2))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Three domains whose tokens say where they are: token t of domain d is (t * 3 + d) % 256."""
    folder = tmp_path_factory.mktemp("store")
    tokenizer = tokenizers.ByteTokenizer()
    (folder / tokenizers.FILE).write_text(tokenizer.to_json(), encoding="utf-8")
    domains = {}
    for d, (name, size) in enumerate(SIZES.items()):
        domains[name] = {}
        for split, n in (("train", size), ("validation", 200)):
            writer = SplitWriter(
                folder, name, split, "uint16", tokenizer.eos, tokenizer.token_bytes
            )
            writer.write([(np.arange(n - 1) * 3 + d) % 256])
            domains[name][split] = writer.commit()
    made = {"name": "bytes", "hash": tokenizer.hash, "vocab_size": 257, "eos": 256}
    write_manifest(folder, {"dtype": "uint16", "tokenizer": made, "domains": domains})
    return Store.open(folder)


def source(store, batch=32, seed=7, weights=WEIGHTS, rows=None):
    return BatchSource(store, weights, SEQ, batch, seed, rows)


def test_rows_are_the_windows_they_say(store):
    whole = source(store)
    (batch,) = whole.steps(3, 1)
    assert batch.shape == (32, SEQ + 1) and batch.dtype == np.int32
    for r in range(32):
        i = 3 * 32 + r
        start = whole.window_of(i) * SEQ
        assert (
            batch[r] == store.tokens(whole.domain_of(i), "train")[start : start + SEQ + 1]
        ).all()


@pytest.mark.parametrize("rows", [range(32), range(8, 16), [3], [0, 1, 16, 17, 31]], ids=str)
def test_any_rows_are_of_the_same_stream(store, rows):
    """Of one process, of one of four, of processes that the mesh deals the rows in another
    order.
    """
    part = source(store, rows=np.array(rows))
    for step in (0, 31, 32, 1000):
        assert (part.steps(step, 3) == source(store).steps(step, 3)[:, rows]).all()
    assert (part[5] == part.steps(5 * part.group, part.group)).all()
    assert (next(batches(part, 7, 9)) == part.steps(7, 1)[0]).all()


@pytest.mark.parametrize("start", [0, 1, 33, 70])
def test_restart_at_any_step_continues_the_stream(store, start):
    unbroken = source(store).steps(0, 80)
    resumed = list(batches(source(store), start, 80, prefetch=3, threads=2))
    assert len(resumed) == 80 - start and 1 < source(store).group < 80
    assert all((a == b).all() for a, b in zip(unbroken[start:], resumed))


def test_the_stream_of_examples_does_not_depend_on_the_batch_size(store):
    def flat(b):
        return source(store, batch=b).steps(0, 96 // b).reshape(96, -1)

    assert (flat(32) == flat(8)).all() and (flat(32) == flat(48)).all()


def test_a_source_pickles_after_use(store):
    used = source(store)
    expected = used[5]
    assert (pickle.loads(pickle.dumps(used))[5] == expected).all()


def test_seed_and_block_change_the_order(store):
    assert (source(store, seed=1).steps(0, 1) != source(store, seed=2).steps(0, 1)).any()

    def domains(block):
        return [source(store).domain_of(block * BLOCK + i) for i in range(64)]

    assert domains(0) != domains(1)


def test_batches_are_mixed_and_domain_counts_follow_the_weights(store):
    mixed = source(store)
    for step in range(20):
        counts = Counter(mixed.domain_of(step * 32 + r) for r in range(32))
        for name, weight in WEIGHTS:  # hypergeometric: within 4 standard deviations
            assert abs(counts[name] - 32 * weight) <= 4 * (32 * weight * (1 - weight)) ** 0.5
    total = Counter(mixed.domain_of(i) for i in range(BLOCK))
    assert all(abs(total[name] - BLOCK * weight) <= 1 for name, weight in WEIGHTS)


@pytest.mark.parametrize(
    "weights",
    [
        WEIGHTS,
        (("a", 0.9995), ("b", 0.0003), ("c", 0.0002)),
        (("a", 1 / 3), ("b", 1 / 3), ("c", 1 / 3)),
    ],
)
def test_counts_are_exact_over_blocks_also_for_tiny_weights(weights):
    mix = Mixture(weights, {"a": 1000, "b": 1000, "c": 1000}, 0)
    assert (mix._counts.sum(1) == BLOCK).all() and (mix._counts >= 0).all()
    for blocks in (1, 7, 64, PERIOD, 5 * PERIOD + 3):
        draws = mix.draws(blocks * BLOCK)
        assert sum(draws.values()) == blocks * BLOCK
        for name, weight in weights:
            # bit reversal: the error stays logarithmic
            assert abs(draws[name] - weight * blocks * BLOCK) <= 8
    for b in (0, 5):  # the closed form is the count of the rows themselves
        domain, _ = mix.rows(0, (b + 1) * BLOCK)
        assert np.bincount(domain, minlength=3).tolist() == list(
            mix.draws((b + 1) * BLOCK).values()
        )


def test_each_window_once_per_epoch_in_another_order(store):
    mixed = source(store)
    seen = {name: [] for name in SIZES}
    for i in range(3 * BLOCK):
        seen[mixed.domain_of(i)].append(mixed.window_of(i))
    for name, size in SIZES.items():
        n = (size - 1) // SEQ
        rounds = [seen[name][k : k + n] for k in range(0, len(seen[name]) - n + 1, n)]
        assert len(rounds) >= 5 and all(sorted(r) == list(range(n)) for r in rounds)
        assert rounds[0] != rounds[1] and rounds[0] != list(range(n))


def test_a_domain_is_read_in_one_order_whatever_the_recipe(store):
    def order(weights):
        s = source(store, weights=weights)
        return [s.window_of(i) for i in range(BLOCK) if s.domain_of(i) == "b"][:50]

    assert order(WEIGHTS) == order((("c", 0.6), ("b", 0.4)))


def test_far_indices_cost_the_same_and_stay_in_range(store):
    far = source(store)
    assert far[(1 << 40) - 1].shape == (far.group, 32, SEQ + 1)


@pytest.mark.parametrize(
    "weights, part",
    [
        ((("a", 0.5), ("bb", 0.5)), "did you mean 'b'"),
        ((("a", 1.5), ("b", -0.5)), "weights.b=-0.5"),
        ((("a", 0.5), ("b", 0.4)), "sum to 0.9"),
        ((("a", 0.5), ("a", 0.5)), "2 times"),
        ((("a", float("nan")),), "weights.a=nan"),
        ((("a", 1 - 1e-8), ("b", 1e-8)), "finest"),
    ],
)
def test_bad_weights(store, weights, part):
    with pytest.raises(UserError) as e:
        source(store, weights=weights)
    assert part in str(e.value) and "\n" not in str(e.value)


def test_bad_shapes(store):
    for rows in ([30], [-1, 0], []):
        with pytest.raises(UserError, match="must be some of 0 to 29"):
            source(store, batch=30, rows=np.array(rows, int))
    with pytest.raises(UserError, match="seq_len=5000: domain a has 1,601 training tokens"):
        BatchSource(store, WEIGHTS, 5000, 8, 0)
    with pytest.raises(UserError, match="start_step=5"):
        batches(source(store), 5, 4)
    assert list(batches(source(store), 5, 5)) == []


def test_epochs_asked_and_available(store):
    assert epochs(store, WEIGHTS, SEQ, 2 * BLOCK)["c"] == pytest.approx(
        2 * BLOCK * 0.2 / 20, rel=0.02
    )
    assert check_epochs(store, (("a", 1.0),), SEQ, 100, 1.0) == {"a": 1.0}
    with pytest.raises(
        UserError,
        match=r"max_epochs=1: the run asks 1,616 tokens of a, which has 1,600 \(1.01 epochs\)",
    ):
        check_epochs(store, (("a", 1.0),), SEQ, 101, 1.0)


def test_evaluation_windows(store):
    few = evaluation_windows(store, "a", SEQ, 5)
    all_of_them = evaluation_windows(store, "a", SEQ, 999)
    assert (
        few.shape == (5, SEQ + 1)
        and few.dtype == np.int32
        and all_of_them.shape == (199 // SEQ, SEQ + 1)
    )
    assert {tuple(row) for row in few} < {tuple(row) for row in all_of_them}
    assert (all_of_them[:-1, -1] == all_of_them[1:, 0]).all()  # side by side: no target twice
    with pytest.raises(UserError, match="seq_len=300: domain a has 200 validation tokens"):
        evaluation_windows(store, "a", 300, 1)
    with pytest.raises(UserError, match="domain=aa"):
        evaluation_windows(store, "aa", SEQ, 1)


def test_golden_order():
    """Changing this order would change every run: raise the store's format, or do not."""
    mix = Mixture(WEIGHTS, {"a": 100, "b": 50, "c": 20}, seed=7)
    domain, window = mix.rows(0, 8)
    assert list(itertools.chain(domain.tolist(), window.tolist())) == [
        1,
        0,
        1,
        1,
        0,
        0,
        0,
        0,
        22,
        96,
        24,
        48,
        95,
        11,
        61,
        91,
    ]


@pytest.mark.parametrize("n", [1, 2, 3, 20, 64, 65, 1000])
def test_permute_is_a_bijection_that_mixes(n):
    key = np.full(n, 5, np.uint64)
    order = permute(np.arange(n), n, key)
    assert sorted(order) == list(range(n))
    if n >= 20:
        assert (order != permute(np.arange(n), n, key + np.uint64(1))).mean() > 0.5
        assert (np.diff(order) == 1).mean() < 0.3


def test_units_sum_and_are_nearest():
    units = mixture._units(np.array([1 / 3, 1 / 3, 1 / 3]))
    assert units.sum() == mixture.UNITS and units.max() - units.min() <= 1
