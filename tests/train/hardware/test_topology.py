"""Programs compiled for TPU slices that are not here: what fits, what does not, and what libtpu
does not know.
"""

import dataclasses
import re

import jax
import pytest

from stepladder.configs.core.errors import UserError
from stepladder.configs.core.load import load
from stepladder.train.cli import parser
from stepladder.train.hardware import topology, tpu_slice
from stepladder.train.hardware.machine import Machine
from stepladder.train.hardware.mesh import mesh_of_pack, mesh_of_run, padded_members
from stepladder.train.ladder import executables


@pytest.mark.parametrize("name", ["v9:2x2", "v5e:3x", "gpu"])
def test_an_unknown_slice_is_refused(name, root, capsys):
    assert (
        parser.main(
            [
                "plan",
                f"--config={root}/configs/studies/proxy_transfer.py:tiny",
                f"--topology={name}",
            ]
        )
        == 1
    )
    assert f"topology={name!r}" in capsys.readouterr().err


def test_without_libtpu_the_fix_is_named(monkeypatch):
    monkeypatch.setattr(tpu_slice.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="stepladder\\[tpu-plan\\]"):
        topology.devices("v5e:4x8")  # no other test asks for it: found slices are kept


@pytest.mark.parametrize(
    ("name", "count", "gib"), [("v5e:16x16", 256, 16), ("v5p:2x2x4", 16, 95), ("v6e:4x4", 16, 32)]
)
def test_slices_have_their_devices_and_memory(name, count, gib):
    assert len(topology.devices(name)) == count and topology.memory(name) == gib * 2**30
    with pytest.raises(RuntimeError):  # compiled for, never run on
        jax.device_put(0, topology.devices(name)[0])


def test_a_tpu_host_is_left_as_it_is(tmp_path, monkeypatch):
    monkeypatch.delenv("TPU_WORKER_HOSTNAMES", raising=False)
    (tmp_path / "accel0").touch()
    tpu_slice.hush(tmp_path)
    assert "TPU_WORKER_HOSTNAMES" not in tpu_slice.os.environ
    (tmp_path / "accel0").unlink()
    tpu_slice.hush(tmp_path)
    assert tpu_slice.os.environ["TPU_WORKER_HOSTNAMES"] == "localhost"
    monkeypatch.delenv("TPU_WORKER_HOSTNAMES")


@pytest.mark.slow
def test_the_tiny_study_compiles_for_a_slice(root, capsys):
    """Packs of any number of runs leave no chip out, and every executable is small beside a chip's
    memory.
    """
    assert (
        parser.main(
            [
                "plan",
                f"--config={root}/configs/studies/proxy_transfer.py:tiny",
                "--topology=v5e:2x2",
            ]
        )
        == 0
    )
    rows = re.findall(
        r"(\d+) runs, +(\d+) at once on +(\d+) devices: "
        r"+([\d,.]+) MiB a device, (\d+)% of 16.0 GiB",
        capsys.readouterr().out,
    )
    assert len(rows) == 3 and sum(int(r[0]) for r in rows) == 42
    for _, members, devices, mib, share in rows:
        assert int(members) % 4 == 0 and int(devices) == 4 and 0 < float(mib) < 100 and share == "0"


@pytest.mark.slow
def test_what_does_not_fit_is_said_with_its_size(root):
    """A batch taken whole; cut into micro-batches, as it is unless the machine says otherwise, the
    same fits.
    """
    loaded = load(
        f"{root}/benchmarks/rung24.py:84k", [("run.batch_size", "32768"), ("data.seq_len", "1024")]
    )
    machine = dataclasses.replace(
        Machine.from_config(loaded.config), topology="v5e:2x2", compilation_cache="off", pack="off"
    )
    whole = dataclasses.replace(machine, accumulation=1, remat="none")
    (found,) = executables.compile_all(loaded.specs[:1], whole)
    assert not found.fits and found.bytes > 100 * 2**30 and 15 * 2**30 < found.memory < 16 * 2**30
    assert "DOES NOT FIT" in executables.row(found) and "machine.accumulation=" in executables.row(
        found
    )
    (cut,) = executables.compile_all(loaded.specs[:1], machine)
    assert (
        cut.fits
        and cut.micro_batch < cut.local_batch
        and "DOES NOT FIT" not in executables.row(cut)
    )


def test_a_pack_leaves_no_chip_out(root):
    """Padding to a multiple of the chips, or to a divisor of their number, whose rest shares the
    batch.
    """
    machine = Machine(topology="v5e:16x16")
    assert [padded_members(machine, k, 256) for k in (2, 3, 5, 207, 256, 300)] == [
        2,
        4,
        8,
        256,
        256,
        512,
    ]
    (spec,) = load(f"{root}/configs/base.py", [("run.batch_size", "64")]).specs
    assert dict(mesh_of_pack(machine, spec, 8, "vmap").shape) == {
        "run": 8,
        "data": 32,
        "fsdp": 1,
        "tensor": 1,
    }
    # of which no more than three devices can have a part
    odd = dataclasses.replace(spec, batch_size=3)
    assert mesh_of_pack(Machine(topology="v5e:2x2"), odd, 1, "vmap").size == 3
    with pytest.raises(UserError, match="keeps 8 of 256 devices busy"):
        mesh_of_pack(machine, odd, 8, "vmap")
    # on several hosts, padding until every device has a member or a part of one
    assert padded_members(machine, 8, 3) == 256
    # on 64 hosts none may be left out: they repeat each other's work
    assert mesh_of_run(machine, odd).shape["run"] == 256
