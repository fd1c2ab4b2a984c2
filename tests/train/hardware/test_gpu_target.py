"""Programs compiled for GPU nodes that are not here."""

import dataclasses
import json
import re

import jax
import pytest
from jax._src.cudnn import fused_attention_stablehlo as cudnn

from stepladder.configs.core.errors import UserError
from stepladder.model.parallel.device import place_in_slice, platform_name, slice_of
from stepladder.train.cli import parser
from stepladder.train.hardware import gpu_target, topology
from stepladder.train.hardware.chips import device_sheet
from stepladder.train.hardware.defaults import DEVICES, row_of


@pytest.mark.parametrize("card", gpu_target.CARDS)
def test_a_card_has_a_description_with_its_source_and_a_row(card):
    (device,) = topology.devices(card)
    assert platform_name(device) == "gpu" and place_in_slice(device) == ()
    assert row_of(device) is DEVICES[card.upper()]
    text = (gpu_target.TARGETS / f"{card}.textproto").read_text()
    assert "github.com/" in text
    (held,) = re.findall(r"device_memory_size: (\d+)", text)
    assert topology.memory(card) == pytest.approx(float(held), rel=0.08), "data sheet and card"
    with pytest.raises(RuntimeError):  # compiled for, never run on
        jax.device_put(0, device)


def test_nodes_are_slices():
    found = topology.devices("h100:8*2")
    assert [slice_of(device) for device in found] == [0] * 8 + [1] * 8
    assert {device.process_index for device in found} == {0, 1}
    assert device_sheet(found) is DEVICES["H100"].chip


@pytest.mark.parametrize("name", ["h100:", "h100:0", "h100:8x2", "h100:8*0", "a100*"])
def test_another_form_is_refused(name):
    with pytest.raises(UserError, match="not CARD:CARDS"):
        topology.devices(name)


def test_an_unknown_card_is_refused_with_those_that_are_described(root, capsys):
    words = [f"--config={root}/configs/demo.py:cpu", "--topology=v100:8"]
    assert parser.main(["plan", *words]) == 1
    said = capsys.readouterr().err
    assert "topology='v100:8'" in said and "a100, b200, h100, h200" in said and "targets/" in said


def test_an_arithmetic_that_a_card_lacks_is_refused_before_it_compiles(root, capsys, monkeypatch):
    words = [f"--config={root}/configs/ladders/chinchilla.py:tiny", "--only=proxy-6k-s0"]
    row = dataclasses.replace(DEVICES["H100"], arithmetics=DEVICES["V100"].arithmetics)
    monkeypatch.setitem(DEVICES, "H100", row)
    words += ["--topology=h100", "--config.model.compute_dtype=bfloat16"]
    assert parser.main(["plan", *words]) == 1
    said = capsys.readouterr().err
    assert "model.compute_dtype='bfloat16': a NVIDIA H100 80GB HBM3 does not" in said
    assert said.rstrip().endswith("use float32")


def test_without_the_compiler_the_fix_is_named(monkeypatch):
    monkeypatch.setattr(gpu_target.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="stepladder\\[gpu-plan\\]"):
        topology.devices("h100:5")  # no other test asks for it: found nodes are kept


def test_attention_is_traced_as_the_card_would_take_it():
    asked = cudnn.check_cudnn_version
    with topology.compiling("a100:8"):
        assert cudnn.check_cudnn_version() == 91200
        assert cudnn.check_compute_capability("8.0")
        assert not cudnn.check_compute_capability("9.0")
    with topology.compiling("b200"):
        assert cudnn.check_compute_capability("9.0")
        assert not cudnn.is_cuda_compute_capability_equal("10.3")
    assert cudnn.check_cudnn_version is asked


def test_a_machine_with_a_card_is_left_as_it_is(tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", raising=False)
    (tmp_path / "nvidia0").touch()
    gpu_target.hush(tmp_path)
    assert "JAX_SKIP_CUDA_CONSTRAINTS_CHECK" not in gpu_target.os.environ
    (tmp_path / "nvidia0").unlink()
    gpu_target.hush(tmp_path)
    assert gpu_target.os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] == "1"


def test_a_ladder_is_planned_for_a_node(root, capsys):
    words = [f"--config={root}/configs/ladders/chinchilla.py:tiny", "--only=proxy-6k-s0"]
    assert parser.main(["plan", *words, "--topology=h100:8"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"on +8 devices: +[\d.,]+ MiB a device, +0% of 74.5 GiB", said)
    assert "all-reduce" in said and "estimated step" in said and "was not measured" in said
    assert "nothing to do" not in said


def test_cards_that_a_batch_does_not_divide_among_are_said(root, capsys):
    words = [f"--config={root}/configs/base.py:tiny", "--config.run.batch_size=4"]
    assert parser.main(["plan", *words, "--topology=h100:3"]) == 0
    said = capsys.readouterr().out
    assert "1 of 3 devices have nothing to do: run.batch_size=4" in said and "e.g. 6 does" in said
    assert parser.main(["plan", *words, "--topology=h100:3", "--config.machine.mesh=data=3"]) == 1
    assert "run.batch_size=4: not divisible by data x fsdp = 3" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ladder", "node"),
    [("gpu", "h100"), ("gpu-8", "h100:8"), ("gpu-8", "a100:8"), ("gpu-8", "h100:8*2")],
)
def test_every_program_of_a_shipped_ladder_fits(ladder, node, root, capsys):
    config = f"--config={root}/configs/ladders/chinchilla.py:{ladder}"
    assert parser.main(["plan", config, f"--topology={node}", "--json"]) == 0
    programs = json.loads(capsys.readouterr().out)["programs"]
    assert programs and [p["size"] for p in programs if not p["fits"]] == []
