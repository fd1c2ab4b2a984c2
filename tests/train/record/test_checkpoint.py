"""Checkpoints: what is deleted when, and what a full disk says."""

import jax
import pytest

from stepladder.configs.core.errors import UserError
from stepladder.train.record.checkpoint import Checkpoints, UnreadableError
from tests.support.errors import assert_user_error


def test_only_a_complete_newer_checkpoint_replaces_an_older_one(tmp_path, monkeypatch):
    """While a save is under way, and after one that failed, the one before it is there."""
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(1, {"x": jax.numpy.ones(3)}, {"step": 1})
    checkpoints.wait()
    checkpoints.save(2, {"x": jax.numpy.ones(3)}, {"step": 2})
    assert 1 in checkpoints.steps(), "2 may not be complete"
    checkpoints.wait()
    assert checkpoints.steps() == [2]
    monkeypatch.setattr(
        checkpoints.manager,
        "save",
        lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left on device")),
    )
    with pytest.raises(UserError) as raised:
        checkpoints.save(3, {"x": jax.numpy.ones(3)}, {"step": 3})
    assert_user_error(raised, field="workdir", value=checkpoints.path, remedy="free space")
    checkpoints.close()
    assert checkpoints.steps() == [2]


def test_an_unknown_step_names_those_there_are(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(7, {"x": jax.numpy.ones(3)}, {"step": 7})
    checkpoints.close()
    with pytest.raises(UserError) as raised:
        Checkpoints(checkpoints.path, read_only=True).restore({"x": jax.numpy.ones(3)}, 8)
    assert_user_error(raised, field="step", value=8, remedy=r"existing: \[7\]")


def test_a_checkpoint_out_of_reach_is_not_taken_for_a_damaged_one(tmp_path, monkeypatch):
    """Without memory, or a permission, nothing older is read and nothing is set aside."""
    checkpoints = Checkpoints(tmp_path / "checkpoints", permanent=(1,))
    for step in (1, 2):
        checkpoints.save(step, {"x": jax.numpy.ones(3)}, {"step": step})
    checkpoints.wait()
    full = RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 4831838208 bytes.")
    monkeypatch.setattr(checkpoints, "read", lambda *_: (_ for _ in ()).throw(full))
    with pytest.raises(UserError) as raised:
        checkpoints.restore({"x": jax.numpy.ones(3)})
    assert not isinstance(raised.value, UnreadableError)
    assert_user_error(raised, field="checkpoint", value=checkpoints.path, remedy="free memory")
    checkpoints.close()
    assert checkpoints.steps() == [1, 2]


def test_a_folder_that_is_not_there_is_not_made_to_be_read(tmp_path):
    with pytest.raises(UserError) as raised:
        Checkpoints(tmp_path / "nowhere", read_only=True)
    assert_user_error(raised, field="checkpoint", remedy="stepladder status")
    assert not (tmp_path / "nowhere").exists()
