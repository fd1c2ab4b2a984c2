"""Where a run's wall time goes: seconds by phase, in a table that feeds the rows of kind
`timing`.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PHASES = ("compile", "data", "steps", "eval", "checkpoint", "restore", "forecast", "other")
WAIT = "wait"


class Clock:
    """Seconds by phase since construction; phases do not nest. What no phase claims is `other`.

    A name beside PHASES is a detail: WAIT, the part of `steps` in which the host waited for the
    device. It may nest and is in no sum.
    """

    def __init__(self):
        self.start = time.perf_counter()
        self._seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """What happens inside is charged to `name`."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] += time.perf_counter() - begin

    @contextmanager
    def reading(self, device_busy: Callable[[], bool]) -> Iterator[None]:
        """Reading data while steps may be under way.

        Charged to `data`; but to `steps` when the device is still busy when the reading ends: then
        the data cost nothing.
        """
        begin = time.perf_counter()
        yield
        self._seconds["steps" if device_busy() else "data"] += time.perf_counter() - begin

    def table(self) -> dict[str, float]:
        """Seconds of every phase so far; they sum to the wall time."""
        total = time.perf_counter() - self.start
        claimed = {phase: self._seconds[phase] for phase in PHASES if phase != "other"}
        return {**claimed, "other": max(0.0, total - sum(claimed.values()))}

    def details(self) -> dict[str, float]:
        """The table, and the details."""
        return {**self.table(), WAIT: self._seconds[WAIT]}

    def shares(self, members: int) -> list["Share"]:
        """An equal share for every member of a pack that begins now."""
        began = self.details()
        return [Share(self, members, began) for _ in range(members)]


class Share:
    """A member's part of its pack's time, so that the sum over the runs of a ladder is the wall
    time.
    """

    def __init__(self, clock: Clock, members: int, began: dict[str, float]):
        self._clock, self._members, self._began = clock, members, began
        self._reported: dict[str, float] = {}

    def since_last(self) -> dict[str, float]:
        """Seconds of every phase, and of WAIT, since the last call (or since the pack began)."""
        so_far = {
            phase: (seconds - self._began[phase]) / self._members
            for phase, seconds in self._clock.details().items()
        }
        found = {
            phase: round(seconds - self._reported.get(phase, 0.0), 4)
            for phase, seconds in so_far.items()
        }
        self._reported = so_far
        return found
