"""A finished checkpoint, opened again: evaluated, sampled, exported."""

import dataclasses

import pytest

from stepladder.configs.core.build import rung
from stepladder.configs.core.errors import UserError
from stepladder.configs.core.record import DONE, EVAL, RUNS
from stepladder.train.data.read.corpora import stores
from stepladder.train.export import npz, restore
from stepladder.train.hardware.machine import Machine
from stepladder.train.loop.run import run
from tests.support import tiny
from tests.support.errors import assert_user_error
from tests.support.records import rows

MACHINE = Machine(devices=2, tensorboard=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(record, store) of a finished run."""
    folder = tmp_path_factory.mktemp("run")
    spec = rung(tiny.config(folder / "text"))
    store = next(iter(stores([spec], folder / "data", show=False).values()))
    assert run(spec, folder, store, MACHINE) == DONE
    return folder / RUNS / spec.run_id, store


def test_evaluation_sample_and_export_agree_with_the_record(finished, tmp_path):
    record, store = finished
    opened = restore.open_checkpoint(f"{record}@40", str(store.path), MACHINE)
    recorded = {r["domain"]: r["loss"] for r in rows(record, EVAL) if r["step"] == 40}
    for row in restore.evaluate(opened):
        assert row["loss"] == pytest.approx(recorded[row["domain"]], rel=1e-6)
    text = restore.sample(opened, "document words", 30, 0.0, 0)
    assert text.startswith("document words") and len(text) > 20
    assert text == restore.sample(opened, "document words", 30, 0.0, 1), (
        "temperature 0 does not depend on the seed"
    )
    _, opened.params = npz.load(npz.export(opened, tmp_path / "weights"))
    assert restore.evaluate(opened)[0]["loss"] == pytest.approx(recorded["all"], rel=1e-6)


def test_evaluation_on_a_mesh_that_cuts_the_parameters(finished):
    record, store = finished
    machine = dataclasses.replace(MACHINE, mesh="fsdp=2")
    whole, cut = (
        restore.evaluate(restore.open_checkpoint(str(record), str(store.path), each))
        for each in (MACHINE, machine)
    )
    assert [row["loss"] for row in cut] == pytest.approx([r["loss"] for r in whole], rel=1e-5)


@pytest.mark.parametrize(
    "reference, field, remedy",
    [
        ("{record}@39", "step", r"existing: \[40\]"),
        ("{record}@last", "run", "write RUN@120"),
        ("{record}-other", "run", "stepladder status"),
    ],
)
def test_what_cannot_be_opened_is_refused(finished, reference, field, remedy):
    record, store = finished
    with pytest.raises(UserError) as raised:
        restore.open_checkpoint(reference.format(record=record), str(store.path), MACHINE)
    assert_user_error(raised, field=field, remedy=remedy)
