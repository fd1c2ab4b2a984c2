"""Packs as they execute: a member is the run alone, whatever trains beside it; one compilation a
rung; kill and resume.
"""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from stepladder.configs.core import record
from stepladder.configs.core.branches.cooldown import cooldown, with_checkpoints
from stepladder.model.execution import Execution
from stepladder.train.hardware.machine import Machine
from stepladder.train.hardware.mesh import mesh_of_pack
from stepladder.train.ladder import packing
from stepladder.train.loop.run import run, run_pack
from stepladder.train.processes.preemption import Preempted, Preemption
from stepladder.train.record.checkpoint import Checkpoints
from stepladder.train.step import packed_steps, step
from stepladder.train.step.program import Program
from stepladder.train.step.programs import Programs
from tests.support import records

# the mesh on which a run alone and a mapped member are one program
ONE = Machine(devices=1, tensorboard=False, pack_mode="map")
MAP = Machine(devices=2, tensorboard=False, pack_mode="map")
VMAP = Machine(devices=2, tensorboard=False, pack_mode="vmap")


@pytest.fixture(scope="module")
def alone(rung8, tmp_path_factory):
    specs, by_corpus = rung8
    workdir = tmp_path_factory.mktemp("alone")
    states = {}
    for spec in specs:
        states[spec.run_id] = run(spec, workdir, by_corpus[spec.data.corpus], ONE)
    assert list(states.values()) == [record.DONE] * 7 + [record.DIVERGED]
    return workdir, states


def rows(workdir, spec):
    return records.rows(workdir / record.RUNS / spec.run_id)


def final_state(workdir, spec):
    checkpoints = Checkpoints(
        workdir / record.RUNS / spec.run_id / record.CHECKPOINTS, read_only=True
    )
    return jax.tree.map(np.asarray, checkpoints.restore(Program(spec, ONE).abstract_state)[0])


def status(workdir, spec):
    return json.loads((workdir / record.RUNS / spec.run_id / record.STATUS).read_text())


def assert_same_record(spec, ours, theirs):
    assert rows(ours, spec) == rows(theirs, spec), spec.name
    assert status(ours, spec) == status(theirs, spec)
    if status(theirs, spec)["state"] == record.DONE:
        jax.tree.map(
            np.testing.assert_array_equal, final_state(ours, spec), final_state(theirs, spec)
        )


@pytest.mark.parametrize(
    "members, chosen",
    [
        pytest.param(1, [2], id="1", marks=pytest.mark.slow),
        pytest.param(2, [5], id="1 of 2"),
        pytest.param(3, [0, 4, 7], id="3", marks=pytest.mark.slow),
        pytest.param(8, range(8), id="8"),
    ],
)
def test_mapped_pack_is_bitwise_the_runs_alone(rung8, alone, tmp_path, members, chosen):
    specs, by_corpus = rung8
    solo, states = alone
    found = run_pack(
        [specs[i] for i in chosen], tmp_path, by_corpus, ONE, members=members, streams=members
    )
    assert found == {specs[i].run_id: states[specs[i].run_id] for i in chosen}
    for i in chosen:
        assert_same_record(specs[i], tmp_path, solo)


@pytest.mark.slow
def test_over_two_devices_a_member_is_bitwise_itself_whatever_trains_beside_it(rung8, tmp_path):
    """A program over several devices is compiled apart from that of one device, so bits are
    compared within it: with seven others, alone.
    """
    specs, by_corpus = rung8
    run_pack(specs, tmp_path / "eight", by_corpus, MAP, members=8, streams=8)
    for spec in (specs[0], specs[5], specs[7]):
        run_pack([spec], tmp_path / "one", by_corpus, MAP, members=2, streams=2)
        assert_same_record(spec, tmp_path / "one", tmp_path / "eight")


@pytest.mark.slow
def test_shared_streams_are_the_same_data(rung8, tmp_path):
    """Four seeds on one stream against four streams of one run each."""
    specs, by_corpus = rung8
    seeds = [
        dataclasses.replace(specs[0], hyper=dataclasses.replace(specs[0].hyper, seed=s))
        for s in range(4)
    ]
    assert len({packing.timeline(s) for s in seeds}) == 1
    for name, streams in (("one", 1), ("each", 4)):
        run_pack(seeds, tmp_path / name, by_corpus, MAP, members=4, streams=streams)
    for spec in seeds:
        assert_same_record(spec, tmp_path / "one", tmp_path / "each")


@pytest.mark.parametrize(
    "machine", [MAP, pytest.param(VMAP, marks=pytest.mark.slow)], ids=lambda m: m.pack_mode
)
def test_preempted_pack_resumes_exactly(rung8, tmp_path, machine):
    """Stopped twice, once with one member a checkpoint behind the others (as a kill between two
    saves leaves it).
    """
    specs, by_corpus = rung8
    specs = [
        dataclasses.replace(s, checkpoint_steps=(10, 20, 40))
        for s in (specs[0], specs[3], specs[1])
    ]
    how = dict(members=4, streams=2)
    run_pack(specs, tmp_path / "unbroken", by_corpus, machine, **how)
    for stop in (8, 26):
        preemption = Preemption()
        with pytest.raises(Preempted):
            run_pack(
                specs,
                tmp_path / "broken",
                by_corpus,
                machine,
                **how,
                preemption=preemption,
                progress=lambda _, step, __, stop=stop, preemption=preemption: setattr(
                    preemption, "requested", step >= stop
                ),
            )
    folder = tmp_path / "broken" / record.RUNS / specs[0].run_id / record.CHECKPOINTS
    last = max((int(p.name) for p in folder.iterdir()), default=0)
    assert last > 20
    Checkpoints(folder).set_aside_after(20)
    assert run_pack(specs, tmp_path / "broken", by_corpus, machine, **how) == dict.fromkeys(
        [s.run_id for s in specs], record.DONE
    )
    for spec in specs:
        assert_same_record(spec, tmp_path / "broken", tmp_path / "unbroken")


@pytest.mark.slow
def test_a_branch_leaves_from_a_member(rung8, tmp_path):
    """Trunks trained as a pack, cooldowns of two of them as another, against all of them alone."""
    specs, by_corpus = rung8
    trunks = [specs[0], specs[3]]
    trunks = [with_checkpoints(t, 16) for t in trunks]
    branches = [cooldown(t, 20, 0.2) for t in trunks]
    for folder, each in ((tmp_path / "alone", 1), (tmp_path / "pack", 2)):
        for group in (trunks, branches):
            for i in range(0, 2, each):
                run_pack(group[i : i + each], folder, by_corpus, ONE, members=each, streams=each)
    for spec in (*trunks, *branches):
        assert_same_record(spec, tmp_path / "pack", tmp_path / "alone")


def test_one_compilation_for_a_rung(rung8, tmp_path, capsys):
    """24 runs in three packs, eight rates, three seeds, two recipes: the training step is compiled
    once.
    """
    specs, by_corpus = rung8
    base = [
        dataclasses.replace(specs[i], batch_size=4, steps=6, eval_steps=(6,), checkpoint_steps=(6,))
        for i in (0, 1)
    ]
    runs = [
        dataclasses.replace(
            s, hyper=dataclasses.replace(s.hyper, learning_rate=1e-3 * (r + 1), seed=seed)
        )
        for s in base
        for r in range(4)
        for seed in range(3)
    ]
    planned = packing.pack_ladder(runs, Machine(devices=2, pack="8", pack_mode="map")).packs
    assert [len(p.specs) for p in planned] == [8, 8, 8] and len(
        {(p.members, p.streams) for p in planned}
    ) == 1
    programs = Programs()
    for p in planned:
        sizes = {"members": p.members, "streams": p.streams}
        run_pack(p.specs, tmp_path, by_corpus, MAP, **sizes, programs=programs)
    count = sum(n for (name, _), n in programs.compiled.items() if name == "step")
    print(f"compilations of the training step for a rung of {len(runs)} runs: {count}")
    assert count == 1


# All members at once

SIZES = pytest.mark.parametrize(
    "members", [pytest.param(1, marks=pytest.mark.slow), 3, pytest.param(8, marks=pytest.mark.slow)]
)


def numeric(spec, steps, machine, members, dtype, nudge=0.0):
    """Loss of every step, [members, steps], of `members` copies of `spec` at different rates: in a
    vmapped pack, and each alone.

    Pure functions only: from equal states, on random tokens. nudge: relative change of one
    parameter before the first step of the runs alone.
    """
    model = dataclasses.replace(spec.model, compute_dtype=dtype)
    execution = Execution(layers="unroll")
    rates = np.geomspace(1e-3, 1e-2, members)
    hypers = [
        {**step.traced_hypers(spec), "learning_rate": np.float32(rate), "seed": np.int32(i)}
        for i, rate in enumerate(rates)
    ]
    states = [jax.jit(lambda h: step.initial_state(model, spec.optimizer, h))(h) for h in hypers]

    def wide(tree):
        return jax.tree.map(lambda x: jnp.asarray(x, dtype) if x.dtype == jnp.float32 else x, tree)

    states, hypers = [wide(s) for s in states], [wide(h) for h in hypers]
    tokens_SBT = np.random.default_rng(0).integers(0, 257, (steps, 4, 17)).astype(np.int32)

    def stack(trees):
        return jax.tree.map(lambda *x: jnp.stack(x), *trees)

    mesh = mesh_of_pack(machine, dataclasses.replace(spec, batch_size=4), members, "vmap")
    on_mesh = dataclasses.replace(execution, mesh=mesh)
    together = jax.jit(
        functools.partial(packed_steps.vmap_steps, model, spec.optimizer, on_mesh, mesh)
    )
    alone = jax.jit(functools.partial(step.train_steps, model, spec.optimizer, execution))
    ones, zeros = np.ones(members, np.int32), np.zeros(members, np.int32)
    state_K, hyper_K = jax.device_put(
        (stack(states), stack(hypers)), NamedSharding(mesh, PartitionSpec("run"))
    )
    losses_K, losses = [], []
    for s in range(steps):
        state_K, metrics = together(state_K, hyper_K, ones, zeros, tokens_SBT[None, s : s + 1])
        losses_K.append(np.asarray(metrics["last_loss"]))
    for state, hyper in zip(states, hypers):
        state["params"]["embed"] = state["params"]["embed"].at[0, 0].multiply(1 + nudge)
        row = []
        for s in range(steps):
            state, metrics = alone(state, hyper, np.int32(1), tokens_SBT[s : s + 1])
            row.append(float(metrics["last_loss"]))
        losses.append(row)
    return np.array(losses_K).T, np.array(losses)


@pytest.mark.slow
@SIZES
def test_vmapped_step_is_the_step_alone_to_1e_6(rung8, members):
    specs, _ = rung8
    together, alone = numeric(specs[0], 1, VMAP, members, "float32")
    np.testing.assert_allclose(together, alone, rtol=1e-6)


@pytest.mark.slow
@SIZES
def test_vmapped_pack_is_the_runs_alone_over_200_steps_in_float64(rung8, members):
    with jax.enable_x64(True):
        together, alone = numeric(rung8[0][0], 200, VMAP, members, "float64")
    assert together.dtype == np.float64
    assert members == 1 or np.ptp(together[:, -1]) > 1e-3, (
        "the members' rates differ, and so must their losses"
    )
    np.testing.assert_allclose(together, alone, rtol=1e-9)


@pytest.mark.slow
def test_float32_drift_of_a_pack_is_that_of_rounding(rung8, capsys):
    """Over 200 steps a pack and the runs alone part by rounding: not more than ten times what one
    ulp in one parameter does.
    """
    together, alone = numeric(rung8[0][0], 200, VMAP, 3, "float32")
    _, nudged = numeric(rung8[0][0], 200, VMAP, 3, "float32", nudge=2**-23)
    drift, rounding = (np.abs(other / alone - 1).max() for other in (together, nudged))
    print(
        f"largest relative drift of the loss over 200 steps: pack {drift:.1e}, one-ulp "
        f"perturbation {rounding:.1e}"
    )
    assert rounding > 0 and drift < max(10 * rounding, 1e-5)


@pytest.mark.slow
def test_a_diverging_member_leaves_a_vmapped_pack_alone(rung8, alone, tmp_path):
    """Records of a vmapped pack with the wild run in it: the others as without it bitwise, and
    close to the runs alone.
    """
    specs, by_corpus = rung8
    solo, states = alone
    chosen = [specs[0], specs[7], specs[5]]
    assert run_pack(chosen, tmp_path / "wild", by_corpus, VMAP, members=4, streams=4) == {
        s.run_id: states[s.run_id] for s in chosen
    }
    run_pack(
        [specs[0], specs[2], specs[5]], tmp_path / "tame", by_corpus, VMAP, members=4, streams=4
    )
    for spec in (specs[0], specs[5]):
        assert_same_record(spec, tmp_path / "wild", tmp_path / "tame")
        ours, theirs = (
            pd.DataFrame(rows(folder, spec)).set_index(["kind", "step"])["loss"]
            for folder in (tmp_path / "wild", solo)
        )
        np.testing.assert_allclose(ours, theirs, rtol=1e-4)
