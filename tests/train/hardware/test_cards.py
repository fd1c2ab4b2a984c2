"""The cards of a machine, by a stand-in for nvidia-smi and a folder of device files: what is
claimed of them, and what is said where jax cannot use them.
"""

import os

import jax
import pytest
from jax._src.cudnn import fused_attention_stablehlo

from stepladder.configs.core.errors import UserError
from stepladder.train.bench.case import Case
from stepladder.train.hardware import cards, machine
from stepladder.train.hardware.machine import Machine
from tests.support.errors import assert_user_error

EMPTY, HALF = "0, 81000 MiB, 81559 MiB", "1, 40000 MiB, 81559 MiB"
UNIFIED = "2, [N/A], [N/A]"


@pytest.fixture
def claimed(tmp_path, monkeypatch):
    """Claim with these lines from nvidia-smi; the share that jax is told, None where nothing is."""
    for name in cards._DECIDED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def claim(*lines: str, memory_gb: float = 0.0) -> float | None:
        tool = tmp_path / "nvidia-smi"
        tool.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in lines))
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        cards.claim(memory_gb)
        said = os.environ.pop("XLA_CLIENT_MEM_FRACTION", None)
        return said and float(said)

    return claim


def test_of_an_empty_card_jaxs_own_share_is_taken(claimed, caplog):
    assert claimed(EMPTY) == 0.75 and not caplog.records


def test_of_a_shared_card_what_is_free_and_it_is_said(claimed, caplog):
    assert claimed(EMPTY, HALF) == pytest.approx(0.95 * 40000 / 81559, abs=1e-3)
    (said,) = (record.getMessage() for record in caplog.records)
    assert said.startswith("card 1: other processes hold 40.6 of its 79.6 GiB")
    assert "at most 37.1 GiB" in said


def test_two_ladders_on_one_card_take_what_each_is_given(claimed):
    assert claimed(EMPTY, memory_gb=30.0) == pytest.approx(30e9 / (81559 * 2**20), abs=1e-3)
    assert claimed(EMPTY, memory_gb=500.0) == 0.75


def test_cards_that_are_hidden_or_do_not_say_do_not_count(claimed, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert claimed(EMPTY, HALF) == 0.75
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert claimed(UNIFIED) is None


def test_without_the_tool_or_where_the_user_decides_nothing_is_set(claimed, monkeypatch):
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    assert claimed(HALF) is None
    monkeypatch.delenv("XLA_PYTHON_CLIENT_PREALLOCATE")
    monkeypatch.setattr(cards, "_QUERY", ("no-such-tool",))
    assert claimed(HALF) is None


def test_a_card_that_jax_cannot_use_is_an_error_not_the_cpu(tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(cards, "_has_cuda", lambda: True)
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    cards.check_reached(tmp_path)  # no card
    (tmp_path / "nvidia0").touch()
    with pytest.raises(UserError) as raised:
        cards.check_reached(tmp_path)
    assert_user_error(raised, field="JAX_PLATFORMS", remedy="JAX_PLATFORMS=cpu")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    cards.check_reached(tmp_path)
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    for name, value in (("JAX_PLATFORMS", "cpu"), ("CUDA_VISIBLE_DEVICES", "")):
        with monkeypatch.context() as asked:
            asked.setenv(name, value)
            cards.check_reached(tmp_path)
    monkeypatch.setattr(cards, "_has_cuda", lambda: False)
    cards.check_reached(tmp_path)


def test_without_cudnn_attention_is_xlas_and_that_is_said_once(monkeypatch, caplog):
    def absent() -> int:
        raise RuntimeError("cuDNN is not detected.")

    spec = Case("1m", 1, 4, 512, "bytes").spec("bfloat16")
    monkeypatch.setattr(machine, "platform_of", lambda _: "gpu")
    monkeypatch.setattr(machine, "defaults_of", lambda _: machine.defaults.DEVICES["gpu"])
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", absent)
    cards.without_cudnn.cache_clear()
    try:
        assert [machine.attention_of(Machine(), spec) for _ in range(2)] == ["xla", "xla"]
        assert len(caplog.records) == 1
        with pytest.raises(UserError) as raised:
            machine.attention_of(Machine(attention="cudnn"), spec)
        assert_user_error(raised, field="machine.attention", value="cudnn", remedy="auto or xla")
        cards.without_cudnn.cache_clear()
        monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91200)
        assert machine.attention_of(Machine(), spec) == "cudnn"
    finally:
        cards.without_cudnn.cache_clear()
