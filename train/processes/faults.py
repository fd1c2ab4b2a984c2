"""Fault injection for the crash tests: STEPLADDER_FAULT="point:n" kills the process at the n-th
pass of a named point.
"""

import os
import signal
from collections import Counter

POINTS = (
    "during_checkpoint",
    "during_deletion",
    "after_metrics",
    "after_checkpoint",
    "after_forecast",
)
_passes: Counter = Counter()


def point(name: str) -> None:
    """SIGKILL this process if the environment asks for it here; otherwise nothing."""
    wanted = os.environ.get("STEPLADDER_FAULT")
    if not wanted:
        return
    at, _, nth = wanted.partition(":")
    if at not in POINTS:
        raise ValueError(f"STEPLADDER_FAULT={wanted}: unknown point; known: {', '.join(POINTS)}")
    if at == name:
        _passes[name] += 1
        if _passes[name] == int(nth or 1):
            os.kill(os.getpid(), signal.SIGKILL)
