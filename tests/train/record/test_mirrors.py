"""Mirrors of the record's rows for dashboards."""

import dataclasses
import json
from pathlib import Path

import pytest

from stepladder.configs.core.build import rung
from stepladder.configs.core.record import METRICS, TRAIN
from stepladder.train.hardware.machine import Machine
from stepladder.train.record.mirrors.mirrors import MIRRORS
from stepladder.train.record.record import Record
from tests.support import tiny

TRAIN_ROW = {"loss": 2.5, "z_loss": 0.0, "grad_norm": 1.0, "learning_rate": 0.1}
EVAL_ROW = {"domain": "words", "loss": 2.0}


@pytest.fixture
def spec(tmp_path):
    return rung(tiny.config(tmp_path / "text"))


def commit(workdir: Path, spec, mirrors: tuple[str, ...]) -> Record:
    record = Record(workdir, spec, mirrors)
    record.add(TRAIN, 5, **TRAIN_ROW)
    record.add("eval", 5, **EVAL_ROW)
    record.commit_rows(0, 5)
    return record


def test_tensorboard_mirrors_the_committed_rows(spec, tmp_path):
    """Event files hold the record's tags; a mirror changes nothing in the record."""
    mirrored, plain = (
        commit(tmp_path / str(len(names)), spec, names) for names in (("tensorboard",), ())
    )
    events = b"".join(path.read_bytes() for path in (mirrored.path / "tensorboard").iterdir())
    assert all(tag in events for tag in (b"train/loss", b"train/learning_rate", b"eval/words"))
    assert not (plain.path / "tensorboard").exists()
    parts = [next((record.path / METRICS).iterdir()).read_text() for record in (mirrored, plain)]
    assert parts[0] == parts[1] and json.loads(parts[0].splitlines()[0])["loss"] == 2.5


def test_every_mirror_has_its_config_key():
    assert {f.name for f in dataclasses.fields(Machine)} >= set(MIRRORS)


def test_without_rows_nothing_is_mirrored(spec, tmp_path):
    record = Record(tmp_path, spec, ("tensorboard",))
    record.commit_rows(0, 5)
    assert not record.path.exists()
