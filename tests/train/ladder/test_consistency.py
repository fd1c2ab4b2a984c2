"""Processes that would not run the same, or not write to the same place, are refused before
anything compiles; in real processes.
"""

import shutil

import jax
import pytest

from stepladder.configs.core.errors import UserError
from stepladder.train.ladder import consistency
from stepladder.train.processes import group
from tests.support.processes import Job, words


@pytest.mark.parametrize(
    "name", ["file train/loop/run.py", pytest.param("package jax", marks=pytest.mark.slow)]
)
def test_another_version_of_the_code_is_refused(root, tmp_path, name):
    job = Job(
        words(root, tmp_path / "text", tmp_path / "work"), 2, tmp_path, envs=[{}, {"OTHER": name}]
    )
    assert job.wait(60) == [1, 1], job.said()
    assert f"processes differ: {name} is" in job.said() and "another on process 1" in job.said()


def test_every_source_file_that_executes_is_compared(root):
    files = {
        str(path.relative_to(root))
        for folder in ("configs", "model", "train")
        for path in (root / folder).rglob("*.py")
    }
    assert len(files) > 100 and {path.split("/")[0] for path in files} == {
        "configs",
        "model",
        "train",
    }
    assert set(consistency.sources()) == {f"file {path}" for path in files}


@pytest.mark.parametrize("folder", ["configs", "model", "train"])
def test_one_byte_changes_what_is_compared(root, tmp_path, folder):
    for name in ("configs", "model", "train"):
        shutil.copytree(root / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    assert consistency.sources(tmp_path) == consistency.sources()
    deepest = max((tmp_path / folder).rglob("*.py"), key=lambda path: (len(path.parts), path))
    deepest.write_bytes(deepest.read_bytes() + b"#")
    changed = {
        k for k, v in consistency.sources(tmp_path).items() if consistency.sources().get(k) != v
    }
    assert changed == {f"file {deepest.relative_to(tmp_path)}"}


def test_a_workdir_that_is_not_shared_is_refused(root, tmp_path):
    each = [words(root, tmp_path / "text", tmp_path / f"work{i}") for i in range(2)]
    job = Job(each, 2, tmp_path)
    assert job.wait(60) == [1, 1], job.said()
    assert "process 1 does not see what process 0 writes there" in job.said()
    assert not list((tmp_path / "work0").iterdir())


def test_hosts_that_jax_found_and_we_did_not_join_are_refused(monkeypatch):
    group.confirm()
    monkeypatch.setattr(jax, "process_count", lambda: 64)
    with pytest.raises(
        UserError, match="one of 64 processes for jax; set STEPLADDER_PROCESSES=auto"
    ):
        group.confirm()


def test_auto_where_nothing_is_found_says_what_to_set(root, tmp_path):
    job = Job(
        words(root, tmp_path / "text", tmp_path / "work"),
        1,
        tmp_path,
        envs=[{group.PROCESSES: "auto"}],
    )
    assert job.wait(60) == [1], job.said()
    assert (
        "STEPLADDER_PROCESSES=auto: jax finds no other hosts" in job.said()
        and "Traceback" not in job.said()
    )
