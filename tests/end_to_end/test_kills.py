"""Killed at any moment, most often while a checkpoint is completed or deleted, a run goes on
and is bitwise the unbroken one.
"""

import contextlib
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
from stepladder.configs.core.record import CHECKPOINTS, HEARTBEAT, LINEAGE, METRICS, RUNS
from stepladder.train.hardware.machine import Machine
from stepladder.train.processes.address import TIMEOUT
from stepladder.train.record.checkpoint import Checkpoints
from stepladder.train.step.program import Program
from tests.support import tiny
from tests.support.processes import Job
from tests.support.records import rows

SEED = int(os.environ.get("STEPLADDER_CRASH_SEED", random.SystemRandom().randrange(10**6)))
KILLS = 10  # of each of the six chains
# longer than ten starts of some seconds each
DURATION = {"single": "10000 steps", "pack": "2000 steps"}
STEPS = dict(
    run__evals=("50%", "100%"),
    run__checkpoints=("30%", "70%"),
    run__log_every=50,
    data__max_epochs=200,
)
EVERY_SECOND = dict(machine__temporary_every=1.0)
WITHIN = 30  # seconds in which every process of a job has gone
LADDER = '''
"""Three rates of the base config, in one pack."""
import dataclasses

from stepladder.configs import base

get_config = base.get_config


def ladder(config):
    (spec,) = base.ladder(config)
    rates = (0.003, 0.01, 0.02)
    hypers = [dataclasses.replace(spec.hyper, learning_rate=rate) for rate in rates]
    return [dataclasses.replace(spec, name=f"r{i}", hyper=h) for i, h in enumerate(hypers)]
'''


@pytest.fixture(scope="module")
def ladders(root, tmp_path_factory):
    """Kind -> (words of its command, unbroken workdir)."""
    folder = tmp_path_factory.mktemp("kills")
    (folder / "pack.py").write_text(LADDER)
    found = {}
    for kind, config in (("single", root / "configs" / "base.py"), ("pack", folder / "pack.py")):
        changes = dict(
            machine__store=str(folder / "data"),
            machine__devices=1,
            run__duration=DURATION[kind],
            **STEPS,
        )
        words = [f"--config={config}", *tiny.overrides(folder / "text", **changes)]
        finish(words, folder / kind)
        found[kind] = words, folder / kind
    return found


def start(words: list[str], workdir: Path, fault: str = "") -> subprocess.Popen:
    env = {**os.environ, **({"STEPLADDER_FAULT": fault} if fault else {})}
    command = [
        sys.executable,
        "-m",
        "stepladder.train",
        "run",
        f"--workdir={workdir}",
        "--quiet",
        *words,
    ]
    return subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(words: list[str], workdir: Path) -> None:
    process = start(words, workdir)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0 and "done" in said, said


def often(words: list[str]) -> list[str]:
    return [
        *words,
        *(f"--config.{key.replace('__', '.')}={value}" for key, value in EVERY_SECOND.items()),
    ]


def on_disk(workdir: Path, pattern: str) -> set[Path]:
    """What matches in the runs' folders; they change while we look."""
    with contextlib.suppress(OSError):
        return set(workdir.glob(f"{RUNS}/*/{pattern}"))
    return set()


def written(workdir: Path, pattern: str) -> set[tuple[Path, int]]:
    """What matches, with the time of its last change."""
    with contextlib.suppress(OSError):
        return {(path, path.stat().st_mtime_ns) for path in on_disk(workdir, pattern)}
    return set()


MOMENTS = {
    "during a save": f"{CHECKPOINTS}/*tmp*",
    "after a save": f"{CHECKPOINTS}/[0-9]*",
    "during a deletion": f"{CHECKPOINTS}.deleted/*",
    "between rows and checkpoint": f"{METRICS}/*",
}


def wait_for(process: subprocess.Popen, workdir: Path, moment: str, rng: random.Random) -> None:
    """Until something new of that kind is there, and a moment longer; at most a few seconds after
    the first heartbeat.
    """
    before = on_disk(workdir, MOMENTS[moment]) if moment in MOMENTS else set()
    beats = written(workdir, HEARTBEAT)
    while process.poll() is None and not written(workdir, HEARTBEAT) - beats:
        time.sleep(0.01)
    end = time.monotonic() + rng.uniform(0.0, 3.0) + (2.0 if moment in MOMENTS else 0.0)
    while process.poll() is None and time.monotonic() < end:
        if moment in MOMENTS and on_disk(workdir, MOMENTS[moment]) - before:
            time.sleep(rng.uniform(0.0, 0.03))
            return
        time.sleep(0.001)


def assert_same(words: list[str], broken: Path, unbroken: Path) -> int:
    """Every metrics row (timing aside) and array of every run; returns how many arrays."""
    arrays = 0
    config, overrides = (
        words[0].removeprefix("--config="),
        [w.removeprefix("--config.").partition("=")[::2] for w in words[1:]],
    )
    for spec in load(config, overrides).specs:
        folders = [w / RUNS / spec.run_id for w in (broken, unbroken)]
        assert rows(folders[0]) == rows(folders[1]), spec.run_id
        abstract = Program(spec, Machine(devices=1)).abstract_state
        for step in spec.checkpoint_steps:
            a, b = (
                Checkpoints(f / CHECKPOINTS, read_only=True).restore(abstract, step)[0]
                for f in folders
            )
            for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
                np.testing.assert_array_equal(np.asarray(x), np.asarray(y))
                arrays += 1
        assert {int(p.name) for p in (folders[0] / CHECKPOINTS).iterdir()} == set(
            spec.checkpoint_steps
        )
        assert not (folders[0] / f"{CHECKPOINTS}.deleted").exists()
    return arrays


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind, chain", [(kind, chain) for kind in ("single", "pack") for chain in range(3)]
)
def test_killed_ten_times_and_resumed(ladders, tmp_path, kind, chain):
    """Kills by SIGKILL and Ctrl-C: at fault points, by what lies on the disk, and anywhere."""
    words, unbroken = ladders[kind]
    rng, deaths = random.Random(f"{SEED} {kind} {chain}"), []
    print(f"seed {SEED} (STEPLADDER_CRASH_SEED repeats it)")
    faults = [
        f"{point}:{rng.randint(1, 3)}"
        for point in ("during_checkpoint", "during_deletion", "after_metrics")
    ]
    moments = [
        *MOMENTS,
        *rng.choices([*MOMENTS, "anywhere"], k=KILLS - len(faults) - len(MOMENTS) - 1),
        "anywhere",
    ]
    for moment in rng.sample([*faults, *moments], KILLS):
        process = start(often(words), tmp_path, moment if moment in faults else "")
        number = rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGINT])
        if moment not in faults:
            wait_for(process, tmp_path, moment, rng)
            process.send_signal(number)
        said, _ = process.communicate(timeout=60)
        steps = [
            int(p.name) for p in on_disk(tmp_path, f"{CHECKPOINTS}/[0-9]*") if p.name.isdigit()
        ]
        deaths.append((moment, process.returncode, max(steps, default=0)))
        assert process.returncode in (-signal.SIGKILL, 130, 0), said
        assert "Traceback" not in said and "cannot schedule" not in said, said
    finish(words, tmp_path)
    arrays = assert_same(words, tmp_path, unbroken)
    killed = [moment for moment, code, _ in deaths if code != 0]
    assert len(killed) >= KILLS // 2, f"the runs were over before most of the kills: {deaths}"
    reached = [step for _, _, step in deaths]
    assert reached == sorted(reached), f"work was lost that a checkpoint had: {deaths}"
    print(
        f"{kind} {chain}: {arrays} arrays equal after",
        *(f"{m} ({code}, step {s})" for m, code, s in deaths),
        sep="\n  ",
    )


@pytest.mark.slow
@pytest.mark.parametrize("victims", [(0,), (1,), (0, 1)], ids=str)
@pytest.mark.parametrize(
    "how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda s: s.name
)
def test_two_processes_never_wait_for_one_that_is_gone(ladders, tmp_path, how, victims):
    """Signals from the first instruction to the last step: every process has gone within 30
    seconds.

    A repeated command goes on.
    """
    rng = random.Random(f"{SEED} {how} {victims}")
    for after in ("start", "met", "steps"):
        # the first may come as far as to leave files that the second waits for
        workdir = tmp_path / ("begun" if after == "start" else "work")
        words = ["run", f"--workdir={workdir}", "--quiet", *often(ladders["single"][0])]
        pattern = LINEAGE if after == "met" else HEARTBEAT
        before = written(workdir, pattern)
        job = Job(words, 2, tmp_path / after, timeout=20, recorded=False)
        if after != "start":
            job.until(lambda w=workdir, p=pattern, before=before: written(w, p) - before)
        time.sleep(rng.uniform(0.0, 3.0 if after == "start" else 2.0))
        for victim in victims:
            job.processes[victim].send_signal(how)
        began = time.monotonic()
        statuses = job.wait(WITHIN)
        print(f"{how.name} to {victims} {after}: {statuses} after {time.monotonic() - began:.1f} s")
        assert all(status in (143, 130, -how) for status in statuses), job.said()
        assert TIMEOUT not in job.said() or after == "start", job.said()
