"""Show: a ladder killed anywhere and repeated is bit for bit the unbroken ladder.

Real processes, real SIGKILL; slow.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from stepladder.configs.core.load import load
from stepladder.configs.core.record import (
    CHECKPOINTS,
    FORECAST,
    LINEAGE,
    RUNS,
    TIMES,
)
from stepladder.train.hardware.machine import Machine
from stepladder.train.record.checkpoint import Checkpoints
from stepladder.train.step.program import Program
from tests.support.records import rows

# configs/demo.py:cpu for the real thing
CONFIG = os.environ.get("STEPLADDER_CRASH_CONFIG", "configs/demo.py:tiny")
SEED = int(os.environ.get("STEPLADDER_CRASH_SEED", random.SystemRandom().randrange(10**6)))
DEVICES = 2


def start(root: Path, workdir: Path, fault: str = "") -> subprocess.Popen:
    words = [
        "run",
        f"--config={root / CONFIG}",
        f"--workdir={workdir}",
        "--quiet",
        f"--config.machine.devices={DEVICES}",
    ]
    env = {**os.environ, **({"STEPLADDER_FAULT": fault} if fault else {})}
    return subprocess.Popen(
        [sys.executable, "-m", "stepladder.train", *words],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(root: Path, workdir: Path) -> float:
    began = time.monotonic()
    process = start(root, workdir)
    out, err = process.communicate(timeout=1500)
    assert process.returncode == 0, err
    assert "done" in out
    return time.monotonic() - began


@pytest.fixture(scope="module")
def unbroken(root, tmp_path_factory):
    # a finished workdir of CONFIG, to save its minutes
    if given := os.environ.get("STEPLADDER_CRASH_UNBROKEN"):
        return Path(given), json.loads((Path(given) / TIMES).read_text())["seconds"]["steps"]
    workdir = tmp_path_factory.mktemp("unbroken")
    seconds = finish(root, workdir)
    return workdir, seconds


def assert_same(root: Path, broken: Path, unbroken: Path) -> None:
    """Final parameters, optimizer state and every metrics row (timing aside), of every run."""
    for spec in load(str(root / CONFIG)).specs:
        folders = [w / RUNS / spec.run_id for w in (broken, unbroken)]
        assert rows(folders[0]) == rows(folders[1]), spec.run_id
        abstract = Program(spec, Machine(devices=DEVICES)).abstract_state
        a, b = (Checkpoints(f / CHECKPOINTS, read_only=True).restore(abstract)[0] for f in folders)
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
            np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


@pytest.mark.slow
def test_killed_again_and_again(root, tmp_path, unbroken):
    """One ladder, six deaths: three at random moments, one in a checkpoint's write, one between
    metrics and checkpoint, one after the forecast.
    """
    print(f"seed {SEED} (STEPLADDER_CRASH_SEED repeats it)")
    workdir, seconds = unbroken
    rng, deaths = random.Random(SEED), []
    plan = [rng.uniform(0.05, 0.18) * seconds for _ in range(3)] + [
        "during_checkpoint:5",
        "after_metrics:3",
        "after_forecast:1",
    ]
    rng.shuffle(plan)
    plan.sort(key=lambda death: death == "after_forecast:1")  # the ladder gets there only once
    for death in plan:
        process = start(root, tmp_path, death if isinstance(death, str) else "")
        if not isinstance(death, str):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=death)
            process.kill()
        process.communicate()
        deaths.append((death, process.returncode))
    print("deaths (after seconds, or at a fault): ", deaths)
    assert [code for _, code in deaths] == [-signal.SIGKILL] * 6
    finish(root, tmp_path)
    assert_same(root, tmp_path, workdir)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [
        "during_checkpoint:3",
        "during_checkpoint:20",
        "after_metrics:2",
        "after_metrics:15",
        "after_checkpoint:4",
        "after_forecast:1",
    ],
)
def test_killed_by_fault_injection(fault, root, tmp_path, unbroken):
    """In the middle of a checkpoint write, between the metrics' commit and the checkpoint's,
    between commit and status, between forecast and target.
    """
    process = start(root, tmp_path, fault)
    process.communicate(timeout=1500)
    assert process.returncode == -signal.SIGKILL
    if fault.startswith("after_forecast"):
        written = (tmp_path / FORECAST).read_text()
    finish(root, tmp_path)
    assert_same(root, tmp_path, unbroken[0])
    if fault.startswith("after_forecast"):
        assert (tmp_path / FORECAST).read_text() == written, "a forecast is never written again"


@pytest.mark.slow
def test_done_is_done(root, unbroken):
    """The same command again: exit 0 in seconds, nothing rewritten."""
    workdir = unbroken[0]
    before = {p: p.stat().st_mtime_ns for p in workdir.rglob("*") if p.is_file()}
    finish(root, workdir)
    assert {p: p.stat().st_mtime_ns for p in workdir.rglob("*") if p.is_file()} == before


@pytest.mark.slow
def test_the_forecast_came_first(root, unbroken):
    """The forecast's file names the target's spec and is older than the target's record; the report
    shows both.
    """
    workdir = unbroken[0]
    target = next(s for s in load(str(root / CONFIG)).specs if s.tag["role"] == "target")
    (entry,) = json.loads((workdir / FORECAST).read_text())["forecasts"]
    assert (
        entry["target_spec_hash"] == target.hash
        and entry["low"] < entry["prediction"] < entry["high"]
    )
    lineage = json.loads((workdir / RUNS / target.run_id / LINEAGE).read_text())
    assert entry["written_utc"] <= lineage["created_utc"]
    done = subprocess.run(
        [sys.executable, "-m", "stepladder.train", "report", f"--workdir={workdir}"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "forecast" in done.stdout, done.stderr
