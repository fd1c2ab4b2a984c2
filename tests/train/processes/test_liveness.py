"""Heartbeats over a key-value store that the processes share; here each is an object."""

import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from stepladder.train.processes import liveness
from stepladder.train.processes.liveness import Heartbeats, SingleProcess

# a thread that raises SystemExit stands for a process that exits
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


class Store(dict):
    """As much of jax's key-value store as a heartbeat needs."""

    def key_value_set(self, key, value, allow_overwrite=False):
        assert allow_overwrite
        self[key] = value

    def key_value_dir_get(self, prefix):
        return [(key, self[key]) for key in list(self) if key.startswith(prefix)]

    def key_value_try_get(self, key):
        if key not in self:
            raise RuntimeError(f"NOT_FOUND: Config key {key} not found.")
        return self[key]


@pytest.fixture
def exits(monkeypatch):
    """(status, why) of every process that has left."""
    found = []

    def leave(status, why):
        found.append((status, why))
        raise SystemExit(status)

    monkeypatch.setattr(liveness, "exit_now", leave)
    for name, seconds in (("EVERY", 0.01), ("SILENT", 0.5), ("LINGER", 0.1)):
        monkeypatch.setattr(liveness, name, seconds)
    return found


@pytest.fixture
def start():
    started = []

    def heartbeats(store, index, count, flag=None):
        started.append(Heartbeats(store, index, count, "localhost:1", flag))
        started[-1].start()
        return started[-1]

    yield heartbeats
    for thread in started:
        thread.stop()


def until(condition):
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_signal_to_any_process_reaches_process_0(start, exits):
    store, flags = Store(), [SimpleNamespace(requested=False, meeting=False) for _ in range(2)]
    for index, flag in enumerate(flags):
        start(store, index, 2, flag)
    flags[1].requested = True
    until(lambda: flags[0].requested)
    assert not exits


def test_a_silent_process_ends_all_the_others(start, exits):
    store = Store()
    beats = [start(store, index, 3) for index in range(3)]
    beats[2].stop()
    until(lambda: len(exits) == 2)
    assert {status for status, _ in exits} == {liveness.LOST}
    assert all(why.startswith("process 2 is lost") for _, why in exits)


def test_why_one_process_ends_is_said_by_all(start, exits):
    store = Store()
    beats = [start(store, index, 3) for index in range(3)]
    with pytest.raises(SystemExit):
        beats[1].abort_all(1, "workdir=x: disk full")
    until(lambda: len(exits) == 3)
    assert exits.count((1, "workdir=x: disk full")) == 1
    assert exits.count((1, "process 1: workdir=x: disk full")) == 2


def test_a_single_process_just_leaves(exits):
    alone = SingleProcess()
    alone.stop()
    with pytest.raises(SystemExit):
        alone.abort_all(130, "interrupted")
    assert exits == [(130, "interrupted")]


@pytest.mark.parametrize("lost", ["sys.stderr = None", "sys.stderr.close()"])
def test_a_process_exits_although_nobody_can_be_told(lost):
    load = "import sys; from stepladder.train.processes.liveness import exit_now"
    code = f"{load}; {lost}; exit_now(7, 'why')"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 7
