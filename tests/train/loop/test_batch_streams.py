"""Which members take part in a dispatch, and which batches it reads."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from stepladder.configs.core.build import rung
from stepladder.train.loop import batch_streams
from stepladder.train.loop.batch_streams import BatchStreams
from stepladder.train.loop.member import Divergence, Member
from tests.support import tiny

STEPS = 40  # of a run; a dispatch has 5, the steps between two rows


class Pack:
    """Stands for a pack's executable: a batch is what was asked for."""

    batch_rows = np.arange(8)

    @staticmethod
    def batch(counts, streams, tokens):
        return tuple(counts), tuple(streams), tuple(map(tuple, tokens))


@dataclass
class Runner(Member):
    """A member without record, program or store."""

    def __init__(self, slot, spec, step=0):
        self.slot, self.spec, self.step, self.steps_since = slot, spec, step, 0
        self.divergence = None

    def source(self, rows):
        return self.spec.hyper.data_seed


@pytest.fixture
def spec(tmp_path, monkeypatch):
    """A batch is (data seed, step)."""

    def numbered(source, start, stop):
        return iter([(source, step) for step in range(start, stop)])

    monkeypatch.setattr(batch_streams, "batches", numbered)
    return rung(tiny.config(tmp_path / "text"))


def reseeded(spec, seed):
    return replace(spec, hyper=replace(spec.hyper, data_seed=seed))


def dispatches(streams, diverging=()):
    """(slots, their batches by slot) of every dispatch; `diverging` are (slot, at step)."""
    upcoming = streams.next_dispatch()
    while dispatch := upcoming:
        for member in dispatch.members:
            member.advance()
        upcoming = streams.next_dispatch()
        for member in dispatch.members:
            if (member.slot, member.step) in diverging:
                member.divergence = Divergence(member.step, "told to")
        upcoming = streams.without_diverged(upcoming)
        counts, of, tokens = dispatch.batch
        yield {m.slot: tokens[of[m.slot]][: counts[m.slot]] for m in dispatch.members}


def read_by(slot, found):
    return [batch for one in found for batch in one.get(slot, ())]


def test_members_with_one_timeline_share_a_stream(spec):
    runs = [Runner(0, spec), Runner(1, reseeded(spec, 7)), Runner(2, spec)]
    found = list(dispatches(BatchStreams(runs, Pack())))
    assert [len(one) for one in found] == [3] * 8
    for slot, seed in ((0, spec.hyper.data_seed), (1, 7), (2, spec.hyper.data_seed)):
        assert read_by(slot, found) == [(seed, step) for step in range(STEPS)]


def test_those_behind_go_on_alone_until_they_have_caught_up(spec):
    found = list(dispatches(BatchStreams([Runner(0, spec, 20), Runner(1, spec, 5)], Pack())))
    assert [set(one) for one in found] == [{1}] * 3 + [{0, 1}] * 4
    for slot, first in ((0, 20), (1, 5)):
        assert [step for _, step in read_by(slot, found)] == list(range(first, STEPS))


@pytest.mark.parametrize("at", [10, 15, 20])
def test_one_that_diverges_behind_the_others_leaves_them_their_own_batches(spec, at):
    """Those that waited go on from their own step, wherever the stream was."""
    streams = BatchStreams([Runner(0, spec, 20), Runner(1, spec, 5)], Pack())
    found = list(dispatches(streams, diverging=[(1, at)]))
    assert [step for _, step in read_by(0, found)] == list(range(20, STEPS))
    assert [step for _, step in read_by(1, found)] == list(range(5, at))


def test_nothing_is_left_when_all_have_diverged(spec):
    runs = [Runner(0, spec), Runner(1, reseeded(spec, 7))]
    found = list(dispatches(BatchStreams(runs, Pack()), diverging=[(0, 5), (1, 10)]))
    assert [set(one) for one in found] == [{0, 1}, {1}]


def test_finished_runs_make_no_dispatch(spec):
    assert BatchStreams([Runner(0, spec, STEPS)], Pack()).next_dispatch() is None
