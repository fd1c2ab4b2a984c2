"""A run from start to end, again when done, resumed, branched, diverged and refused; in this
process, on a tiny ladder.
"""

import dataclasses
import hashlib
import json
import shutil

import jax
import numpy as np
import pytest

from stepladder.configs.core.branches.cooldown import cooldown, with_checkpoints
from stepladder.configs.core.build import rung
from stepladder.configs.core.errors import UserError
from stepladder.configs.core.load import Loaded
from stepladder.configs.core.record import (
    CHECKPOINTS,
    DIVERGED,
    DONE,
    EVAL,
    LINEAGE,
    LINEAGE_FIELDS,
    REQUIRED,
    RUNNING,
    RUNS,
    STATUS,
    TIMING,
    TRAIN,
)
from stepladder.configs.core.spec import ParentSpec
from stepladder.train.data.read.corpora import stores
from stepladder.train.hardware.machine import Machine
from stepladder.train.ladder.ladder import run_ladder
from stepladder.train.loop import run as run_module
from stepladder.train.loop.run import run
from stepladder.train.processes.preemption import Preempted, Preemption
from stepladder.train.record.checkpoint import Checkpoints
from stepladder.train.record.status import table
from stepladder.train.step.executable import SingleRun
from stepladder.train.step.program import Program
from stepladder.train.step.programs import Programs
from tests.support import tiny
from tests.support.errors import assert_user_error
from tests.support.records import rows

MACHINE = Machine(devices=2, tensorboard=False)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    config = tiny.config(folder / "text")
    spec = rung(config)
    store = next(iter(stores([spec], folder / "data", show=False).values()))
    return config, spec, store


@pytest.fixture(scope="module")
def finished(base, tmp_path_factory):
    _, spec, store = base
    workdir = tmp_path_factory.mktemp("finished")
    assert run(spec, workdir, store, MACHINE) == DONE
    return workdir


def test_a_run_writes_the_mirrors_that_the_machine_asks_for(base, finished, tmp_path):
    _, spec, store = base
    assert run(spec, tmp_path, store, dataclasses.replace(MACHINE, tensorboard=True)) == DONE
    events = b"".join(p.read_bytes() for p in (record_of(tmp_path, spec) / "tensorboard").iterdir())
    tags = (b"train/loss", b"train/learning_rate", b"eval/all", b"eval/words")
    assert all(tag in events for tag in tags)
    assert not (record_of(finished, spec) / "tensorboard").exists()


def record_of(workdir, spec):
    return workdir / RUNS / spec.run_id


def state_at(workdir, spec, step=None):
    checkpoints = Checkpoints(workdir / RUNS / spec.run_id / CHECKPOINTS, read_only=True)
    return checkpoints.restore(Program(spec, MACHINE).abstract_state, step)[0]


def assert_same_state(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def digest(folder):
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {
        str(p): (p.stat().st_mtime_ns, hashlib.sha256(p.read_bytes()).hexdigest()) for p in files
    }


def test_record_of_a_run(base, finished):
    _, spec, store = base
    found = rows(record_of(finished, spec), TRAIN, EVAL, TIMING)
    assert all(
        set(REQUIRED) <= set(r) and r["tokens"] == r["step"] * spec.tokens_per_step for r in found
    )
    train = [r for r in found if r["kind"] == TRAIN]
    assert [r["step"] for r in train] == list(range(5, 41, 5))
    assert train[-1]["loss"] < train[0]["loss"] - 0.5
    final = [r for r in found if r["kind"] == EVAL and r["step"] == 40]
    assert {r["domain"] for r in final} == {"all", "words", "digits"}
    assert all(r["decayed"] and r["loss_se"] > 0 for r in final)
    assert not any(r["decayed"] for r in found if r["kind"] == EVAL and r["step"] == 20)
    mixture = next(r for r in final if r["domain"] == "all")
    assert mixture["loss"] == pytest.approx(
        np.mean([r["loss"] for r in final if r["domain"] != "all"])
    )
    assert {r["phase"] for r in found if r["kind"] == TIMING} >= {
        "window",
        "compile",
        "steps",
        "eval",
    }
    lineage = json.loads((finished / RUNS / spec.run_id / LINEAGE).read_text())
    assert set(LINEAGE_FIELDS) <= set(lineage) and lineage["data_fingerprint"] == store.fingerprint


def test_bits_per_byte_counts_bytes(base, finished):
    """With the byte tokenizer only the end-of-document token stands for no byte, so a byte costs a
    little more than a token.
    """
    _, spec, _ = base
    for r in rows(record_of(finished, spec)):
        if r["kind"] == EVAL:
            ratio = r["bits_per_byte"] * np.log(2) / r["loss"]
            assert 1 - 1e-12 <= ratio < 1.05  # exactly 1, but for rounding, where no document ends


def test_repeated_when_done_rewrites_nothing(base, finished):
    _, spec, store = base
    before = digest(finished)
    assert run(spec, finished, store, MACHINE) == DONE
    assert digest(finished) == before


def test_preempted_and_resumed_is_bitwise_the_same(base, finished, tmp_path):
    _, spec, store = base
    stops = iter((7, 13, 26))
    preemption, at = Preemption(), [next(stops)]

    def progress(_, step, __):
        if at and step >= at[0]:
            preemption.requested = True

    for _ in range(3):
        with pytest.raises(Preempted):
            run(spec, tmp_path, store, MACHINE, preemption=preemption, progress=progress)
        preemption.requested = False
        at[:] = [s for s in [next(stops, None)] if s]
    assert run(spec, tmp_path, store, MACHINE) == DONE
    assert rows(record_of(tmp_path, spec)) == rows(record_of(finished, spec))
    assert_same_state(state_at(tmp_path, spec), state_at(finished, spec))
    kept = Checkpoints(tmp_path / RUNS / spec.run_id / CHECKPOINTS, read_only=True).steps()
    assert kept == [40], "temporary checkpoints are deleted"


def stopped_at(step):
    preemption = Preemption()
    return {
        "preemption": preemption,
        "progress": lambda _, now, __: setattr(preemption, "requested", now >= step),
    }


def test_another_executable_at_a_resume_is_said_and_noted(base, tmp_path, monkeypatch, caplog):
    """On a GPU the compiler may choose other kernels; on a CPU the bits are the same and nothing is
    noted.
    """
    _, spec, store = base

    def noted():
        return json.loads((record_of(tmp_path, spec) / LINEAGE).read_text())["executables"]

    for compiled, stop, said in (("aa", 7, 0), ("aa", 13, 0), ("bb", 26, 1), ("bb", 99, 1)):
        monkeypatch.setattr(run_module, "_executable_hash", lambda pack, found=compiled: found)
        if stop < spec.steps:
            with pytest.raises(Preempted):
                run(spec, tmp_path, store, MACHINE, **stopped_at(stop))
        else:
            assert run(spec, tmp_path, store, MACHINE) == DONE
        assert caplog.text.count("not bit for bit") == said
    first, second = noted()
    assert noted() == {first: "aa", second: "bb"} and first == "0" and 13 <= int(second) < 26
    assert f"from step {second} with executable bb, which was aa" in caplog.text


def test_nothing_is_noted_on_a_cpu(base, finished):
    _, spec, _ = base
    assert json.loads((record_of(finished, spec) / LINEAGE).read_text())["executables"] == {}


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_only_a_gpu_s_chosen_kernels_are_kept(base, tmp_path, monkeypatch, backend):
    """Another machine's cache may hold those of its own GPUs."""
    _, spec, store = base
    called = []
    for name in ("bring", "keep"):
        monkeypatch.setattr(run_module.autotuning, name, lambda _, name=name: called.append(name))
    monkeypatch.setattr(run_module, "_executable_hash", lambda pack: "")
    program = Programs().program(spec, MACHINE)
    program.backend = backend
    programs = Programs()
    monkeypatch.setattr(programs, "program", lambda *_: program)
    monkeypatch.setattr(programs, "packed", lambda *_: SingleRun(program))
    assert run(spec, tmp_path, store, MACHINE, programs=programs) == DONE
    assert called == (["bring", "keep"] if backend == "gpu" else [])


def test_unreadable_latest_checkpoint_falls_back_to_an_older_one(base, finished, tmp_path, caplog):
    _, spec, store = base
    longer = dataclasses.replace(spec, checkpoint_steps=(10, 20, 40))
    preemption = Preemption()
    with pytest.raises(Preempted):
        run(
            longer,
            tmp_path,
            store,
            MACHINE,
            preemption=preemption,
            progress=lambda _, step, __: setattr(preemption, "requested", step >= 29),
        )
    record = tmp_path / RUNS / longer.run_id
    saved = sorted(int(p.name) for p in (record / CHECKPOINTS).iterdir())
    assert saved[:2] == [10, 20] and len(saved) == 3
    for data in (record / CHECKPOINTS / str(saved[-1]) / "state").rglob("d/*"):
        data.write_bytes(b"")
    assert run(longer, tmp_path, store, MACHINE) == DONE
    assert rows(record_of(tmp_path, longer)) == rows(record_of(finished, spec))
    assert [p.name for p in (record / f"{CHECKPOINTS}.unreadable").iterdir()] == [str(saved[-1])], (
        "set aside, not deleted"
    )
    for step in (10, 20, 40):
        for data in (record / CHECKPOINTS / str(step) / "state").rglob("d/*"):
            data.write_bytes(b"")
    (record / STATUS).unlink()
    caplog.clear()
    assert run(longer, tmp_path, store, MACHINE) == DONE
    assert (
        "none is readable" in caplog.text
        and "trained again from the start: 40 steps" in caplog.text
    )
    assert rows(record_of(tmp_path, longer)) == rows(record_of(finished, spec))
    assert_same_state(state_at(tmp_path, longer), state_at(finished, spec))
    aside = {p.name for p in (record / f"{CHECKPOINTS}.unreadable").iterdir()}
    assert aside == {str(saved[-1]), "10", "20", "40"}, "set aside, not deleted"


def test_half_deleted_checkpoint_is_never_restored(base, finished, tmp_path):
    """A process killed while it deletes leaves what it deleted outside of the folder; the next one
    finishes the deletion.
    """
    _, spec, store = base
    preemption = Preemption()
    with pytest.raises(Preempted):
        run(
            spec,
            tmp_path,
            store,
            MACHINE,
            preemption=preemption,
            progress=lambda _, step, __: setattr(preemption, "requested", step >= 13),
        )
    record = tmp_path / RUNS / spec.run_id
    (saved,) = (record / CHECKPOINTS).iterdir()
    half = record / f"{CHECKPOINTS}.deleted" / "5"
    shutil.copytree(saved / "state", half / "state")
    assert Checkpoints(record / CHECKPOINTS, read_only=True).steps() == [int(saved.name)]
    assert run(spec, tmp_path, store, MACHINE) == DONE
    assert not half.exists() and rows(record_of(tmp_path, spec)) == rows(record_of(finished, spec))


def test_branch_whose_parent_cannot_be_read_is_remade_by_the_next_command(base, tmp_path):
    """The parent is trained again from its last readable checkpoint, to the same bits; nobody has
    to delete a folder.
    """
    config, _, _ = base
    trunk = rung(tiny.config(tmp_path / "text", run__duration="60 steps"), role="trunk")
    trunk = with_checkpoints(trunk, 8, 16, 32, 48)
    branch = cooldown(trunk, 40, 0.2, role="proxy")
    loaded = Loaded("x", config, [trunk, branch])
    assert set(run_ladder(loaded, tmp_path / "whole", quiet=True).values()) == {DONE}
    shutil.copytree(tmp_path / "whole", tmp_path / "w")
    shutil.rmtree(tmp_path / "w" / RUNS / branch.run_id)
    folder = tmp_path / "w" / RUNS / trunk.run_id / CHECKPOINTS
    for data in (folder / "32" / "state").rglob("d/*"):
        data.write_bytes(b"")
    with pytest.raises(UserError) as raised:
        run_ladder(loaded, tmp_path / "w", quiet=True)
    again = "repeat the command: the parent is trained again from step 16"
    assert_user_error(raised, field="parent", value=trunk.run_id, remedy=again)
    assert {p.name for p in folder.iterdir()} == {"8", "16"}, "what other branches start from stays"
    aside = folder.with_name(f"{CHECKPOINTS}.unreadable")
    assert {p.name for p in aside.iterdir()} == {"32", "48", "60"}
    assert set(run_ladder(loaded, tmp_path / "w", quiet=True).values()) == {DONE}
    assert {p.name for p in folder.iterdir()} == {"8", "16", "32", "48", "60"}
    for spec in (trunk, branch):
        assert rows(record_of(tmp_path / "w", spec)) == rows(record_of(tmp_path / "whole", spec))
        assert_same_state(state_at(tmp_path / "w", spec), state_at(tmp_path / "whole", spec))


def test_parent_that_lost_the_branch_point_is_remade(base, tmp_path, monkeypatch):
    """Killed while the parent's checkpoints are set aside: it is unfinished already. Finished, but
    without the checkpoint: it becomes unfinished.
    """
    config, _, _ = base
    trunk = rung(tiny.config(tmp_path / "text", run__duration="60 steps"), role="trunk")
    trunk = with_checkpoints(trunk, 16, 32)
    branch = cooldown(trunk, 40, 0.2, role="proxy")
    assert set(run_ladder(Loaded("x", config, [trunk]), tmp_path, quiet=True).values()) == {DONE}
    loaded, record = Loaded("x", config, [trunk, branch]), tmp_path / RUNS / trunk.run_id
    shutil.rmtree(record / CHECKPOINTS / "32")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Checkpoints, "set_aside_after", killed)
        run_ladder(loaded, tmp_path, quiet=True)
    assert json.loads((record / STATUS).read_text())["state"] == RUNNING
    with pytest.raises(UserError) as raised:
        run_ladder(loaded, tmp_path, quiet=True)
    assert_user_error(raised, field="parent", value=trunk.run_id, remedy="repeat the command")
    assert set(run_ladder(loaded, tmp_path, quiet=True).values()) == {DONE}


def test_branch_equals_the_unbroken_run_bitwise(base, tmp_path):
    """Trunk of 60 steps, cooled down from step 32 to 40, against one run of 40 steps that decays
    over its last 8.
    """
    _config, _, store = base
    trunk = rung(tiny.config(tmp_path / "text", run__duration="60 steps"), role="trunk")
    trunk = with_checkpoints(trunk, 32)
    branch = cooldown(trunk, 40, 0.2, role="proxy")
    unbroken = dataclasses.replace(
        trunk,
        name="unbroken",
        hyper=branch.hyper,
        steps=40,
        eval_steps=(40,),
        checkpoint_steps=(40,),
    )
    for spec in (trunk, branch, unbroken):
        assert run(spec, tmp_path, store, MACHINE) == DONE
    assert_same_state(state_at(tmp_path, branch), state_at(tmp_path, unbroken))
    tail = [r for r in rows(record_of(tmp_path, unbroken)) if r["step"] > 32]
    assert rows(record_of(tmp_path, branch)) == tail and tail
    lineage = json.loads((tmp_path / RUNS / branch.run_id / LINEAGE).read_text())
    assert lineage["parent"] == {"run_id": trunk.run_id, "step": 32, "reset": []}

    shutil.rmtree(tmp_path / RUNS / branch.run_id)
    shutil.rmtree(tmp_path / RUNS / trunk.run_id)
    with pytest.raises(UserError) as raised:
        run(branch, tmp_path, store, MACHINE)
    assert_user_error(raised, field="parent", value=trunk.run_id, remedy="run the parent")


def test_weights_only_start(base, finished, tmp_path):
    _, spec, store = base
    child = dataclasses.replace(
        spec,
        name="child",
        parent=ParentSpec(spec.run_id, 40, ("optimizer", "step")),
        steps=5,
        eval_steps=(5,),
        checkpoint_steps=(5,),
    )
    shutil.copytree(finished / RUNS, tmp_path / RUNS)
    assert run(child, tmp_path, store, MACHINE) == DONE
    first = next(r for r in rows(record_of(tmp_path, child)) if r["kind"] == TRAIN)
    parents_first = next(r for r in rows(record_of(finished, spec), TRAIN) if r["step"] == 5)
    assert first["step"] == 5 and first["loss"] < parents_first["loss"]


def test_divergence_is_a_completed_state(base, tmp_path):
    config, spec, _store = base
    wild = dataclasses.replace(
        spec, name="wild", hyper=dataclasses.replace(spec.hyper, learning_rate=1e30, clip_norm=1e30)
    )
    states = run_ladder(Loaded("x", config, [wild, spec]), tmp_path, quiet=True)
    assert states == {wild.run_id: DIVERGED, spec.run_id: DONE}
    assert "loss is nan" in table(tmp_path) or "loss is inf" in table(tmp_path)
    again = run_ladder(Loaded("x", config, [wild, spec]), tmp_path, quiet=True)
    assert again == states


def test_other_data_is_refused(base, finished, tmp_path):
    _, spec, store = base
    shutil.copytree(finished, tmp_path / "copy")
    record = tmp_path / "copy" / RUNS / spec.run_id
    (record / STATUS).unlink()
    lineage = json.loads((record / LINEAGE).read_text())
    (record / LINEAGE).write_text(json.dumps(lineage | {"data_fingerprint": "0" * 16}))
    with pytest.raises(UserError) as raised:
        run(spec, tmp_path / "copy", store, MACHINE)
    assert_user_error(raised, field="data.fingerprint", remedy="restore that token store")


def test_workdir_of_another_ladder_is_refused(base, tmp_path):
    config, spec, _ = base
    run_ladder(
        Loaded(
            "a",
            config,
            [dataclasses.replace(spec, steps=2, eval_steps=(2,), checkpoint_steps=(2,))],
        ),
        tmp_path,
        quiet=True,
    )
    with pytest.raises(UserError, match="belongs to another ladder"):
        run_ladder(
            Loaded(
                "b",
                config,
                [dataclasses.replace(spec, steps=3, eval_steps=(3,), checkpoint_steps=(3,))],
            ),
            tmp_path,
            quiet=True,
        )
