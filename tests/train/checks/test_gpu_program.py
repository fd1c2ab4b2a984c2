"""What is in a step that is compiled for an H100 that is not here: kernels, collectives, and no sum
without an order.
"""

import dataclasses
import functools
from pathlib import Path

import pytest

from stepladder.configs import base
from stepladder.configs.core.load import load
from stepladder.train.checks import hlo
from stepladder.train.hardware import topology
from stepladder.train.hardware.defaults import DEVICES
from stepladder.train.hardware.machine import Machine
from stepladder.train.ladder import executables
from stepladder.train.step.program import Program

CUDNN = {"__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"}
BIASED = {"__cudnn$fmhaScaleBiasSoftmax", "__cudnn$fmhaScaleBiasSoftmaxBackward"}
SMALL = {
    "model.size": "w128d2h32",
    "model.compute_dtype": "bfloat16",
    "data.tokenizer": "bpe:1024",
    "data.seq_len": 512,
    "run.batch_size": 16,
    "run.duration": "100 steps",
}
# name: (overrides, attention kernels); the first two in CI, all with `make test-slow`
VARIANTS = {
    "plain": ({}, CUDNN),
    "documents": ({"model.document_mask": "true"}, BIASED),
    "window": ({"model.window": 64}, CUDNN),
    "documents and window": ({"model.document_mask": "true", "model.window": 64}, BIASED),
    "grouped heads": ({"model.kv_ratio": 2}, CUDNN),
    "one key/value head": ({"model.kv_ratio": 4}, CUDNN),
    "gelu, capped, untied": (
        {"model.activation": "gelu", "model.logit_cap": 30.0, "model.tied": "false"},
        CUDNN,
    ),
    "float32": ({"model.compute_dtype": "float32"}, set()),
    "tensorfloat32": ({"model.compute_dtype": "tensorfloat32"}, set()),
    "short": ({"data.seq_len": 32}, set()),
}
ALL = [
    name if i < 2 else pytest.param(name, marks=pytest.mark.slow) for i, name in enumerate(VARIANTS)
]
# name: (topology, mesh)
MESHES = {
    "data": ("h100:8", "data=8"),
    "fsdp": ("h100:8", "fsdp=8"),
    "all three": ("h100:8", "data=2,fsdp=2,tensor=2"),
    "two nodes": ("h100:8*2", "data=2,fsdp=8"),
}


@functools.cache
def program(topo: str = "h100", mesh: str = "auto", **overrides) -> Program:
    more = {key.replace("__", "."): str(value) for key, value in overrides.items()}
    settings = [(key, str(value)) for key, value in SMALL.items()] + [*more.items()]
    loaded = load(str(Path(base.__file__)), settings)
    machine = dataclasses.replace(
        Machine.from_config(loaded.config), topology=topo, compilation_cache="off", mesh=mesh
    )
    return Program(loaded.specs[0], machine)


def read(executable) -> hlo.Module:
    return hlo.parse(executable.as_text())


def attention(module: hlo.Module) -> set[str]:
    return {name for name in hlo.kernels(module) if hlo.ATTENTION.search(name)}


def step(made: Program, members: int = 1) -> hlo.Module:
    pack = executables.executable(made, members, 1)
    with topology.compiling(made.machine.topology):
        return read(pack.compile())


@pytest.mark.parametrize("name", ALL)
def test_a_step_compiles_with_its_kernel_and_adds_in_order(name):
    overrides, kernels = VARIANTS[name]
    module = step(program(**{key.replace(".", "__"): v for key, v in overrides.items()}))
    assert attention(module) == kernels
    assert not hlo.scatters_that_combine(module)


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_a_pack_of_runs_compiles_and_adds_in_order(name):
    overrides, kernels = VARIANTS[name]
    made = program(**{key.replace(".", "__"): v for key, v in overrides.items()})
    module = step(made, members=4)
    # cuDNN takes no documents under vmap
    assert attention(module) == (set() if kernels is BIASED else kernels)
    assert not hlo.scatters_that_combine(module)


@pytest.mark.parametrize(
    "name", [n if n == "all three" else pytest.param(n, marks=pytest.mark.slow) for n in MESHES]
)
def test_a_mesh_of_cards_sends_what_the_formula_says(name):
    topo, mesh = MESHES[name]
    made = program(topo, mesh)
    with topology.compiling(topo):
        found = executables.compile_one(executables.executable(made, 1, 1), made.machine, 1)
    sent = sum(c["bytes"] for c in found.collectives)
    assert 0.8 * found.formula < sent < 1.2 * found.formula
    assert {c["network"] for c in found.collectives} == {"ici"} or "*" in topo
    assert set(found.kernels) == CUDNN and not found.unordered and found.fits


def test_evaluator_and_initialisation_compile():
    made = program()
    with topology.compiling("h100"):
        assert attention(read(made.compile_window_losses(2))) == {"__cudnn$fmhaSoftmax"}
        made.compile_init()


def test_a_planted_scatter_is_found(monkeypatch):
    row = dataclasses.replace(DEVICES["H100"], embedding="scatter")
    monkeypatch.setitem(DEVICES, "H100", row)
    made = Program(program().spec, program().machine)
    assert sum(hlo.scatters_that_combine(step(made)).values()) == 1
    with topology.compiling("h100"):
        found = executables.compile_one(executables.executable(made, 1, 1), made.machine, 1)
    assert "NOT BIT FOR BIT" in executables.row(found)
