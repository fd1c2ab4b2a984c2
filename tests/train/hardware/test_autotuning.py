"""The kernels that a GPU's compiler chose travel with the workdir."""

import jax
import pytest

from stepladder.configs.core.record import AUTOTUNING
from stepladder.train.hardware import autotuning


@pytest.fixture
def machine(tmp_path):
    """Use the compilation cache of one machine or another."""
    before = jax.config.values["jax_compilation_cache_dir"]

    def use(name):
        cache = tmp_path / name if name else None
        jax.config.update("jax_compilation_cache_dir", cache and str(cache))
        return cache and cache / "xla_gpu_per_fusion_autotune_cache_dir"

    yield use
    jax.config.update("jax_compilation_cache_dir", before)


def test_another_machine_gets_what_the_first_chose(machine, tmp_path):
    workdir, first = tmp_path / "W", machine("first")
    autotuning.bring(workdir)  # a new workdir: nothing to bring
    first.mkdir(parents=True)
    (first / "a.textproto").write_text("cublas 3")
    autotuning.keep(workdir)
    assert [file.name for file in (workdir / AUTOTUNING).iterdir()] == ["a.textproto"]
    second = machine("second")
    autotuning.bring(workdir)
    assert (second / "a.textproto").read_text() == "cublas 3"


def test_what_is_there_stays(machine, tmp_path):
    """A machine's own choice is in executables that its cache holds."""
    workdir, cache = tmp_path / "W", machine("one")
    cache.mkdir(parents=True)
    (cache / "a.textproto").write_text("cublas 3")
    autotuning.keep(workdir)
    (cache / "a.textproto").write_text("triton 7")
    autotuning.keep(workdir)
    assert (workdir / AUTOTUNING / "a.textproto").read_text() == "cublas 3"
    autotuning.bring(workdir)
    assert (cache / "a.textproto").read_text() == "triton 7"


def test_without_a_cache_nothing_is_kept(machine, tmp_path):
    machine("")
    autotuning.keep(tmp_path / "W")
    autotuning.bring(tmp_path / "W")
    assert not (tmp_path / "W").exists()


def test_a_cache_that_cannot_be_written_is_no_error(machine, tmp_path, caplog):
    (tmp_path / "W" / AUTOTUNING).mkdir(parents=True)
    (tmp_path / "W" / AUTOTUNING / "a.textproto").write_text("cublas 3")
    machine("file")
    (tmp_path / "file").write_text("no folder")
    autotuning.bring(tmp_path / "W")
    assert "chosen anew" in caplog.text
