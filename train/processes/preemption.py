"""SIGTERM and Ctrl-C: while steps are under way the loop saves and leaves, with exit status 143
(which launchers retry) or 130.

Elsewhere there is nothing to save, and the process leaves at once. Steps stop, and temporary
checkpoints are made, at the same step on every process of a group: process 0 decides. jax's own
preemption service (`reached_preemption_sync_point`) is not used: it swallows SIGTERM in a process
that compiles or prepares data, and it knows no clock.
"""

import contextlib
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

from stepladder.train.processes import group

EXIT_STATUS: dict[int, int] = {signal.SIGTERM: 143, signal.SIGINT: 130}
# Seconds after which a second signal means "at once": launchers may send the first SIGTERM twice.
AT_ONCE: dict[int, float] = {signal.SIGTERM: 5.0, signal.SIGINT: 0.5}
# Seconds that Python gets to unwind after Ctrl-C: libraries swallow a KeyboardInterrupt that meets
# one of their callbacks.
UNWIND = 3.0
ASK_EVERY = 1.0  # seconds between the decisions of a group, about
MOST_DISPATCHES = 100  # between two decisions


class Preempted(Exception):
    """Raised by the loop after it has saved."""


class Decision(NamedTuple):
    """What all processes do after a dispatch: stop, save."""

    stop: bool
    save: bool


class Preemption:
    """Whether this process, or another of its group, has been told to stop.

    requested: a signal has come.
    meeting: the processes of a group have yet to meet; until `group.join` clears it, a signal waits
        for `rendezvous.meet` to pass it on.
    """

    def __init__(self, meeting: bool = False):
        self.requested, self.meeting = False, meeting
        self._in_group = meeting  # from before the processes meet: while jax forms the group too
        self.signal = signal.SIGTERM  # the one that came; SIGTERM where another process was told
        self._in_loop = False  # whether a loop asks `agree`
        self._closed = threading.Event()  # no longer listening
        self._dispatches = 0  # since the last decision
        self._ask_after = 0  # dispatches until the next decision
        self._decided = 0.0  # when the last decision was made

    @property
    def exit_status(self) -> int:
        """The process's exit status once it has saved and left."""
        return EXIT_STATUS[self.signal]

    @property
    def _alone(self) -> bool:
        """Whether there is no other process, and will be none."""
        return not self._in_group and group.count() == 1

    @contextlib.contextmanager
    def listening(self) -> Iterator["Preemption"]:
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
        threading.Thread(target=self._listen, args=(ours,), name="signals", daemon=True).start()
        try:
            yield self
        finally:
            self._closed.set()
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            theirs.close()

    @contextlib.contextmanager
    def in_loop(self) -> Iterator[None]:
        """Steps are under way: a signal waits for `agree`."""
        self._in_loop, self._ask_after = True, 0
        try:
            yield
        finally:
            self._in_loop = False

    def agree(self, save_due: bool) -> Decision:
        """Whether to stop and whether to save after a dispatch, the same on every process.

        In a group process 0 decides about once a second, and when to ask again: the answer may cost
        the slowest host a wait. In between, nothing is done.

        Args:
            save_due: whether the clock of this process asks for a temporary checkpoint.
        """
        if group.count() == 1:
            return Decision(self.requested, save_due)
        self._dispatches += 1
        if self._dispatches < self._ask_after:
            return Decision(False, False)
        stop, save, self._ask_after = group.broadcast_from_zero(
            lambda: (self.requested, save_due, self._next_pause()), ephemeral=True
        )
        self._dispatches = 0
        return Decision(stop, save)

    def _next_pause(self) -> int:
        """Dispatches until the next decision, by the pace since the last one."""
        now, before = time.monotonic(), self._decided
        self._decided = now
        if not self._ask_after:  # the loop has just begun: its pace is not known
            return 1
        in_time = int(self._dispatches * ASK_EVERY / max(now - before, 1e-6))
        return min(MOST_DISPATCHES, max(1, in_time))

    def _on_interrupt(self, *_: object) -> None:
        """Where no loop would act on it, Ctrl-C is Python's own; in a group, or before it, the
        thread tells the others.
        """
        if not self._in_loop and self._alone:
            raise KeyboardInterrupt

    def _listen(self, ours: socket.socket) -> None:
        with ours:
            first: dict[int, float] = {}
            while received := ours.recv(64):
                for number in set(received) & set(EXIT_STATUS):
                    first.setdefault(number, time.monotonic())
                    again = time.monotonic() - first[number] > AT_ONCE[number]
                    self._act(signal.Signals(number), again)

    def _act(self, number: signal.Signals, again: bool) -> None:
        """Leave at once, or let the loop, or the processes that meet, know of a signal."""
        interrupted = number == signal.SIGINT
        if again or not (self._in_loop or self.meeting):
            if interrupted and not again and self._alone and self._closed.wait(UNWIND):
                return  # `_on_interrupt` raised
            what = "interrupted" if interrupted else "preempted"
            why = (
                "told to stop again; left at once"
                if again
                else "told to stop where nothing is left to save"
            )
            group.abort_all(EXIT_STATUS[number], f"{what}, {why}; repeat the command to resume")
        if interrupted and self._in_loop and not self.requested:
            print(
                "\nstepladder: interrupted; saving, press Ctrl-C again to leave at once",
                file=sys.stderr,
                flush=True,
            )
        self.signal = number
        self.requested = True  # last: who sees it reads the signal
