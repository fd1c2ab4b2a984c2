"""One row a device kind: what it names exists, and a device finds its row."""

from types import SimpleNamespace

import pytest

from stepladder.configs.core.errors import UserError
from stepladder.configs.core.load import load
from stepladder.model import layer
from stepladder.model.arithmetic import ARITHMETICS
from stepladder.model.attention.attend import IMPLEMENTATIONS
from stepladder.model.execution import Execution
from stepladder.model.parallel.embedding import SUMS
from stepladder.train.hardware import defaults, memory_model
from stepladder.train.step.packed_program import MODES


def row_of(kind: str) -> defaults.DeviceKind:
    platform = "tpu" if "TPU" in kind else "gpu"
    return defaults.row_of(SimpleNamespace(platform=platform, device_kind=kind))


@pytest.mark.parametrize("name", defaults.DEVICES)
def test_a_row_names_what_there_is(name):
    row = defaults.DEVICES[name]
    assert row.unrolled >= 0 and row.attention in IMPLEMENTATIONS
    assert row.pack_mode in MODES and set(row.remat) <= set(layer.REMAT)
    assert row.embedding in SUMS and set(row.arithmetics) <= set(ARITHMETICS)
    assert row.micro_tokens or row.micro_batch_floats, "something bounds a micro-batch"


@pytest.mark.parametrize(
    ("kind", "tokens"),
    [
        ("TPU v4", 4096),
        ("TPU v5 lite", 4096),
        ("TPU v5", 4096),
        ("TPU v6 lite", 8192),
        ("TPU7x", 16384),
        ("NVIDIA A100-SXM4-80GB", 4096),
        ("NVIDIA H100 80GB HBM3", 8192),
        ("NVIDIA L40S", 8192),
        ("Tesla V100-SXM2-16GB", 8192),
        ("TPU v9", 4096),
    ],
)
def test_every_kind_of_device_has_its_defaults(kind, tokens):
    assert row_of(kind).micro_tokens == tokens


def test_a_kind_is_found_by_whole_words():
    assert row_of("NVIDIA L4") == defaults.DEVICES["L4"]
    assert row_of("NVIDIA L40S") == row_of("NVIDIA GH200 480GB") == defaults.GPU
    assert row_of("TPU v5p") == defaults.DEVICES["TPU v5"]
    assert row_of("NVIDIA H100 PCIe").chip.flops < row_of("NVIDIA H100 80GB HBM3").chip.flops


def test_an_unknown_platform_is_refused():
    with pytest.raises(UserError, match="platform 'metal' is none of cpu, gpu and tpu; set"):
        defaults.row_of(SimpleNamespace(platform="metal", device_kind="Apple M3"))


def test_a_cpu_is_a_cpu_whatever_its_kind():
    for platform, row in (("cpu", defaults.CPU), ("cuda", defaults.GPU), ("rocm", defaults.GPU)):
        assert defaults.row_of(SimpleNamespace(platform=platform, device_kind="any")) == row


@pytest.mark.parametrize(("rows", "gib"), [(4, 26.3), (8, 49.0), (16, 94.1)])
def test_memory_of_unrolled_layers_under_fsdp_is_not_underestimated(root, rows, gib):
    """`plan --config=configs/ladders/chinchilla.py:gpu-8 --topology=h100:8 --only=target` with
    machine.accumulation=8, 4, 2 on jax 0.10.2: what the compiler reports for 1b.
    """
    specs = load(f"{root}/configs/ladders/chinchilla.py:gpu-8").specs
    (spec,) = (s for s in specs if s.name.startswith("target"))
    forward = Execution("unroll", attention="cudnn", loss_floats=defaults.GPU.loss_floats)
    kept = defaults.GPU.kept("unroll", fsdp=8)
    estimate = memory_model.step(spec, rows, "none", forward, kept, fsdp=8) / 2**30
    assert 1 < estimate / gib < 1.25
