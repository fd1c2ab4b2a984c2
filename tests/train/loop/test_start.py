"""What is refused before anything compiles, and which start needs an initialisation."""

import dataclasses
from types import SimpleNamespace

import pytest

from stepladder.configs.core.build import rung
from stepladder.configs.core.errors import UserError
from stepladder.configs.core.spec import ParentSpec
from stepladder.train.checks import memory
from stepladder.train.data.read.corpora import stores
from stepladder.train.hardware.machine import Machine
from stepladder.train.loop.run import run
from stepladder.train.loop.start import RESETTABLE, check_reset, needs_init
from tests.support import tiny
from tests.support.errors import assert_user_error


def child_of(spec, reset):
    return dataclasses.replace(spec, name="child", parent=ParentSpec("parent-0", 40, reset))


def test_an_unknown_part_is_refused_before_anything_compiles(tmp_path, monkeypatch):
    def compile(*_):
        pytest.fail("compiled")

    monkeypatch.setattr(memory, "check", compile)
    spec = rung(tiny.config(tmp_path / "text"))
    store = next(iter(stores([spec], tmp_path / "data", show=False).values()))
    with pytest.raises(UserError) as raised:
        run(child_of(spec, ("optimiser",)), tmp_path, store, Machine(devices=2))
    assert_user_error(raised, field="parent.reset", value="optimiser", remedy="optimizer")
    assert not (tmp_path / "runs").exists()


def test_every_resettable_part_is_accepted(tmp_path):
    spec = rung(tiny.config(tmp_path / "text"))
    check_reset(spec)
    check_reset(child_of(spec, tuple(RESETTABLE)))


@pytest.mark.parametrize(
    ("steps", "parent", "needed"),
    [
        ([], None, True),
        ([10], None, False),
        ([], ParentSpec("p", 40), False),
        ([], ParentSpec("p", 40, ("step",)), True),
        ([10], ParentSpec("p", 40, ("step",)), False),
    ],
)
def test_a_start_needs_an_initialisation(steps, parent, needed):
    member = SimpleNamespace(
        spec=SimpleNamespace(parent=parent), checkpoints=SimpleNamespace(steps=lambda: steps)
    )
    assert needs_init(member) == needed
