"""Rows of a task: whole examples with exact marks, each once an epoch, a function of their
number.
"""

import itertools
import pickle
from collections import Counter

import numpy as np
import pytest

from stepladder.train.data import tokenizer as tokenizers
from stepladder.train.data.tasks.examples import Example
from stepladder.train.data.tasks.packing import COUNTED, Packing, pack, tokenise

WIDTH, END = 33, 256
EXAMPLES = [Example(f"prompt {i} " + "p" * (i % 7), f" done {i}\u00e4") for i in range(120)]


def bpe():
    return tokenizers.train("bpe:270", ["prompt done " * 50 + " ".join(map(str, range(200)))])


TOKENIZERS = {"bytes": tokenizers.ByteTokenizer, "bpe": bpe}


def packing(counted="completion", seed=3, examples=EXAMPLES, width=WIDTH, tokenizer=None):
    tokenizer = tokenizer or tokenizers.ByteTokenizer()
    return Packing(tokenise(examples, tokenizer, counted), width, tokenizer.eos, seed)


def unpacked(row, end):
    """The examples of a row, each with its end, and what is behind the last one."""
    ends = np.flatnonzero(row == end)
    return np.split(row, ends + 1)


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("counted", COUNTED)
def test_an_epoch_is_every_example_once_and_whole_with_exact_marks(kind, counted):
    """Decoded again: what is marked is the prompt (or its first token), what is not the
    completion.
    """
    tokenizer = TOKENIZERS[kind]()
    made = packing(counted, tokenizer=tokenizer)
    rows = made.rows(np.arange(made.rows_in(0)))
    assert rows.shape == (made.rows_in(0), WIDTH) and rows.dtype == np.int32
    seen = Counter()
    for row in rows:
        *examples, rest = unpacked(row, tokenizer.eos)
        assert (rest == ~tokenizer.eos).all(), "filled up with marked ends"
        for ids in examples:
            marked = ids < 0
            read = np.where(marked, ~ids, ids)
            count = int(marked.sum())
            assert marked[:count].all(), "the marks come first"
            if counted == "completion":
                prompt, completion = tokenizer.decode(read[:count]), tokenizer.decode(read[count:])
                seen[Example(prompt, completion)] += 1
            else:
                assert count == 1
                whole = tokenizer.decode(read)
                seen[next(e for e in EXAMPLES if e.prompt + e.completion == whole)] += 1
    assert seen == Counter(EXAMPLES)


def test_rows_are_a_function_of_their_number():
    whole = packing().rows(np.arange(200))
    for numbers in ([150], [7, 8], [199, 0, 37, 37]):
        assert (packing().rows(np.array(numbers)) == whole[numbers]).all()
    assert (pickle.loads(pickle.dumps(packing())).rows(np.arange(200)) == whole).all()
    assert not (packing(seed=4).rows(np.arange(200)) == whole).all()


def test_every_epoch_has_an_order_of_its_own():
    made, first = packing(), 0
    orders = []
    for epoch in range(4):
        numbers = np.arange(first, first + made.rows_in(epoch))
        assert [made.place(int(n)) for n in numbers] == [(epoch, r) for r in range(len(numbers))]
        order = np.concatenate([made.examples_of(int(n)) for n in numbers])
        assert sorted(order) == list(range(len(EXAMPLES)))
        orders.append(order.tolist())
        first += len(numbers)
    assert len({tuple(order) for order in orders}) == 4


def test_next_fit():
    """A row ends where the next example does not fit, and nowhere else."""
    lengths = np.random.default_rng(0).integers(1, 11, 1000)
    for epoch in range(3):
        made = pack(lengths, 10, 0, epoch)
        filled = [lengths[made.order[a:b]] for a, b in itertools.pairwise(made.first)]
        for row, following in itertools.pairwise(filled):
            assert row.sum() <= 10 < row.sum() + following[0]
        assert filled[-1].sum() <= 10 and sum(map(len, filled)) == 1000


def test_an_example_as_long_as_a_row_fills_it():
    example = Example("a" * 20, "b" * (WIDTH - 21))
    row = packing(examples=[example]).rows(np.array([5]))[0]
    assert (row[:20] == ~ord("a")).all() and row[-1] == END and (row[20:-1] == ord("b")).all()
