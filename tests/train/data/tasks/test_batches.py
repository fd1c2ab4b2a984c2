"""Batches of a task: an exact share of replayed rows, and the same stream however it is read."""

import pickle
from fractions import Fraction

import numpy as np
import pytest

from stepladder.configs.core.errors import UserError
from stepladder.configs.core.spec import TaskSpec
from stepladder.train.data.read.batches import BatchSource, batches
from stepladder.train.data.tasks.batches import TaskSource, replayed
from stepladder.train.data.tasks.task import load
from tests.support.errors import assert_user_error

SEQ, BATCH = 32, 6
WEIGHTS = (("a", 0.5), ("b", 0.5))
TASK = TaskSpec("sums", "sums:2*200")
SEEN = (("a", 40), ("b", 7))


def text(store):
    return BatchSource(store, WEIGHTS, SEQ, BATCH, 7, seen=SEEN)


def source(store, replay=0.25, rows=None, seed=7):
    task = load(TASK, store, SEQ)
    return TaskSource(store, WEIGHTS, SEQ, BATCH, seed, rows, SEEN, task=task, replay=replay)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.29, 1 / 3, 0.57, 0.999])
def test_the_share_is_exact_at_every_prefix(share):
    exact = Fraction(share).limit_denominator(1000)
    counts = replayed(np.arange(3001), share)
    assert counts.tolist() == [int(n * exact) for n in range(3001)]
    assert set(np.diff(counts)) <= {0, 1}, "a row is one or none"


@pytest.mark.parametrize("replay", [0.0, 0.25, 0.29])
def test_rows_are_those_of_the_mixture_and_of_the_task_in_order(store, replay):
    made = source(store, replay)
    rows = made.steps(0, 50).reshape(-1, SEQ + 1)
    k = t = 0
    for n, row in enumerate(rows):
        if int(replayed(n + 1, replay)) > int(replayed(n, replay)):
            assert (row == text(store).examples(np.array([k]))[0]).all()
            assert (row >= 0).all(), "text counts everywhere"
            k += 1
        else:
            assert (row == made.packing.rows(np.array([t]))[0]).all()
            assert (row < 0).any()
            t += 1
    assert k == int(replayed(len(rows), replay))


def test_the_mixture_is_read_on_from_what_was_seen(store):
    fresh = BatchSource(store, WEIGHTS, SEQ, BATCH, 7)
    assert not (fresh.examples(np.arange(5)) == text(store).examples(np.arange(5))).all()


@pytest.mark.parametrize("replay", [0.0, 0.25])
def test_any_start_any_rows_and_any_copy_continue_the_stream(store, replay):
    whole = source(store, replay).steps(0, 120)
    assert (source(store, replay).steps(5, 3) == whole[5:8]).all()
    copy = pickle.loads(pickle.dumps(source(store, replay)))
    assert (copy.steps(90, 30) == whole[90:]).all(), "also into a later epoch"
    assert copy.packing.place(90 * BATCH * 3 // 4)[0] > 1
    part = source(store, replay, rows=np.array([5, 0, 2]))
    assert (part.steps(5, 3) == whole[5:8][:, [5, 0, 2]]).all()
    assert (part[2] == part.steps(2 * part.group, part.group)).all()
    assert (np.stack(list(batches(part, 33, 37))) == whole[33:37][:, [5, 0, 2]]).all()
    assert not (source(store, replay, seed=8).steps(5, 3) == whole[5:8]).all()


@pytest.mark.parametrize("replay", [-0.1, 1.0, float("nan")])
def test_a_share_that_cannot_be(store, replay):
    with pytest.raises(UserError) as raised:
        source(store, replay)
    assert_user_error(raised, field="data.replay", value=replay, remedy="0.1")
