"""Runs that train on a task: what they are evaluated on, packs, kills, records, refusals."""

import dataclasses
import json
import shutil
from functools import partial

import jax
import numpy as np
import pytest

from stepladder.configs.core.branches.cooldown import with_checkpoints
from stepladder.configs.core.build import rung
from stepladder.configs.core.errors import UserError
from stepladder.configs.core.load import Loaded
from stepladder.configs.core.record import CHECKPOINTS, DONE, EVAL, LINEAGE, RUNS, TRAIN
from stepladder.configs.core.spec import ParentSpec, TaskSpec
from stepladder.model.loss.next_token import token_nll
from stepladder.train.data.read.corpora import stores
from stepladder.train.data.tasks import task as tasks
from stepladder.train.export.restore import evaluate, open_checkpoint
from stepladder.train.hardware.machine import Machine
from stepladder.train.ladder.consistency import check_tasks
from stepladder.train.ladder.ladder import run_ladder
from stepladder.train.loop.member import check_data, timeline
from stepladder.train.loop.run import run, run_pack
from stepladder.train.processes import group
from stepladder.train.processes.preemption import Preempted, Preemption
from stepladder.train.record.checkpoint import Checkpoints
from stepladder.train.step.evaluator import Evaluator
from stepladder.train.step.program import Program
from tests.support import tiny
from tests.support.errors import assert_user_error
from tests.support.records import rows

MACHINE = Machine(devices=1, tensorboard=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, programs):
    """(config, trunk of 20 steps, its store, the workdir in which it is done)."""
    folder = tmp_path_factory.mktemp("trunk")
    config = tiny.config(folder / "text", data__max_epochs=40.0, run__duration="20 steps")
    trunk = with_checkpoints(rung(config, role="trunk"), 16)
    store = next(iter(stores([trunk], folder / "data", show=False).values()))
    assert run(trunk, folder, store, MACHINE, programs=programs) == DONE
    return config, trunk, store, folder


@pytest.fixture
def workdir(trained, tmp_path):
    shutil.copytree(trained[3] / RUNS, tmp_path / RUNS)
    return tmp_path


def write(path, count=60):
    """Examples of a word that is asked for twice, of different lengths."""
    words = ["lamp", "tree", "a", "window", "of"]
    lines = [
        {"prompt": f"Say {words[i % 5]} {i}:", "completion": f" {words[i % 5]}" * (1 + i % 2)}
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def tuned(trunk, path, *, replay=0.25, rate=3e-2, counted="completion", **changes):
    """A fine-tuning run of 24 steps from the trunk's checkpoint at 16."""
    model = dataclasses.replace(trunk.model, marked=True, document_end=256)
    task = TaskSpec("say", f"jsonl:{path}", counted, validation_fraction=0.3)
    return dataclasses.replace(
        trunk,
        name=f"say-{rate}",
        model=model,
        data=dataclasses.replace(trunk.data, task=task, replay=replay),
        hyper=dataclasses.replace(
            trunk.hyper, learning_rate=rate, warmup_steps=2, decay_start=24, total_steps=24
        ),
        steps=24,
        eval_steps=(12, 24),
        checkpoint_steps=(24,),
        parent=ParentSpec(trunk.run_id, 16, ("step", "optimizer", "data")),
        **changes,
    )


def record_of(workdir, spec):
    return workdir / RUNS / spec.run_id


def state_at(workdir, spec):
    checkpoints = Checkpoints(record_of(workdir, spec) / CHECKPOINTS, read_only=True)
    state, meta = checkpoints.restore(Program(spec, MACHINE).abstract_state)
    checkpoints.close()
    return state, meta


def assert_same_run(here, there, spec):
    for x, y in zip(
        jax.tree.leaves(state_at(here, spec)[0]),
        jax.tree.leaves(state_at(there, spec)[0]),
        strict=True,
    ):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))
    assert rows(record_of(here, spec)) == rows(record_of(there, spec))


def test_a_run_on_a_task_learns_it_and_says_what_it_read(trained, programs, workdir):
    _, trunk, store, _ = trained
    child = tuned(trunk, write(workdir / "say.jsonl"))
    assert run(child, workdir, store, MACHINE, programs=programs) == DONE
    record = record_of(workdir, child)
    evals = rows(record, EVAL)
    assert [r["domain"] for r in evals[:4]] == ["all", "digits", "words", "task:say"]
    after = evals[-1]
    evaluator = Evaluator.create(child, store, programs.program(child, MACHINE))
    before = evaluator(state_at(workdir, trunk)[0]["params"])[-1]
    assert after["domain"] == before["domain"] == "task:say"
    assert after["loss"] < 0.8 * before["loss"] and after["loss_se"] > 0
    text = [r for r in evals[:4] if r["domain"] in ("digits", "words")]
    assert evals[0]["loss"] == pytest.approx(np.mean([r["loss"] for r in text]))
    assert evals[0]["tokens_evaluated"] == sum(r["tokens_evaluated"] for r in text)
    said = json.loads((record / LINEAGE).read_text())["task"]
    loaded = tasks.load(child.data.task, store, child.data.seq_len)
    assert said == loaded.lineage(24 * 8 - 48, child.hyper.data_seed)
    assert said["examples"] + said["validation"] == 60 and said["epochs"] > 2
    assert state_at(workdir, child)[1]["task_fingerprint"] == said["fingerprint"]
    assert json.loads((record_of(workdir, trunk) / LINEAGE).read_text())["task"] is None
    assert "task_fingerprint" not in state_at(workdir, trunk)[1]


@pytest.mark.parametrize("counted", ["completion", "all"])
def test_the_loss_is_that_of_every_example_alone(trained, programs, tmp_path, counted):
    """So that examples of a row do not see each other. A model that sees beyond the end of a
    document has another loss.
    """
    _, trunk, store, _ = trained
    child = tuned(trunk, write(tmp_path / "say.jsonl", 80), counted=counted, eval_windows=100)
    leaves, tree = jax.tree.flatten(state_at(trained[3], trunk)[0]["params"])
    rng = np.random.default_rng(0)  # a model that attends to all sorts of places
    params = tree.unflatten([x + rng.normal(size=x.shape).astype(np.float32) for x in leaves])
    task = tasks.load(child.data.task, store, child.data.seq_len)
    ids_NT = np.full((len(task.validation), task.width), ~task.end, np.int32)
    for i, ids in enumerate(ids_NT):
        ids[: len(task.validation[i])] = task.validation[i]
    total = np.asarray(jax.jit(partial(token_nll, child.model))(params, ids_NT), np.float64).sum()
    targets = ids_NT[:, 1:][ids_NT[:, 1:] >= 0]
    count, size = len(targets), store.tokenizer().token_bytes[targets].sum()

    def row_of(spec):
        return Evaluator.create(spec, store, programs.program(spec, MACHINE))(params)[-1]

    row = row_of(child)
    assert row["domain"] == "task:say" and row["tokens_evaluated"] == count
    assert row["loss"] == pytest.approx(total / count, abs=1e-5)
    assert row["bits_per_byte"] == pytest.approx(total / np.log(2) / size, abs=1e-5)
    leaking = dataclasses.replace(child, model=dataclasses.replace(child.model, document_end=-1))
    assert abs(row_of(leaking)["loss"] - row["loss"]) > 1e-3


def test_the_standard_error_is_that_of_a_ratio(trained, programs, tmp_path):
    """Against a bootstrap of the rows."""
    _, trunk, store, _ = trained
    child = tuned(trunk, write(tmp_path / "say.jsonl", 300), eval_windows=100)
    params = state_at(trained[3], trunk)[0]["params"]
    evaluator = Evaluator.create(child, store, programs.program(child, MACHINE))
    at = evaluator.domain_W == evaluator.domains.index("task:say")
    nll = np.asarray(evaluator.compile()(params, evaluator.windows_CBT), np.float64).ravel()[at]
    nll, count = nll * child.data.seq_len, evaluator.counted_W[at]
    draw = np.random.default_rng(0).integers(len(nll), size=(20_000, len(nll)))
    resampled = nll[draw].sum(axis=1) / count[draw].sum(axis=1)
    assert evaluator(params)[-1]["loss_se"] == pytest.approx(resampled.std(), rel=0.1)


def test_stopped_and_repeated_is_the_unbroken_run(trained, programs, workdir, tmp_path):
    _, trunk, store, folder = trained
    child = tuned(trunk, write(tmp_path / "say.jsonl"))
    whole = tmp_path / "whole"
    shutil.copytree(folder / RUNS, whole / RUNS)
    assert run(child, whole, store, MACHINE, programs=programs) == DONE
    stop = Preemption()

    def progress(_, step, __):
        if step == 10:
            stop.requested = True

    with pytest.raises(Preempted):
        run(child, workdir, store, MACHINE, programs=programs, preemption=stop, progress=progress)
    assert run(child, workdir, store, MACHINE, programs=programs) == DONE
    assert len(rows(record_of(workdir, child), TRAIN)) == 4
    assert_same_run(workdir, whole, child)


def test_a_pack_of_learning_rates_is_its_members_alone(trained, programs, workdir, tmp_path):
    _, trunk, store, folder = trained
    path = write(tmp_path / "say.jsonl")
    children = [tuned(trunk, path, rate=rate) for rate in (1e-3, 1e-2)]
    assert timeline(children[0]) == timeline(children[1])
    assert timeline(tuned(trunk, path, replay=0.0)) != timeline(children[0])
    corpora = {trunk.data.corpus: store}
    states = run_pack(children, workdir, corpora, MACHINE, members=2, streams=1, programs=programs)
    assert set(states.values()) == {DONE}
    alone = tmp_path / "alone"
    shutil.copytree(folder / RUNS, alone / RUNS)
    for child in children:
        assert run(child, alone, store, MACHINE, programs=programs) == DONE
        assert_same_run(workdir, alone, child)


def test_other_examples_are_refused(trained, programs, workdir):
    """By a resume and by an evaluation of the checkpoint."""
    _, trunk, store, _ = trained
    path = write(workdir / "say.jsonl")
    child = tuned(trunk, path)
    stop = Preemption()
    stop.requested = True
    with pytest.raises(Preempted):
        run(child, workdir, store, MACHINE, programs=programs, preemption=stop)
    write(path, 61)
    tasks.load_with.cache_clear()
    with pytest.raises(UserError) as raised:
        run(child, workdir, store, MACHINE, programs=programs)
    assert_user_error(raised, field="data.task.fingerprint", remedy="restore the examples")
    write(path)
    tasks.load_with.cache_clear()
    assert run(child, workdir, store, MACHINE, programs=programs) == DONE
    opened = open_checkpoint(str(record_of(workdir, child)), str(store.path), MACHINE)
    said = [r["loss"] for r in rows(record_of(workdir, child), EVAL)[-4:]]
    assert [row["loss"] for row in evaluate(opened)] == said
    write(path, 61)
    tasks.load_with.cache_clear()
    with pytest.raises(UserError) as raised:
        evaluate(opened)
    assert_user_error(raised, field="data.task.fingerprint", remedy="restore the examples")


def changed(spec, part, **fields):
    return dataclasses.replace(spec, **{part: dataclasses.replace(getattr(spec, part), **fields)})


def test_what_cannot_be_trained_is_refused_before_anything_compiles(trained, programs, tmp_path):
    _, trunk, store, _ = trained
    child = tuned(trunk, write(tmp_path / "say.jsonl"))
    check_data(child, store)
    for spec, field, remedy in (
        (changed(child, "model", marked=False), "model.marked", "use True"),
        (changed(child, "model", document_end=-1), "model.document_end", "use 256"),
        (changed(child, "data", replay=1.0), "data.replay", "below 1"),
        (changed(trunk, "data", replay=0.1), "data.replay", "use 0"),
        (changed(child, "data", task=TaskSpec("x", "smus:3")), "task.source", "'sums'"),
    ):
        with pytest.raises(UserError) as raised:
            check_data(spec, store)
        assert_user_error(raised, field=field, remedy=remedy)


def test_only_replayed_rows_count_as_epochs_of_the_text(trained, programs, tmp_path):
    _, trunk, store, _ = trained
    child = changed(
        tuned(trunk, write(tmp_path / "say.jsonl"), replay=0.0), "data", max_epochs=1e-9
    )
    check_data(child, store)
    with pytest.raises(UserError) as raised:
        check_data(changed(child, "data", replay=0.5), store)
    assert_user_error(raised, field="max_epochs", remedy="train on fewer tokens")
    assert "asks 1," in str(raised.value), "half of 24 x 8 rows of 32 tokens, in two domains"


def test_a_ladder_finds_its_tasks_before_its_trunk_trains(trained, programs, tmp_path):
    config, trunk, _, folder = trained
    machine = config.copy_and_resolve_references()
    machine.unlock()
    machine.machine.store, machine.machine.devices = str(folder / "data"), 1
    path = write(tmp_path / "say.jsonl")
    with path.open("a") as file:
        file.write('{"prompt": "nothing follows"}\n')
    loaded = Loaded("x", machine, [trunk, tuned(trunk, path)])
    with pytest.raises(UserError) as raised:
        run_ladder(loaded, tmp_path, quiet=True)
    assert_user_error(raised, field="task.source", remedy="prompt and completion")
    assert "say.jsonl line 61 has no completion" in str(raised.value)
    assert not (tmp_path / RUNS).exists()


def test_processes_that_find_other_examples_are_refused(trained, tmp_path, monkeypatch):
    """The second of two hosts has another file at the path."""
    _, trunk, store, _ = trained
    child, corpora = tuned(trunk, write(tmp_path / "say.jsonl")), {trunk.data.corpus: store}
    other = json.dumps({child.run_id: "0" * 16})
    monkeypatch.setattr(group, "count", lambda: 2)
    monkeypatch.setattr(group, "gather", lambda text: [text, text])
    check_tasks([trunk, child], corpora)
    monkeypatch.setattr(group, "gather", lambda text: [text, other])
    with pytest.raises(group.SharedError, match="other examples there; give every host"):
        check_tasks([trunk, child], corpora)
