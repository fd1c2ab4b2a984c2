"""The training step: golden numbers, one compilation for a sweep, accumulation and devices that
change nothing, the optimizer's parts.
"""

import dataclasses
import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from stepladder.configs.core import sizes
from stepladder.configs.core.build import rung
from stepladder.configs.core.errors import UserError
from stepladder.train.hardware.machine import Machine
from stepladder.train.step.optimizer import OPTIMIZERS, adamw
from stepladder.train.step.program import Program, dispatched
from stepladder.train.step.programs import Programs
from stepladder.train.step.step import traced_hypers
from tests.support import tiny

GOLDEN = Path(__file__).parents[2] / "golden" / "step.json"


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    return rung(tiny.config(tmp_path_factory.mktemp("text")))


@pytest.fixture
def one_device(spec, programs) -> Program:
    return programs.program(spec, Machine(devices=1))


def tokens(spec, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (spec.batch_size, spec.data.seq_len + 1), dtype=np.int32)


def train(compiled: Program, spec, steps: int):
    hyper = compiled.put(traced_hypers(spec))
    state, rows = compiled.init(hyper), []
    for i in range(steps):
        state, metrics = compiled.step(state, hyper, *compiled.put_batches([tokens(spec, i)]))
        rows.append({k: float(v) for k, v in metrics.items()})
    return state, rows


def test_a_dispatch_is_short_enough_to_be_told_to_stop(spec):
    """Ten steps of a small model, one of a 7B target: two of them stand between a notice and the
    save.
    """
    target = dataclasses.replace(
        spec,
        model=sizes.shape("7b", vocab_size=32768),
        data=dataclasses.replace(spec.data, seq_len=2048),
        batch_size=512,
    )
    middle = dataclasses.replace(
        target, model=sizes.shape("200m", vocab_size=32768), batch_size=128
    )
    assert [dispatched(s) for s in (spec, middle, target)] == [10, 2, 1]


def test_golden_step(spec, one_device):
    """Three steps from a fixed seed on fixed tokens.

    When the mathematics changes on purpose: STEPLADDER_GOLDEN=write pytest -k golden.
    """
    state, rows = train(one_device, spec, 3)
    sums = {
        "/".join(str(k.key) for k in path): float(jnp.abs(x).sum())
        for path, x in jax.tree_util.tree_flatten_with_path(state["params"])[0]
    }
    found = {"rows": rows, "abs_sums": sums}
    if os.environ.get("STEPLADDER_GOLDEN") == "write":
        GOLDEN.parent.mkdir(exist_ok=True)
        with open(GOLDEN, "w") as f:
            json.dump(found, f, indent=1, sort_keys=True)
    with open(GOLDEN) as f:
        golden = json.load(f)
    assert set(golden["abs_sums"]) == set(sums)
    for name, value in golden["abs_sums"].items():
        assert sums[name] == pytest.approx(value, rel=1e-5), name
    for row, want in zip(rows, golden["rows"], strict=True):
        assert row == pytest.approx(want, rel=1e-5)


def test_a_sweep_compiles_once(spec):
    """Two runs that differ only in traced hypers: one executable, other results."""
    machine = Machine(devices=2)
    other = dataclasses.replace(
        spec,
        hyper=dataclasses.replace(
            spec.hyper, learning_rate=3e-3, weight_decay=0.01, seed=7, warmup_steps=2, beta1=0.8
        ),
    )
    programs = Programs()
    results = [train(programs.program(s, machine), s, 3)[1] for s in (spec, other)]
    count = programs.compiled["step", spec.program_key]
    print("compilations of the training step for two learning rates:", count)
    assert count == 1
    assert spec.program_key == other.program_key and spec.hash != other.hash
    assert results[0][-1]["loss"] != results[1][-1]["loss"]
    executable = programs.program(spec, machine).compile_step()
    assert executable is programs.program(other, machine).compile_step()


@pytest.mark.parametrize(
    "machine",
    [
        pytest.param(Machine(devices=4), id="4 devices"),
        pytest.param(Machine(devices=2, accumulation=2), id="2 devices, 2 micro-batches"),
        pytest.param(
            Machine(devices=1, accumulation=4), id="4 micro-batches", marks=pytest.mark.slow
        ),
        pytest.param(Machine(devices=1, layers="scan", remat="full"), id="scan, remat"),
    ],
)
def test_execution_changes_nothing(spec, machine, one_device):
    """Devices, micro-batches, scan and remat: the same step to rounding."""
    want, rows = train(one_device, spec, 2)
    got, others = train(Program(spec, machine), spec, 2)
    assert others[0]["loss"] == pytest.approx(rows[0]["loss"], rel=1e-6)
    assert others[1]["grad_norm"] == pytest.approx(rows[1]["grad_norm"], rel=1e-4)
    # Adam's first steps divide tiny gradients by their own size: where a gradient is rounding
    # noise, so is its sign
    for a, b in zip(jax.tree.leaves(want["params"]), jax.tree.leaves(got["params"])):
        assert np.mean(np.abs(np.asarray(a) - np.asarray(b)) > 1e-4) < 0.01


def test_the_machine_chooses_attention(spec, one_device):
    """By itself what runs everywhere here; a wish is checked against backend and shape."""
    assert one_device.forward.attention == "xla"
    for wanted, said in (("cudnn", "bfloat16"), ("splash", "multiple of 128")):
        with pytest.raises(UserError, match=f"machine.attention='{wanted}'.*{said}"):
            Program(spec, Machine(devices=1, attention=wanted))
    with pytest.raises(UserError, match="machine.attention='flash'"):
        Machine.from_config(ConfigDict({"machine": {"attention": "flash"}}))


@pytest.mark.slow
def test_windows_and_documents_on_devices(spec, one_device):
    """A model that looks back over a window, within a document: the same step on four devices, and
    another than without.
    """
    limited = dataclasses.replace(
        spec, model=dataclasses.replace(spec.model, window=8, document_end=32)
    )
    alone, shared = (train(Program(limited, Machine(devices=n)), limited, 2)[1] for n in (1, 4))
    free = train(one_device, spec, 2)[1]
    assert shared[1]["loss"] == pytest.approx(alone[1]["loss"], rel=1e-6)
    assert shared[1]["grad_norm"] == pytest.approx(alone[1]["grad_norm"], rel=1e-4)
    assert abs(alone[1]["grad_norm"] / free[1]["grad_norm"] - 1) > 1e-4


def test_batches_are_sharded_over_devices(spec):
    compiled = Program(spec, Machine(devices=4))
    count, batches = compiled.put_batches([tokens(spec)])
    assert count == 1 and [s.data.shape[1] for s in batches.addressable_shards] == [2, 2, 2, 2]


def test_steps_are_the_same_however_they_are_grouped(spec, programs):
    """Seven steps one by one, and as 3 + 4 in two dispatches: bitwise the same state."""
    compiled = programs.program(spec, Machine(devices=2))
    one_by_one, _ = train(compiled, spec, 7)
    hyper = compiled.put(traced_hypers(spec))
    state = compiled.init(hyper)
    for group in (range(3), range(3, 7)):
        state, _ = compiled.step(
            state, hyper, *compiled.put_batches([tokens(spec, i) for i in group])
        )
    for a, b in zip(jax.tree.leaves(one_by_one), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_window_means(spec, one_device):
    """A train row holds the mean loss since the last one, and the window starts anew after it."""
    losses = [row["last_loss"] for row in train(one_device, spec, 7)[1]]
    rows = train(one_device, spec, 7)[1]
    assert rows[4]["loss"] == pytest.approx(np.mean(losses[:5]), rel=1e-6)
    assert rows[6]["loss"] == pytest.approx(np.mean(losses[5:7]), rel=1e-6)


def hypers(**changes):
    return {
        "learning_rate": 0.1,
        "weight_decay": 0.01,
        "beta1": 0.9,
        "beta2": 0.95,
        "epsilon": 1e-8,
        "clip_norm": 1e9,
    } | changes


PARAMS = {"layer": {"up": jnp.ones((3, 2)), "norm": jnp.ones(3)}}
GRADS = {"layer": {"up": jnp.full((3, 2), 0.5), "norm": jnp.full(3, -0.25)}}


def test_coupled_decay_is_optax_adamw():
    ours = adamw(hypers(), 0.5, "coupled")
    theirs = optax.adamw(
        0.05,
        b1=0.9,
        b2=0.95,
        eps=1e-8,
        weight_decay=0.01,
        mask={"layer": {"up": True, "norm": False}},
    )
    a = ours.update(GRADS, ours.init(PARAMS), PARAMS)[0]
    b = theirs.update(GRADS, theirs.init(PARAMS), PARAMS)[0]
    assert jax.tree.all(jax.tree.map(lambda x, y: np.allclose(x, y, rtol=1e-6), a, b))


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_independent_decay_ignores_the_rate(make):
    def decay_of(rate):
        with_decay, without = (
            make(hypers(learning_rate=rate, weight_decay=w), 0.5, "independent")
            for w in (0.01, 0.0)
        )
        a, b = (tx.update(GRADS, tx.init(PARAMS), PARAMS)[0] for tx in (with_decay, without))
        return jax.tree.map(lambda x, y: np.asarray(x - y), a, b)["layer"]

    for rate in (0.1, 0.4):
        np.testing.assert_allclose(decay_of(rate)["up"], -0.5 * 0.01, rtol=1e-4)
        np.testing.assert_allclose(decay_of(rate)["norm"], 0.0, atol=1e-8)


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_clipping_bounds_the_gradient(make):
    tx = make(hypers(clip_norm=1e-3, weight_decay=0.0), 1.0, "independent")
    state = tx.update(GRADS, tx.init(PARAMS), PARAMS)[1]
    assert optax.tree.norm(optax.tree.get(state, "mu")) == pytest.approx(0.1 * 1e-3, rel=1e-4)
