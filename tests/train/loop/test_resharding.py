"""A run stopped on one mesh and finished on another continues exactly: same steps, same examples,
losses to rounding.
"""

import json

import numpy as np
import pytest

from stepladder.configs.core import record
from stepladder.configs.core.build import rung
from stepladder.train.data.read.corpora import stores
from stepladder.train.hardware.machine import Machine
from stepladder.train.loop.run import run
from stepladder.train.processes.preemption import Notice, Preempted
from tests.support import tiny

BEFORE = Machine(devices=8, mesh="fsdp=8", tensorboard=False)
STOP = 20


def rows(workdir, spec) -> list[dict]:
    parts = sorted((workdir / record.RUNS / spec.run_id / record.METRICS).glob("*.jsonl"))
    found = [json.loads(line) for part in parts for line in part.read_text().splitlines()]
    return [row for row in found if row["kind"] != record.TIMING]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """(spec, store, rows) of a run that stays on its mesh."""
    folder = tmp_path_factory.mktemp("resharding")
    spec = rung(tiny.config(folder / "text", run__log_every=1))
    store = next(iter(stores([spec], folder / "data", show=False).values()))
    assert run(spec, folder, store, BEFORE) == record.DONE
    return spec, store, rows(folder, spec)


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
    notice = Notice()
    with pytest.raises(Preempted):
        run(
            spec,
            tmp_path,
            store,
            BEFORE,
            notice=notice,
            progress=lambda _, step, __: setattr(notice, "arrived", step >= STOP),
        )
    stopped = max(row["step"] for row in rows(tmp_path, spec))
    assert STOP <= stopped < spec.steps
    assert (
        run(spec, tmp_path, store, Machine(devices=devices, mesh=mesh, tensorboard=False))
        == record.DONE
    )
    found = rows(tmp_path, spec)

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
