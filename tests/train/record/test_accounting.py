"""Where a run's time goes: windows, phases, goodput, lost work, memory, and the trace of a window
of dispatches.
"""

import dataclasses
import json
import time

import pytest

from stepladder.configs.core.build import rung
from stepladder.configs.core.errors import UserError
from stepladder.configs.core.goodput import goodput
from stepladder.configs.core.record import (
    EVAL,
    FIELDS,
    LADDER,
    LOST,
    METRICS,
    PROFILE,
    RUNS,
    TIMING,
    TRAIN,
    WINDOW,
    part_name,
)
from stepladder.train.data.read.corpora import stores
from stepladder.train.hardware.machine import Machine, profile_window
from stepladder.train.loop.run import run, run_pack
from stepladder.train.record import status
from stepladder.train.record.clock import PHASES, WAIT, Clock
from stepladder.train.record.record import Record
from tests.support import tiny
from tests.support.records import rows

MACHINE = Machine(devices=4, tensorboard=False)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    spec = rung(tiny.config(folder / "text", run__checkpoints=("50%",)))
    return spec, next(iter(stores([spec], folder / "data", show=False).values()))


def numbers(workdir, spec):
    return [rows(workdir / RUNS / spec.run_id, kind) for kind in (TRAIN, EVAL)]


@pytest.fixture(scope="module")
def finished(base, tmp_path_factory):
    workdir, clock = tmp_path_factory.mktemp("finished"), Clock()
    run(base[0], workdir, base[1], MACHINE, clock=clock)
    return workdir, clock.table()


def test_a_window_has_its_rates_wait_and_memory(base, finished):
    windows = [
        row for row in rows(finished[0] / RUNS / base[0].run_id, TIMING) if row["phase"] == WINDOW
    ]
    assert [(row["step"], row["steps"]) for row in windows] == [(20, 20), (40, 20)]
    for row in windows:
        assert set(FIELDS[TIMING]) <= set(row)
        assert row["tokens_per_second"] == pytest.approx(
            row["steps"] * base[0].tokens_per_step / row["seconds"], rel=0.01
        )
        assert (
            0 <= row["wait"] <= row["seconds"]
            and 0 < row["mfu"] < 1
            and 50e6 < row["memory_bytes"] < 50e9
        )


def test_phases_are_told_at_every_save_and_add_up(base, finished):
    workdir, table = finished
    told = [row for row in rows(workdir / RUNS / base[0].run_id, TIMING) if row["phase"] != WINDOW]
    assert {row["step"] for row in told} == {20, 40} and {row["phase"] for row in told} <= set(
        PHASES
    )
    for phase in ("compile", "steps", "data"):  # nothing of these comes after the last save
        assert sum(row["seconds"] for row in told if row["phase"] == phase) == pytest.approx(
            table[phase], abs=2e-3
        )
    assert sum(row["seconds"] for row in told) <= sum(table.values())


def test_a_member_is_charged_its_share(base, tmp_path):
    """The sum over the members of a pack is the pack's time."""
    spec, store = base
    twins = [spec, dataclasses.replace(spec, hyper=dataclasses.replace(spec.hyper, seed=1))]
    clock = Clock()
    run_pack(twins, tmp_path, {spec.data.corpus: store}, MACHINE, members=4, streams=1, clock=clock)
    told = [
        row
        for twin in twins
        for row in rows(tmp_path / RUNS / twin.run_id, TIMING)
        if row["phase"] == "steps"
    ]
    assert sum(row["seconds"] for row in told) == pytest.approx(clock.table()["steps"], abs=2e-3)


def test_a_clock_keeps_details_out_of_its_sum():
    clock = Clock()
    with clock.phase("steps"), clock.phase(WAIT):
        time.sleep(0.01)
    before, table, details = time.perf_counter() - clock.start, clock.table(), clock.details()
    assert set(details) == {*table, WAIT} and 0.01 <= details[WAIT] <= table["steps"]
    assert before - 1e-9 <= sum(table.values()) <= time.perf_counter() - clock.start + 1e-9, (
        "the phases are all of the time"
    )


def test_lost_work_is_what_heartbeats_outran(base, tmp_path, monkeypatch):
    """Twice killed before a save: both losses are told once, in the first rows that are
    committed.
    """
    spec, _ = base
    record, now = Record(tmp_path, spec), [1e9]
    monkeypatch.setattr(time, "time", lambda: now[0])

    def die_at(step: int) -> None:
        record.heartbeat(step - 10, every=0)
        now[0] += 1.0
        record.heartbeat(step, every=0)

    assert record.count_lost_steps(0) is None
    die_at(30)
    record = Record(tmp_path, spec)
    steps, seconds = record.count_lost_steps(20)
    assert steps == 10 and seconds == pytest.approx(1.0, rel=0.1)
    die_at(35)
    record = Record(tmp_path, spec)
    steps, seconds = record.count_lost_steps(20)
    assert steps == 25 and seconds == pytest.approx(2.5, rel=0.1)
    record.commit_rows(20, 40)
    record.heartbeat(41, every=0)
    assert Record(tmp_path, spec).count_lost_steps(41) is None


def test_a_resumed_run_says_what_was_lost(base, finished, tmp_path):
    """A heartbeat beyond the last checkpoint, as a killed process leaves it."""
    spec, store = base
    Record(tmp_path, spec).heartbeat(7)
    run(spec, tmp_path, store, MACHINE)
    lost = [row for row in rows(tmp_path / RUNS / spec.run_id, TIMING) if row["phase"] == LOST]
    assert [(row["steps"], row["step"]) for row in lost] == [(7, 0)]
    assert numbers(tmp_path, spec) == numbers(finished[0], spec)


def test_status_tells_the_goodput(base, tmp_path):
    spec, _ = base
    folder = tmp_path / RUNS / spec.run_id / METRICS
    folder.mkdir(parents=True)
    (tmp_path / LADDER).write_text(json.dumps({"config": "c", "runs": [spec.run_id]}))
    assert "goodput" not in status.table(tmp_path)
    phases = {"steps": 80.0, "compile": 12.0, "lost": 8.0, "window": 999.0, "eval": 1e-9}
    told = [
        {"kind": TIMING, "phase": phase, "seconds": seconds, "steps": 16}
        for phase, seconds in phases.items()
    ]
    (folder / part_name(0, 20)).write_text("".join(json.dumps(row) + "\n" for row in told))
    assert (
        "goodput 80.0% of 100 s: compile 12.0%, lost 8.0%; 16 steps were made again after a crash"
        in status.table(tmp_path)
    )
    assert goodput({}) is None and goodput({"window": 3.0}) is None


def test_a_profile_is_written_once_and_changes_nothing(base, finished, tmp_path):
    spec, store = base
    machine = dataclasses.replace(MACHINE, profile="2:1")
    run(spec, tmp_path, store, machine)
    (trace,) = (tmp_path / RUNS / spec.run_id / PROFILE).rglob("*.xplane.pb")
    assert trace.stat().st_size > 1000
    assert numbers(tmp_path, spec) == numbers(finished[0], spec)
    other = dataclasses.replace(spec, name="other", hyper=dataclasses.replace(spec.hyper, seed=1))
    run(other, tmp_path, store, machine)
    assert not (tmp_path / RUNS / other.run_id / PROFILE).exists()


def test_a_profile_that_outlasts_the_run_is_written_all_the_same(base, tmp_path):
    spec, store = base
    run(spec, tmp_path, store, dataclasses.replace(MACHINE, profile="0:1000"))
    assert len(list((tmp_path / RUNS / spec.run_id / PROFILE).rglob("*.xplane.pb"))) == 1


@pytest.mark.parametrize("text", ["5", "a:b", "3:0", "-1:2"])
def test_a_window_is_checked_before_anything_runs(text):
    with pytest.raises(UserError, match="machine.profile"):
        profile_window(text)
