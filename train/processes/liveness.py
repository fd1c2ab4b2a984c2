"""Whether the processes of a job are still there: a thread in each beats once a second; who falls
silent, or ends, ends all of them.

Process 0 reads every beat, the others read its own. Collectives alone do not tell: a process that
waits for one of a lost peer on an accelerator, or compiles, would hang until jax's own heartbeat
aborts it with SIGABRT (status 134), which launchers retry few times.
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
from typing import Any, NoReturn

EVERY = 1.0  # seconds between beats
# seconds after which a process is lost; below jax's own HEARTBEAT (train/processes/group.py)
SILENT = 15.0
# seconds for which an ending process answers, so that all others read why: three beats and a bit
LINGER = 4.0
LOST = 143  # retried by launchers
BEAT = "stepladder/beat/"


class Watch(threading.Thread):
    """Beats of process `index` of `count`.

    `notice` (train/processes/preemption.py), if given, travels with them to process 0.
    """

    def __init__(self, client: Any, index: int, count: int, coordinator: str, notice: Any = None):
        super().__init__(name="watch", daemon=True)
        self.client, self.index, self.count, self.coordinator = client, index, count, coordinator
        self.notice = notice
        self.ending: tuple[int, str] | None = None  # (exit status, why)
        # last beat and when it was new
        self._heard = dict.fromkeys(range(count), ("", time.monotonic()))
        self._stopped, self._beats, self._lock = threading.Event(), 0, threading.Lock()

    def run(self) -> None:
        while not self._stopped.wait(EVERY):
            try:
                self._beat()
                found = self._listen()
            except Exception as error:
                # whatever the client raises, it is that process 0 does not answer
                if not self._stopped.is_set():
                    leave(
                        LOST,
                        f"process 0 is lost ({str(error).splitlines()[0][:120]}); repeat the "
                        "command to resume",
                    )
                return
            if found and not self._stopped.is_set() and not self.ending:
                # process 0 hands it on to the others
                self.end(*found) if self.index == 0 else leave(*found)

    def end(self, status: int, why: str) -> None:
        """Tell the others, print `why` and exit: all of them exit with `status`."""
        self.ending = self.ending or (status, why)
        with contextlib.suppress(Exception):  # process 0 may be what is lost
            self._beat()
            time.sleep(LINGER)
        leave(*self.ending)

    def stop(self) -> None:
        """All processes have finished: beat no more."""
        self._stopped.set()
        self.join()

    def on_abort(self) -> None:
        """Turn jax's abort into status 143 where it stands for a lost process: any other is left as
        it is.
        """
        self._handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda _: self._aborted())
        # Python's own handlers wait for an interpreter that returns
        ctypes.CDLL(None).signal(signal.SIGABRT, self._handler)

    def _aborted(self) -> None:
        host, _, port = self.coordinator.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
        except OSError:
            leave(LOST, "process 0 is lost; repeat the command to resume")

    def _beat(self) -> None:
        with self._lock:
            self._beats += 1
            body = {
                "beat": self._beats,
                "stop": bool(self.notice and self.notice.arrived),
                "ending": self.ending,
            }
            self.client.key_value_set(f"{BEAT}{self.index}", json.dumps(body), allow_overwrite=True)

    def _listen(self) -> tuple[int, str] | None:
        """Why to end: another process does, or is silent."""
        now = time.monotonic()
        for key, text in self.client.key_value_dir_get(BEAT) if self.index == 0 else self._first():
            process = int(key.rpartition("/")[2])
            if text == self._heard[process][0] or process == self.index:
                continue
            self._heard[process] = text, now
            body = json.loads(text)
            if body["ending"]:
                status, why = body["ending"]
                return status, why if why.startswith(
                    "process "
                ) or process == 0 else f"process {process}: {why}"
            if body["stop"] and self.index == 0 and self.notice:
                self.notice.arrived = True
        for process in range(self.count) if self.index == 0 else (0,):
            if process != self.index and now - self._heard[process][1] > SILENT:
                return (
                    LOST,
                    (
                        f"process {process} is lost (silent for {SILENT:.0f} s); repeat the "
                        "command to resume"
                    ),
                )
        return None

    def _first(self) -> list[tuple[str, str]]:
        try:
            return [(f"{BEAT}0", self.client.key_value_try_get(f"{BEAT}0"))]
        except Exception as error:
            if "NOT_FOUND" in str(error):  # its first beat is to come
                return []
            raise


def leave(status: int, why: str) -> NoReturn:
    """Print and exit now: the shutdown of jax's runtime would wait for processes that are gone."""
    if sys.stderr.isatty():
        print("\x1b[?25h", end="", file=sys.stderr)  # a progress bar hides the cursor
    print(f"stepladder: {why}", file=sys.stderr, flush=True)
    os._exit(status)
