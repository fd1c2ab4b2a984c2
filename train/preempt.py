"""SIGTERM: while steps are under way the loop saves and leaves with exit status 143, which launchers retry; else there is nothing to save.

Steps stop, and temporary checkpoints are made, at the same step on every process of a group: process 0 decides. jax's own notice
(`reached_preemption_sync_point`) is not used: it swallows SIGTERM in a process that compiles or prepares data, and it knows no clock.
"""

import contextlib
import signal
import socket
import threading
import time
from collections.abc import Iterator

from stepladder.train import hosts

EXIT_STATUS = 143
AGAIN = 5.0  # seconds after which a second SIGTERM is meant (launchers may send the first one twice)
ASK_EVERY = 1.0  # seconds between the decisions of a group, about
MOST = 100  # dispatches between them


class Preempted(Exception):
    """Raised by the loop after it has saved."""


class Notice:
    """Whether this process, or another of its group, has been told to stop."""

    def __init__(self):
        self.arrived = False
        self._looping = False  # whether a loop asks `decide`
        self._dispatch = self._next = 0  # since the last decision, and how many until the next
        self._decided = 0.0  # when

    @contextlib.contextmanager
    def watching(self) -> Iterator["Notice"]:
        """Listen to SIGTERM, in a thread: the interpreter itself would not while it waits for a compiler or for another process."""
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        handler = signal.signal(signal.SIGTERM, lambda *_: None)
        wakeup = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._listen, args=(ours,), name="notice", daemon=True).start()
        hosts.hear(self)
        try:
            yield self
        finally:
            signal.set_wakeup_fd(wakeup)
            signal.signal(signal.SIGTERM, handler)
            theirs.close()

    @contextlib.contextmanager
    def looping(self) -> Iterator[None]:
        """Steps are under way: a notice waits for `decide`."""
        self._looping, self._next = True, 0
        try:
            yield
        finally:
            self._looping = False

    def decide(self, late: bool) -> tuple[bool, bool]:
        """(stop, save) after a dispatch, the same on every process, where `late` is whether the clock asks for a save.

        In a group process 0 says so about once a second, and when to ask again: the answer may cost the slowest host a wait.
        """
        if hosts.count() == 1:
            return self.arrived, late
        self._dispatch += 1
        if self._dispatch < self._next:
            return False, False
        stop, save, self._next = hosts.share(lambda: (self.arrived, late, self._pause()), passing=True)
        self._dispatch = 0
        return stop, save

    def _pause(self) -> int:
        """Dispatches until the next decision, by the pace since the last one."""
        now, then = time.monotonic(), self._decided
        self._decided = now
        return min(MOST, max(1, int(self._dispatch * ASK_EVERY / max(now - then, 1e-6)))) if self._next else 1

    def _listen(self, ours: socket.socket) -> None:
        first = 0.0
        with ours:
            while received := ours.recv(64):
                if signal.SIGTERM not in received:
                    continue
                first = first or time.monotonic()
                if not self._looping or time.monotonic() - first > AGAIN:
                    what = "told to stop again; left at once" if self._looping else "told to stop where nothing is left to save"
                    hosts.end(EXIT_STATUS, f"preempted, {what}; repeat the command to resume")
                self.arrived = True
