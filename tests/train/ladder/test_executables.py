"""What `plan` says of a compiled step: memory and fixes, the largest micro-batch, the roofline,
JSON; the same refusal when a run starts.
"""

import dataclasses
import json
from types import SimpleNamespace

import jax
import pytest

from stepladder.configs.core.errors import UserError
from stepladder.configs.core.load import load
from stepladder.train.checks import memory, roofline
from stepladder.train.checks.hlo import Collective
from stepladder.train.checks.memory import check, check_evaluation, fixes
from stepladder.train.cli import parser
from stepladder.train.hardware import chips, topology
from stepladder.train.hardware.defaults import Chip
from stepladder.train.hardware.machine import Machine
from stepladder.train.ladder import executables
from stepladder.train.step.executable import SingleRun
from stepladder.train.step.program import Program
from tests.support import tiny


@pytest.fixture(scope="module")
def config(tmp_path_factory, root):
    return [
        f"--config={root}/configs/base.py",
        *tiny.overrides(tmp_path_factory.mktemp("text"), machine__devices=4),
    ]


@pytest.fixture(scope="module")
def spec(config):
    return load(
        config[0].removeprefix("--config="),
        [o.removeprefix("--config.").split("=", 1) for o in config[1:]],
    ).specs[0]


def plan(capsys, *arguments) -> tuple[int, str]:
    code = parser.main(["plan", *arguments])
    return code, capsys.readouterr().out


def test_a_program_on_a_slice_as_json(config, capsys):
    code, out = plan(capsys, *config, "--topology=v5e:2x2", "--json", "--largest")
    (program,), (run,) = json.loads(out)["programs"], json.loads(out)["runs"]
    assert code == 0 and program["fits"] and program["run_id"] == run["run_id"]
    assert (
        program["devices"] == 4
        and program["mesh"]["run"] == 1
        and program["memory"] == 16 * 2**30 > program["bytes"] > 0
    )
    assert (program["micro_batch"], program["local_batch"], program["largest"]) == (2, 2, 2)
    steps = 40
    assert (
        program["counted"] * steps == pytest.approx(run["flops"])
        and program["executed"] >= program["counted"]
    )
    (moved,) = program["collectives"]
    # gradients, once
    assert moved["kind"] == "all-reduce" and moved["bytes"] >= 4 * run["params"] * 2 * 3 / 4
    slow, fast = program["estimate"]["in_turn"], program["estimate"]["overlapped"]
    assert 0 < slow["mfu"] < fast["mfu"] < 1 and program["estimate"]["bound"] in program["roofline"]
    assert slow["tokens_per_second"] == pytest.approx(8 * 32 / sum(program["roofline"].values()))


def test_this_machine_is_compiled_for_and_only_some_runs(config, capsys):
    code, out = plan(capsys, *config, "--topology=here", "--only=^run-")
    assert (
        code == 0 and "at once on    4 devices" in out and "mesh data 4; micro-batch 2 of 2" in out
    )
    assert parser.main(["plan", *config, "--only=nothing-like-it"]) == 1
    assert parser.main(["plan", *config, "--only=("]) == 1
    assert parser.main(["plan", *config, "--largest"]) == 1


def small(spec, **changes) -> tuple[SingleRun, Machine]:
    machine = Machine(**{"devices": 4, **changes})
    return SingleRun(Program(spec, machine)), machine


def test_what_does_not_fit_is_refused_at_the_start(spec, monkeypatch):
    """Before the first step, with both numbers and two fixes; on CPU, where devices share the
    host's memory, never.
    """
    pack, machine = small(spec, memory_gb=1e-4)
    check(pack, machine)
    monkeypatch.setattr(memory, "platform_of", lambda machine: "gpu")
    with pytest.raises(
        UserError,
        match=r"needs 0\.00 GiB of a device's 0\.00 GiB; use machine\.accumulation=2 .* or "
        r"machine\.remat=full",
    ) as said:
        check(pack, machine)
    assert spec.model.size in str(said.value)

    def evaluator():
        return pack.program.compile_window_losses(1)

    with pytest.raises(UserError, match="evaluation needs .* larger machine.accumulation"):
        check_evaluation(evaluator, spec, machine)
    check(pack, Machine(memory_gb=1.0))
    check_evaluation(evaluator, spec, Machine(memory_gb=1.0))


@pytest.mark.parametrize(
    ("changes", "over", "first"),
    [
        (
            {"remat": "none"},
            1.2,
            ["machine.accumulation=2", "machine.remat=full", "machine.mesh=fsdp=2"],
        ),
        (
            {"remat": "full", "accumulation": 2, "mesh": "fsdp=2"},
            5.0,
            ["machine.mesh=fsdp=4", "more devices"],
        ),
        ({"remat": "full", "devices": 1}, 3.0, ["machine.accumulation=4", "more devices"]),
    ],
)
def test_fixes_are_the_ones_left(spec, changes, over, first):
    pack, _ = small(spec, **changes)
    assert [fix[: len(start)] for fix, start in zip(fixes(pack, over), first)] == first


@pytest.mark.parametrize(
    ("limit", "expected", "trials"), [(1e9, 8, 1), (4, 4, 3), (1, 1, 3), (0.5, 0, 3)]
)
def test_the_largest_micro_batch_by_bisection(spec, monkeypatch, limit, expected, trials):
    """With a machine on which a sequence takes one byte; what is known already is not tried
    again.
    """
    tried = []

    def unshared_executable(spec, machine, members, streams):
        return spec.batch_size // machine.accumulation

    def compiled(micro_batch, machine):
        tried.append(micro_batch)
        return None, micro_batch, limit

    monkeypatch.setattr(executables, "unshared_executable", unshared_executable)
    monkeypatch.setattr(executables, "compiled", compiled)
    began = 4 if limit >= 8 else 8
    found = executables.Compiled(spec, 1, 1, {}, began, limit, 0, began, 8, "none", 0, 0)
    assert executables.largest_micro_batch(found, Machine(), 1) == expected
    assert len(tried) <= trials and began not in tried


def test_the_terms_of_a_roofline():
    chip = Chip(flops=100.0, memory=1.0, bandwidth=50.0, links=20.0, network=40.0)
    moved = [
        Collective("all-gather", 5.0, "f32", 4, (), 2, "ici", ()),
        Collective("all-reduce", 3.0, "f32", 2, (), 1, "dcn", ()),
    ]
    line = roofline.estimate(chip, flops=80.0, traffic=25.0, moved=moved, per_host=4)
    assert line.terms == {"compute": 1.0, "memory": 0.5, "links": 1.0, "network": 0.3}
    assert line.overlapped == 1.0 and line.in_turn == pytest.approx(2.8) and line.bound == "compute"


@pytest.mark.parametrize(
    ("name", "teraflops", "gib"),
    [("v4:2x2x2", 137.5, 16), ("v5p:2x2x1", 459, 95), ("tpu7x:2x2x1", 1153.5, 96)],
)
def test_a_device_has_its_share_of_a_chip(name, teraflops, gib):
    """libtpu shows a v4 (without megacore) and a v7x as two devices a chip."""
    found = topology.devices(name)
    assert (
        chips.device_sheet(found).flops == teraflops * 1e12 and topology.memory(name) == gib * 2**30
    )
    assert chips.peak_flops(found[:2] if teraflops < 200 else found) > 0
    assert chips.peak_flops(found) == teraflops * 1e12 * len(found)


def test_several_slices_stand_beside_each_other():
    found = topology.devices("v5e:2x2*3")
    assert len(found) == 12 and {d.slice_index for d in found} == {0, 1, 2}
    assert topology.memory("v5e:2x2*3") == 16 * 2**30 and len(topology.devices("v5e:2x2*1")) == 4
    with pytest.raises(UserError, match="number of slices"):
        topology.devices("v5e:2x2*x")


def test_peaks_are_of_the_devices_that_take_part():
    """CPU devices share their host, so any number of them has the host's rate; an unknown kind has
    none.
    """
    assert chips.peak_flops(jax.devices()[:1]) == chips.peak_flops(jax.devices()[:4]) > 1e8

    def card(kind):
        return SimpleNamespace(device_kind=kind, platform="gpu", process_index=0)

    assert chips.peak_flops([card("NVIDIA H100 80GB HBM3")] * 8) == 8 * 989e12
    assert (
        chips.peak_flops([card("NVIDIA H200")]) == 989e12
        and chips.peak_flops([card("Some 9000")]) == 0
    )


def test_a_missing_kernel_is_said(spec):
    found = executables.Compiled(
        spec,
        1,
        1,
        {"data": 1},
        1,
        2,
        0,
        8,
        8,
        "none",
        1,
        1,
        roofline=roofline.Roofline(1, 0, 0, 0),
        peak=1.0,
    )
    assert "attention" not in executables.row(found)
    asked = dataclasses.replace(found, attention="splash")
    assert "NO KERNEL" in executables.row(asked)
    assert "splash_mha_fwd x 3" in executables.row(
        dataclasses.replace(asked, kernels={"splash_mha_fwd": 3})
    )
