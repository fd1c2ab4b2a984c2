"""Several processes of one job, on this machine over gloo: the same training as one process,
killed, preempted, resumed by one.
"""

import json
import signal
import socket
import time

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from stepladder.configs.core.build import rung
from stepladder.configs.core.record import (
    CHECKPOINTS,
    FAILED,
    LINEAGE,
    METRICS,
    RUNS,
    STATUS,
    TRAIN,
)
from stepladder.train.data.read.batches import BatchSource
from stepladder.train.data.read.corpora import stores
from stepladder.train.hardware import arrays, mesh
from stepladder.train.hardware.machine import Machine
from stepladder.train.hardware.mesh import padded_members
from stepladder.train.ladder import consistency
from stepladder.train.processes.address import COORDINATOR, PROCESS, PROCESSES
from tests.support import tiny
from tests.support.processes import Job, free_port, words
from tests.support.records import rows

WITHIN = 30  # seconds in which all processes have gone after one of them
EVERY_STEP = dict(run__log_every=1, run__checkpoints=("10 steps", "20 steps"))
SLOWLY = dict(envs=[{"SLOW": "0.2"}] * 4)  # so that a signal finds steps that are still to come


def address(port: int, processes: int) -> dict[str, str]:
    """Environment of process 0."""
    return {COORDINATOR: f"localhost:{port}", PROCESSES: str(processes), PROCESS: "0"}


def test_what_differs_between_processes_is_named():
    here = {
        "run a": "1",
        "machine.layers": "scan",
        "package jax": "0.10.2",
        "file train/loop/run.py": "aa",
    }
    assert consistency.differences([here, here]) == []
    there = {**here, "machine.layers": "unroll"}
    assert consistency.differences([here, there, here]) == [
        "machine.layers is scan on process 0 2, unroll on process 1"
    ]
    del there["run a"]
    assert (
        consistency.differences([here, there])[0] == "run a is 1 on process 0, absent on process 1"
    )
    assert consistency.differences([here, {}], most=1)[1] == "and 3 more"


class Part:
    """A sharding of which this process has the devices at `mine`."""

    def __init__(self, whole: NamedSharding, mine: list[int]):
        self.whole, self.mine = whole, [jax.devices()[i] for i in mine]

    def addressable_devices_indices_map(self, shape):
        return {
            device: index
            for device, index in self.whole.devices_indices_map(shape).items()
            if device in self.mine
        }


@pytest.mark.parametrize(
    "shape, spec, mine, rows",
    [
        ((4, 1), ("data",), [0, 1], [0, 1, 2, 3]),
        ((2, 2), ("data",), [0, 1], [0, 1, 2, 3]),  # both parts of a layer, the same rows
        ((2, 2), ("data",), [0, 2], [0, 1, 2, 3, 4, 5, 6, 7]),
        # the order of the mesh is not that of the processes
        ((2, 2), (("tensor", "data"),), [0, 1], [0, 1, 4, 5]),
        ((1, 4), ("data",), [3], [0, 1, 2, 3, 4, 5, 6, 7]),
    ],
)
def test_a_process_reads_the_rows_of_its_devices(shape, spec, mine, rows):
    mesh = Mesh(np.array(jax.devices()[:4]).reshape(shape), ("data", "tensor"))
    sharding = NamedSharding(mesh, PartitionSpec(None, *spec))
    assert arrays.batch_rows(Part(sharding, mine), (10, 8, 5), axis=1).tolist() == rows


def test_a_small_pack_is_padded_to_the_devices_of_all_hosts(monkeypatch):
    machine = Machine(devices=4, pack_mode="map")
    assert [padded_members(machine, k, 8) for k in (2, 3, 5)] == [2, 4, 8]
    monkeypatch.setattr(mesh, "n_hosts", lambda found: 2)
    assert [padded_members(machine, k, 8) for k in (2, 3, 5)] == [4, 4, 8]


# From here on real processes


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """The text, and its token store."""
    folder = tmp_path_factory.mktemp("corpus")
    config = tiny.config(folder / "text")
    spec = rung(config)
    return (
        folder / "text",
        folder / "data",
        stores([spec], folder / "data", show=False)[spec.data.corpus],
    )


@pytest.fixture(scope="module")
def launch(root, corpus):
    """A job of the tiny ladder over the prepared corpus."""

    def start(count, folder, job=None, **changes):
        changes = {"machine__store": str(corpus[1]), **changes}
        return Job(words(root, corpus[0], folder / "work", **changes), count, folder, **(job or {}))

    return start


@pytest.fixture(scope="module")
def alone(launch, tmp_path_factory):
    """The unbroken run, in one process with two devices."""
    folder = tmp_path_factory.mktemp("alone")
    job = launch(1, folder, machine__devices=2, **EVERY_STEP)
    assert job.wait() == [0], job.said()
    return job


def record_of(job):
    (record,) = (job.folder / "work" / RUNS).iterdir()
    return record


def losses(job):
    return [r["loss"] for r in rows(record_of(job), TRAIN)]


def assert_same_rows(job, other):
    """Every step once, and the same numbers to 1e-4: what is left when sums over devices are taken
    in another order for a part of the steps, which grows along a run (5.4e-6 was seen after 40).
    """
    ours, theirs = rows(record_of(job)), rows(record_of(other))
    assert [(r["step"], r["kind"], r.get("domain")) for r in ours] == [
        (r["step"], r["kind"], r.get("domain")) for r in theirs
    ]
    np.testing.assert_allclose([r["loss"] for r in ours], [r["loss"] for r in theirs], rtol=1e-4)


def assert_same_data(job, store, first, **changes):
    """Bitwise the tokens of the stream from step `first` on, of the rows that each process reads;
    together they read all.
    """
    spec = rung(tiny.config(store.path.parent.parent / "text", **changes))
    source = BatchSource(
        store, spec.data.weights, spec.data.seq_len, spec.batch_size, spec.hyper.data_seed
    )
    read = job.read()
    for some, tokens in read:
        np.testing.assert_array_equal(tokens, source.steps(first, len(tokens))[:, some])
    assert set(np.concatenate([some for some, _ in read])) == set(range(spec.batch_size))


def committed(job, step):
    """Whether the checkpoint at `step` is there."""
    return lambda: any((job.folder / "work" / RUNS).glob(f"*/{CHECKPOINTS}/{step}"))


def test_two_processes_train_as_one(launch, tmp_path):
    """A few steps; the numbers are compared in the slow test."""
    job = launch(
        2,
        tmp_path,
        run__duration="4 steps",
        schedule__warmup="1 steps",
        run__evals=("4 steps",),
        run__log_every=1,
        run__eval_windows=2,
    )
    assert job.wait() == [0, 0], job.said()
    assert len(losses(job)) == 4 and [len(some) for some, _ in job.read()] == [4, 4]
    assert (
        "1 done" in job.said().split("process 1")[0]
        and "done" not in job.said().split("process 1")[1]
    ), "process 0 speaks"


def test_processes_with_different_configs_are_refused(root, corpus, tmp_path):
    each = [
        words(root, corpus[0], tmp_path / "work", **c)
        for c in ({}, {"optimizer__learning_rate": 3e-3})
    ]
    job = Job(each, 2, tmp_path)
    assert job.wait(60) == [1, 1], job.said()
    assert "processes differ: run run-" in job.said() and "absent on process 1" in job.said()
    assert not (tmp_path / "work").exists(), "nothing was written, nothing compiled"


@pytest.mark.parametrize(
    "present, said", [(1, "no answer within 2 s; start process 0"), (0, "process 1 did not come")]
)
def test_a_group_that_never_meets_ends_with_a_message(launch, tmp_path, present, said):
    job = launch(2, tmp_path, job=dict(timeout=2, present=[present]))
    assert job.wait(60) == [143]
    assert said in job.said() and COORDINATOR in job.said() and "Check failure" not in job.said()


def test_a_coordinator_without_its_port_says_so(root, corpus, tmp_path):
    with socket.create_server(("", 0)) as taken:
        layout = address(taken.getsockname()[1], processes=2)
        job = Job(words(root, corpus[0], tmp_path / "work"), 1, tmp_path, envs=[layout])
        assert job.wait(60) == [143]
    assert "cannot listen there (Address already in use)" in job.said()


@pytest.mark.slow
@pytest.mark.parametrize(
    "count, devices, mesh", [(2, 1, "auto"), (2, 2, "fsdp=4"), (4, 1, "fsdp=2,tensor=2")]
)
def test_processes_train_as_one_process(launch, alone, corpus, tmp_path, count, devices, mesh):
    """Whole copies of the state, a state in four parts, and layers shared by processes, which then
    read the same rows.
    """
    job = launch(count, tmp_path, machine__devices=devices, machine__mesh=mesh, **EVERY_STEP)
    assert job.wait() == [0] * count, job.said()
    assert_same_rows(job, alone)
    assert_same_data(job, corpus[2], 0)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [3, 6])
def test_devices_that_a_batch_leaves_over_repeat_the_work(launch, corpus, tmp_path, batch):
    """Four devices of two processes, and no more than one or two of them can share the sequences:
    every process takes part all the same.
    """
    job = launch(2, tmp_path / "two", machine__devices=2, run__batch_size=batch, **EVERY_STEP)
    assert job.wait() == [0, 0], job.said()
    single = launch(1, tmp_path / "one", machine__devices=1, run__batch_size=batch, **EVERY_STEP)
    assert single.wait() == [0], single.said()
    assert_same_rows(job, single)
    assert_same_data(job, corpus[2], 0, run__batch_size=batch)


@pytest.mark.slow
@pytest.mark.parametrize(
    "count, victim, how",
    [
        (2, 0, signal.SIGKILL),
        (2, 1, signal.SIGKILL),
        (4, 2, signal.SIGKILL),
        (2, 1, signal.SIGTERM),
        (4, 0, signal.SIGTERM),
    ],
)
def test_killed_and_resumed_by_one_process(launch, alone, corpus, tmp_path, count, victim, how):
    """SIGKILL to one process ends all within seconds; after SIGTERM to one, all save at the same
    step. One process with two devices then goes on from that checkpoint, or from a temporary one.
    """
    often = dict(machine__temporary_every=1.0, machine__mesh="auto" if count == 2 else "fsdp=4")
    job = launch(count, tmp_path, job=SLOWLY, **often, **EVERY_STEP)
    job.until(committed(job, 10))
    began = time.monotonic()
    job.processes[victim].send_signal(how)
    want = [143] * count
    want[victim] = want[victim] if how == signal.SIGTERM else -signal.SIGKILL
    assert job.wait(WITHIN) == want, job.said()
    print(f"all gone after {time.monotonic() - began:.1f} s")
    (path,) = (tmp_path / "work" / RUNS).glob(f"*/{CHECKPOINTS}")
    saved = max(int(p.name) for p in path.iterdir() if p.name.isdigit())
    if how == signal.SIGTERM:
        assert f"stopped at step {saved}" in job.said()
    assert_same_data(job, corpus[2], 0)
    for part in (tmp_path / "read").iterdir():
        part.unlink()
    resumed = launch(1, tmp_path, machine__devices=2, **EVERY_STEP)
    assert resumed.wait() == [0], resumed.said()
    assert_same_data(resumed, corpus[2], saved)
    assert_same_rows(resumed, alone)


@pytest.mark.slow
@pytest.mark.parametrize("group", [False, True])
def test_one_process_is_told_to_stop(launch, alone, tmp_path, group):
    """While it compiles it leaves at once, while it trains it saves first; by itself, or in a group
    of its own.
    """
    layout = address(free_port(), processes=1) if group else {}
    how = dict(job=dict(envs=[{**layout, "SLOW": "0.2"}]), machine__devices=2, **EVERY_STEP)
    for at, said in (
        (LINEAGE, "nothing is left to save"),
        (f"{CHECKPOINTS}/10", "stopped at step"),
    ):
        job = launch(1, tmp_path, **how)
        job.until(lambda at=at: any((tmp_path / "work" / RUNS).glob(f"*/{at}")))
        job.processes[0].send_signal(signal.SIGTERM)
        assert job.wait(WITHIN) == [143] and said in job.said(), job.said()
    job = launch(1, tmp_path, **how)
    assert job.wait() == [0], job.said()
    assert_same_rows(job, alone)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["during_checkpoint:1", "after_metrics:2", "after_checkpoint:1"])
def test_killed_at_a_fault_and_resumed_by_two(launch, alone, tmp_path, fault):
    """Process 0 dies in the middle of a checkpoint, between rows and checkpoint, between checkpoint
    and status.
    """
    job = launch(2, tmp_path, job=dict(envs=[{"STEPLADDER_FAULT": fault}, {}]), **EVERY_STEP)
    assert job.wait() == [-signal.SIGKILL, 143], job.said()
    resumed = launch(2, tmp_path, **EVERY_STEP)
    assert resumed.wait() == [0, 0], resumed.said()
    assert_same_rows(resumed, alone)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=lambda s: s.name)
def test_lost_before_the_first_step(launch, tmp_path, victim, how):
    """While the others compile, or wait for the one that does: no collective is under way that
    could fail.
    """
    job = launch(2, tmp_path, machine__compilation_cache="off")
    job.until(lambda: any((tmp_path / "work" / RUNS).glob(f"*/{LINEAGE}")))
    job.processes[victim].send_signal(how)
    want = [143, 143]
    want[victim] = want[victim] if how == signal.SIGTERM else -signal.SIGKILL
    assert job.wait(WITHIN) == want, job.said()


@pytest.mark.slow
def test_an_error_on_one_process_ends_all(launch, tmp_path):
    """Process 0 alone writes the record, and cannot."""
    job = launch(2, tmp_path)
    job.until(lambda: any((tmp_path / "work" / RUNS).glob(f"*/{LINEAGE}")))
    (record,) = (tmp_path / "work" / RUNS).iterdir()
    (record / METRICS).write_text("in the way")
    assert job.wait(WITHIN * 2) == [1, 1], job.said()
    assert job.said().count("cannot write") >= 2, "each says why"
    assert json.loads((record / STATUS).read_text())["state"] == FAILED


@pytest.mark.slow
def test_what_one_process_cannot_read_none_restores(launch, alone, corpus, tmp_path):
    job = launch(2, tmp_path, job=SLOWLY, **EVERY_STEP)
    job.until(committed(job, 20))
    job.processes[1].send_signal(signal.SIGTERM)
    assert job.wait() == [143, 143], job.said()
    (path,) = (tmp_path / "work" / RUNS).glob(f"*/{CHECKPOINTS}")
    saved = sorted(int(p.name) for p in path.iterdir() if p.name.isdigit())
    for part in (tmp_path / "read").iterdir():
        part.unlink()
    resumed = launch(2, tmp_path, job=dict(envs=[{}, {"UNREADABLE": str(saved[-1])}]), **EVERY_STEP)
    assert resumed.wait() == [0, 0], resumed.said()
    assert_same_data(resumed, corpus[2], saved[-2])
    assert_same_rows(resumed, alone)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["map", "vmap"])
def test_a_pack_over_two_processes_is_its_runs(root, corpus, tmp_path, mode):
    """Four seeds, packed, over two processes; killed, and resumed by one with the same mesh."""
    config = tmp_path / "ladder.py"
    config.write_text(LADDER)
    changes = dict(
        machine__store=str(corpus[1]), machine__pack="4", machine__pack_mode=mode, **EVERY_STEP
    )

    def start(count, name, devices, slow="0"):
        arguments = words(
            root, corpus[0], tmp_path / name / "work", machine__devices=devices, **changes
        )
        arguments = [
            f"--config={config}" if word.startswith("--config=") else word for word in arguments
        ]
        return Job(arguments, count, tmp_path / name, envs=[{"SLOW": slow}] * count)

    whole = start(1, "whole", 2)
    assert whole.wait() == [0], whole.said()
    job = start(2, "broken", 1, slow="0.2")
    job.until(committed(job, 10))
    job.processes[1].send_signal(signal.SIGTERM)
    assert job.wait() == [143, 143], job.said()
    again = start(2, "broken", 1)
    assert again.wait() == [0, 0], again.said()
    for record in sorted((tmp_path / "whole" / "work" / RUNS).iterdir()):
        other = tmp_path / "broken" / "work" / RUNS / record.name
        ours, theirs = ([(r["step"], r["loss"]) for r in rows(w, TRAIN)] for w in (record, other))
        assert len(ours) == 40
        np.testing.assert_allclose(np.array(ours), np.array(theirs), rtol=1e-6)


LADDER = '''
"""Four seeds of the base config."""
import dataclasses

from stepladder.configs import base

get_config = base.get_config


def ladder(config):
    (spec,) = base.ladder(config)
    return [
        dataclasses.replace(
            spec, name=f"s{seed}", hyper=dataclasses.replace(spec.hyper, seed=seed)
        )
        for seed in range(4)
    ]
'''
