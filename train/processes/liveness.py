"""Liveness: every process of a job sends a heartbeat once a second; if one stops, all exit with
status 143.

Process 0 reads the heartbeats of all, the others read its own. Collectives alone do not tell: a
process that compiles, or that waits on an accelerator for a peer that is gone, would hang until
jax's own heartbeat aborts it with SIGABRT (status 134), which launchers retry few times.
"""

import contextlib
import ctypes
import json
import os
import signal
import socket
import sys
import threading
import time
from typing import Any, NoReturn, Protocol

from stepladder.train.processes.foreign_errors import first_line, is_missing_key

EVERY = 1.0  # seconds between heartbeats
# Seconds after which a silent process is lost; below jax's own time (train/processes/group.py).
SILENT = 15.0
# Seconds for which an ending process stays, so that all others read why: three heartbeats and more.
LINGER = 4.0
LOST = 143  # exit status when a process is lost: launchers start the job again
AGAIN = "repeat the command to resume"
BEAT = "stepladder/beat/"  # key of a process's heartbeat, before its number


class StopFlag(Protocol):
    """Whether the job has been told to stop (train/processes/preemption.py).

    meeting: the processes of the job have yet to meet.
    """

    requested: bool
    meeting: bool

    @property
    def exit_status(self) -> int:
        """Of the signal that came."""
        ...


class Liveness(Protocol):
    """What a process knows of the others' being there, and how it ends them."""

    def abort_all(self, status: int, why: str) -> NoReturn:
        """Print `why` and exit with `status`; every other process exits with it too."""
        ...

    def stop(self) -> None:
        """All processes have finished: look no more."""


class SingleProcess:
    """Liveness of a process without a group: there is nobody to watch."""

    def abort_all(self, status: int, why: str) -> NoReturn:
        exit_now(status, why)

    def stop(self) -> None:
        """Nothing to stop."""


class Heartbeats(threading.Thread):
    """Liveness of process `index` of `count`, by jax's key-value store `client`.

    A `stop_flag` raised on any process travels with its heartbeats to process 0.
    """

    def __init__(
        self,
        client: Any,
        index: int,
        count: int,
        coordinator: str,
        stop_flag: StopFlag | None = None,
    ):
        super().__init__(name="heartbeats", daemon=True)
        self.client, self.index, self.count, self.coordinator = client, index, count, coordinator
        self.stop_flag = stop_flag
        self.ending: tuple[int, str] | None = None  # (exit status, why)
        # process -> (its last heartbeat, when that was new)
        self._heard: dict[int, tuple[str, float]] = dict.fromkeys(
            range(count), ("", time.monotonic())
        )
        self._stopped, self._beats, self._lock = threading.Event(), 0, threading.Lock()

    def run(self) -> None:
        while not self._stopped.wait(EVERY):
            try:
                self._beat()
                found = self._listen()
            except Exception as error:
                # whatever the client raises, it is that process 0 does not answer
                if not self._stopped.is_set():
                    exit_now(LOST, f"process 0 is lost ({first_line(error)}); {AGAIN}")
                return
            if found and not self._stopped.is_set() and not self.ending:
                # process 0 hands it on to the others
                self.abort_all(*found) if self.index == 0 else exit_now(*found)

    def abort_all(self, status: int, why: str) -> NoReturn:
        self.ending = self.ending or (status, why)
        with contextlib.suppress(Exception):  # process 0 may be what is lost
            self._beat()
            time.sleep(LINGER)
        exit_now(*self.ending)

    def stop(self) -> None:
        self._stopped.set()
        self.join()

    def exit_on_jax_abort(self) -> None:
        """Turn jax's SIGABRT into exit status 143 where it stands for a lost process; any other is
        left as it is.
        """
        self._handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda _: self._aborted())
        # Python's own handlers wait for an interpreter that returns
        ctypes.CDLL(None).signal(signal.SIGABRT, self._handler)

    def _aborted(self) -> None:
        host, _, port = self.coordinator.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
        except OSError:
            exit_now(LOST, f"process 0 is lost; {AGAIN}")

    def _beat(self) -> None:
        with self._lock:
            self._beats += 1
            body = {
                "beat": self._beats,
                "stop": bool(self.stop_flag and self.stop_flag.requested),
                "ending": self.ending,
            }
            self.client.key_value_set(f"{BEAT}{self.index}", json.dumps(body), allow_overwrite=True)

    def _listen(self) -> tuple[int, str] | None:
        """(exit status, why) when another process ends or is silent."""
        now = time.monotonic()
        for key, text in self._heartbeats():
            process = int(key.rpartition("/")[2])
            if text == self._heard[process][0] or process == self.index:
                continue
            self._heard[process] = text, now
            body = json.loads(text)
            if body["ending"]:
                status, why = body["ending"]
                named = process == 0 or why.startswith("process ")
                return status, why if named else f"process {process}: {why}"
            if body["stop"] and self.index == 0 and self.stop_flag:
                self.stop_flag.requested = True
        for process in range(self.count) if self.index == 0 else (0,):
            if process != self.index and now - self._heard[process][1] > SILENT:
                return LOST, f"process {process} is lost (silent for {SILENT:.0f} s); {AGAIN}"
        return None

    def _heartbeats(self) -> list[tuple[str, str]]:
        """(key, text) of those that this process reads."""
        if self.index == 0:
            return self.client.key_value_dir_get(BEAT)
        try:
            return [(f"{BEAT}0", self.client.key_value_try_get(f"{BEAT}0"))]
        except Exception as error:
            if is_missing_key(error):  # its first heartbeat is to come
                return []
            raise


def exit_now(status: int, why: str) -> NoReturn:
    """Print and exit at once: the shutdown of jax's runtime would wait for processes that are
    gone. It exits also where stderr is closed or its reader gone.
    """
    try:
        if sys.stderr.isatty():
            print("\x1b[?25h", end="", file=sys.stderr)  # a progress bar hides the cursor
        print(f"stepladder: {why}", file=sys.stderr, flush=True)
    finally:
        os._exit(status)
