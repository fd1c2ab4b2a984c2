"""Branches with other data than their parent's: the rows they read, packs, kills, refusals."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from stepladder.configs.core.branches.cooldown import with_checkpoints
from stepladder.configs.core.branches.mixture import branch, specialise
from stepladder.configs.core.build import rung
from stepladder.configs.core.errors import UserError
from stepladder.configs.core.load import Loaded
from stepladder.configs.core.record import (
    CHECKPOINTS,
    DONE,
    EVAL,
    FAILED,
    LINEAGE,
    RUNS,
    STATUS,
)
from stepladder.configs.core.spec import ParentSpec
from stepladder.train.data.read.batches import BatchSource
from stepladder.train.data.read.corpora import stores
from stepladder.train.hardware.machine import Machine
from stepladder.train.ladder.ladder import run_ladder
from stepladder.train.loop.run import run, run_pack
from stepladder.train.processes.preemption import Preempted, Preemption
from stepladder.train.record.checkpoint import Checkpoints
from stepladder.train.step.program import Program
from tests.support import tiny
from tests.support.errors import assert_user_error
from tests.support.records import rows

MACHINE = Machine(devices=1, tensorboard=False)
EVEN = {"digits": 0.5, "words": 0.5}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(config, trunk of 40 steps, its store, the workdir in which it is done)."""
    folder = tmp_path_factory.mktemp("trunk")
    config = tiny.config(folder / "text", data__max_epochs=40.0)
    trunk = with_checkpoints(rung(config, role="trunk"), 16, 32)
    store = next(iter(stores([trunk], folder / "data", show=False).values()))
    assert run(trunk, folder, store, MACHINE) == DONE
    return config, trunk, store, folder


@pytest.fixture
def workdir(trained, tmp_path):
    shutil.copytree(trained[3] / RUNS, tmp_path / RUNS)
    return tmp_path


def record_of(workdir, spec):
    return workdir / RUNS / spec.run_id


def state_at(workdir, spec, step=None):
    checkpoints = Checkpoints(record_of(workdir, spec) / CHECKPOINTS, read_only=True)
    state, _ = checkpoints.restore(Program(spec, MACHINE).abstract_state, step)
    checkpoints.close()
    return state


def assert_same_state(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def source_of(spec, store):
    data = spec.data
    return BatchSource(
        store, data.weights, data.seq_len, spec.batch_size, spec.hyper.data_seed, seen=data.seen
    )


def windows_of(source, first, count):
    return [(source.domain_of(i), source.window_of(i)) for i in range(first, first + count)]


def test_a_specialist_reads_text_that_its_trunk_did_not(trained):
    """In order, the windows of its domain's epoch after those of the trunk."""
    _, trunk, store, _ = trained
    child = specialise(trunk, 16, 8, "words")
    read_by_trunk = windows_of(source_of(trunk, store), 0, 16 * trunk.batch_size)
    mine = windows_of(source_of(child, store), 0, 8 * child.batch_size)
    start = dict(child.data.seen)["words"]
    alone = dataclasses.replace(child, data=dataclasses.replace(child.data, seen=()))
    in_order = windows_of(source_of(alone, store), 0, start + len(mine))
    assert len(set(in_order)) == len(in_order), "one epoch"
    assert mine == in_order[start:]
    assert {pair for pair in read_by_trunk if pair[0] == "words"} < set(in_order[:start])


def test_the_rows_of_a_branch_are_those_of_its_cursor(trained, workdir, monkeypatch):
    """What the trainer reads is steps 0, 1, ... of the branch's own stream."""
    from stepladder.train.loop import batch_streams

    _, trunk, store, _ = trained
    child = specialise(trunk, 16, 8, "words")
    read = []

    def noted(source, start, stop):
        for batch in batches(source, start, stop):
            read.append(batch)
            yield batch

    batches = batch_streams.batches
    monkeypatch.setattr(batch_streams, "batches", noted)
    assert run(child, workdir, store, MACHINE) == DONE
    np.testing.assert_array_equal(np.stack(read), source_of(child, store).steps(0, 8))


def test_a_branch_starts_from_the_parents_state_and_says_so(trained, workdir):
    _, trunk, store, _ = trained
    child = branch("continue", trunk, 16, 8, {"digits": 0.9, "words": 0.1})
    assert run(child, workdir, store, MACHINE) == DONE
    lineage = json.loads((record_of(workdir, child) / LINEAGE).read_text())
    assert lineage["parent"] == {"run_id": trunk.run_id, "step": 16, "reset": ["data"]}
    state = state_at(workdir, child)
    assert int(state["step"]) == 24
    counts = [int(leaf) for leaf in jax.tree.leaves(state["opt"]) if leaf.dtype == np.int32]
    assert set(counts) == {24}, "the moments go on"
    assert {r["domain"] for r in rows(record_of(workdir, child), EVAL)} == {"all", *EVEN}


def test_a_schedule_of_its_own_starts_the_moments_anew_where_asked(trained, workdir):
    _, trunk, store, _ = trained
    child = branch("continue", trunk, 40, 6, EVEN, warmup_steps=2, reset=("optimizer", "data"))
    assert run(child, workdir, store, MACHINE) == DONE
    state = state_at(workdir, child)
    counts = [int(leaf) for leaf in jax.tree.leaves(state["opt"]) if leaf.dtype == np.int32]
    assert int(state["step"]) == 6 and set(counts) == {6}


@pytest.mark.slow
def test_branches_in_a_pack_are_those_alone(trained, workdir, tmp_path):
    """Two domains and two rates in one executable, bit for bit."""
    _, trunk, store, folder = trained
    children = [
        specialise(trunk, 16, 8, "words"),
        specialise(trunk, 16, 8, "digits"),
        specialise(trunk, 16, 8, "words", learning_rate=1e-3, name="slow"),
        specialise(trunk, 32, 8, "words"),
    ]
    corpora = {trunk.data.corpus: store}
    states = run_pack(children, workdir, corpora, MACHINE, members=4, streams=3)
    assert set(states.values()) == {DONE}
    alone = tmp_path / "alone"
    shutil.copytree(folder / RUNS, alone / RUNS)
    for child in children:
        assert run(child, alone, store, MACHINE) == DONE
        assert_same_state(state_at(workdir, child), state_at(alone, child))
        assert rows(record_of(workdir, child)) == rows(record_of(alone, child))


def test_a_branch_stopped_and_repeated_is_the_unbroken_one(trained, workdir, tmp_path):
    _, trunk, store, folder = trained
    child = specialise(trunk, 16, 20, "words", decay_fraction=0.2)
    whole = tmp_path / "whole"
    shutil.copytree(folder / RUNS, whole / RUNS)
    assert run(child, whole, store, MACHINE) == DONE
    stop = Preemption()

    def progress(_, step, __):
        if step == 25:
            stop.requested = True

    with pytest.raises(Preempted):
        run(child, workdir, store, MACHINE, preemption=stop, progress=progress)
    assert run(child, workdir, store, MACHINE) == DONE
    assert_same_state(state_at(workdir, child), state_at(whole, child))
    assert rows(record_of(workdir, child)) == rows(record_of(whole, child))


def test_a_branch_may_read_another_corpus(trained, workdir, tmp_path):
    """Its own fingerprint is its lineage's; the tokens are the trunk's."""
    _, trunk, _, _ = trained
    folder = tmp_path / "other"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(60):
        words = " ".join(str(number) for number in rng.integers(10**6, size=300))
        (folder / f"{i}.txt").write_text(f"Room {i}: {words}")
    corpus = dataclasses.replace(
        trunk.data.corpus, name="other", sources=(("rooms", str(folder / "*.txt")),)
    )
    data = dataclasses.replace(trunk.data, corpus=corpus, weights=(("rooms", 1.0),), validation=())
    child = dataclasses.replace(
        trunk,
        name="elsewhere",
        data=data,
        steps=20,
        eval_steps=(20,),
        checkpoint_steps=(20,),
        parent=ParentSpec(trunk.run_id, 16, ("data",)),
    )
    other = stores([child], tmp_path / "data", show=False)[corpus]
    assert run(child, workdir, other, MACHINE) == DONE
    lineage = json.loads((record_of(workdir, child) / LINEAGE).read_text())
    assert lineage["data_fingerprint"] == other.fingerprint


def test_another_text_under_the_parents_corpus_is_refused(trained, workdir, monkeypatch):
    _, trunk, store, _ = trained
    child = specialise(trunk, 16, 8, "words")
    monkeypatch.setitem(store.manifest, "fingerprint", "0" * 16)
    with pytest.raises(UserError) as raised:
        run(child, workdir, store, MACHINE)
    assert_user_error(raised, field="data.fingerprint", remedy="restore that token store")


def test_a_second_command_trains_branches_of_a_trunk_under_way(trained, tmp_path):
    """`run --only`: the branch whose checkpoint is there trains, the other is said to wait; the
    trunk is not touched.
    """
    config, trunk, store, folder = trained
    machine = config.copy_and_resolve_references()
    machine.unlock()
    machine.machine.store, machine.machine.devices = str(folder / "data"), 1
    early, late = specialise(trunk, 16, 8, "words"), specialise(trunk, 32, 8, "words")
    loaded = Loaded("x", machine, [trunk, early, late])
    stop = Preemption()

    def progress(_, step, __):
        if step == 20:
            stop.requested = True

    with pytest.raises(Preempted):
        run(trunk, tmp_path, store, MACHINE, preemption=stop, progress=progress)
    before = json.loads((record_of(tmp_path, trunk) / STATUS).read_text())
    states = run_ladder(loaded, tmp_path, quiet=True, only={early.run_id, late.run_id})
    assert states == {early.run_id: DONE, late.run_id: FAILED}
    reason = json.loads((record_of(tmp_path, late) / STATUS).read_text())["reason"]
    assert "no checkpoint at step 32 yet" in reason
    assert json.loads((record_of(tmp_path, trunk) / STATUS).read_text()) == before
    assert set(run_ladder(loaded, tmp_path, quiet=True).values()) == {DONE}
