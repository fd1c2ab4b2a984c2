"""Where a run's wall time goes: seconds by phase, in a table that feeds the rows of kind
`timing`.
"""

import time
from collections import defaultdict
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
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def phase(self, name: str):
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - begin

    def table(self) -> dict[str, float]:
        """Seconds of every phase so far; they sum to the wall time."""
        total = time.perf_counter() - self.start
        claimed = {phase: self.seconds[phase] for phase in PHASES if phase != "other"}
        return {**claimed, "other": max(0.0, total - sum(claimed.values()))}

    def details(self) -> dict[str, float]:
        """The table, and the details."""
        return {**self.table(), WAIT: self.seconds[WAIT]}
