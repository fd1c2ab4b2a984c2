"""A run stopped on one mesh and finished on another continues exactly: same steps, same examples,
losses to rounding.
"""

import numpy as np
import pytest

from stepladder.configs.core import record
from stepladder.configs.core.build import rung
from stepladder.train.data.read.corpora import stores
from stepladder.train.hardware.machine import Machine
from stepladder.train.loop.run import run
from stepladder.train.processes.preemption import Preempted, Preemption
from tests.support import tiny
from tests.support.records import rows

BEFORE = Machine(devices=8, mesh="fsdp=8", tensorboard=False)
STOP = 20


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """(spec, store, rows) of a run that stays on its mesh."""
    folder = tmp_path_factory.mktemp("resharding")
    spec = rung(tiny.config(folder / "text", run__log_every=1))
    store = next(iter(stores([spec], folder / "data", show=False).values()))
    assert run(spec, folder, store, BEFORE) == record.DONE
    return spec, store, rows(folder / record.RUNS / spec.run_id)


@pytest.mark.parametrize(
    ("devices", "mesh"),
    [
        (4, "data=1,fsdp=2,tensor=2"),
        pytest.param(8, "data=8", marks=pytest.mark.slow),
        pytest.param(1, "auto", marks=pytest.mark.slow),
    ],
)
def test_finished_on_another_mesh(unbroken, tmp_path, devices, mesh):
    spec, store, want = unbroken
    preemption = Preemption()
    with pytest.raises(Preempted):
        run(
            spec,
            tmp_path,
            store,
            BEFORE,
            preemption=preemption,
            progress=lambda _, step, __: setattr(preemption, "requested", step >= STOP),
        )
    stopped = max(row["step"] for row in rows(tmp_path / record.RUNS / spec.run_id))
    assert STOP <= stopped < spec.steps
    assert (
        run(spec, tmp_path, store, Machine(devices=devices, mesh=mesh, tensorboard=False))
        == record.DONE
    )
    found = rows(tmp_path / record.RUNS / spec.run_id)

    def key(row):
        return (row["step"], row["kind"], row.get("domain"))

    assert [key(row) for row in found] == [key(row) for row in want]
    assert [row for row in found if row["step"] <= stopped] == [
        row for row in want if row["step"] <= stopped
    ], "bitwise before the stop"
    losses, wanted = (
        np.array([row["loss"] for row in all_rows if row["step"] > stopped])
        for all_rows in (found, want)
    )
    np.testing.assert_allclose(losses[0], wanted[0], rtol=1e-6)
    np.testing.assert_allclose(losses, wanted, rtol=1e-4)
