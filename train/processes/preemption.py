"""SIGTERM and Ctrl-C: while steps are under way the loop saves and leaves, with exit status 143
(which launchers retry) or 130.

Elsewhere there is nothing to save, and the process leaves at once. Steps stop, and temporary
checkpoints are made, at the same step on every process of a group: process 0 decides. jax's own
notice (`reached_preemption_sync_point`) is not used: it swallows SIGTERM in a process that compiles
or prepares data, and it knows no clock.
"""

import contextlib
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator

from stepladder.train.processes import group

EXIT_STATUS = {signal.SIGTERM: 143, signal.SIGINT: 130}
# Seconds after which a second signal means "at once": launchers may send the first SIGTERM twice.
AGAIN = {signal.SIGTERM: 5.0, signal.SIGINT: 0.5}
# seconds that Python gets to unwind after Ctrl-C: libraries swallow a KeyboardInterrupt that meets
# one of their callbacks
UNWIND = 3.0
ASK_EVERY = 1.0  # seconds between the decisions of a group, about
MOST = 100  # dispatches between them


class Preempted(Exception):
    """Raised by the loop after it has saved."""


class Notice:
    """Whether this process, or another of its group, has been told to stop.

    meeting: the processes of a group have yet to meet; until `hosts.join` clears it a notice waits
    for `rendezvous.meet` to pass it on.
    """

    def __init__(self, meeting: bool = False):
        self.arrived, self.meeting = False, meeting
        self.signal = signal.SIGTERM  # the one that came; SIGTERM where another process was told
        self._looping = False  # whether a loop asks `decide`
        self._over = threading.Event()  # no longer watching
        self._dispatch = self._next = 0  # since the last decision, and how many until the next
        self._decided = 0.0  # when

    @property
    def exit_status(self) -> int:
        return EXIT_STATUS[self.signal]

    @contextlib.contextmanager
    def watching(self) -> Iterator["Notice"]:
        """Listen to SIGTERM and SIGINT, in a thread: the interpreter itself would not while it
        waits for a compiler or for another process.
        """
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        before = {
            signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: None),
            signal.SIGINT: signal.signal(signal.SIGINT, self._on_interrupt),
        }
        wakeup = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._listen, args=(ours,), name="notice", daemon=True).start()
        try:
            yield self
        finally:
            self._over.set()
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
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
        """(stop, save) after a dispatch, the same on every process, where `late` is whether the
        clock asks for a save.

        In a group process 0 says so about once a second, and when to ask again: the answer may cost
        the slowest host a wait.
        """
        if group.count() == 1:
            return self.arrived, late
        self._dispatch += 1
        if self._dispatch < self._next:
            return False, False
        stop, save, self._next = group.share(
            lambda: (self.arrived, late, self._pause()), passing=True
        )
        self._dispatch = 0
        return stop, save

    def _pause(self) -> int:
        """Dispatches until the next decision, by the pace since the last one."""
        now, then = time.monotonic(), self._decided
        self._decided = now
        return (
            min(MOST, max(1, int(self._dispatch * ASK_EVERY / max(now - then, 1e-6))))
            if self._next
            else 1
        )

    def _on_interrupt(self, *_) -> None:
        """Where no loop would act on it, Ctrl-C is Python's own; in a group, or before it, the
        thread tells the others.
        """
        if not self._looping and not self.meeting and group.count() == 1:
            raise KeyboardInterrupt

    def _listen(self, ours: socket.socket) -> None:
        with ours:
            first: dict[int, float] = {}
            while received := ours.recv(64):
                for number in set(received) & set(EXIT_STATUS):
                    first.setdefault(number, time.monotonic())
                    self._tell(
                        signal.Signals(number),
                        again=time.monotonic() - first[number] > AGAIN[number],
                    )

    def _tell(self, number: signal.Signals, again: bool) -> None:
        """Act on a signal: leave at once, or let the loop, or the processes that meet, know."""
        interrupted = number == signal.SIGINT
        if again or not (self._looping or self.meeting):
            if interrupted and not again and group.count() == 1 and self._over.wait(UNWIND):
                return  # `_on_interrupt` raised
            what = (
                "told to stop again; left at once"
                if again
                else "told to stop where nothing is left to save"
            )
            group.end(
                EXIT_STATUS[number],
                f"{'interrupted' if interrupted else 'preempted'}, {what}; repeat the command to "
                "resume",
            )
        if interrupted and self._looping and not self.arrived:
            print(
                "\nstepladder: interrupted; saving, press Ctrl-C again to leave at once",
                file=sys.stderr,
                flush=True,
            )
        self.arrived, self.signal = True, number
