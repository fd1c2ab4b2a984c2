"""Fault injection for the crash tests.

STEPLADDER_FAULT="point:n" kills the process when it passes a named point for the n-th time.
"""

import functools
import itertools
import os
import signal
from collections.abc import Iterator

POINTS = (
    "during_checkpoint",
    "during_deletion",
    "after_metrics",
    "after_checkpoint",
    "after_forecast",
)


def point(name: str) -> None:
    """SIGKILL this process if the environment asks for it here; otherwise nothing."""
    wanted = os.environ.get("STEPLADDER_FAULT")
    if not wanted:
        return
    at, _, nth = wanted.partition(":")
    if at not in POINTS:
        raise ValueError(f"STEPLADDER_FAULT={wanted}: unknown point; known: {', '.join(POINTS)}")
    if at == name and next(_passes_of(wanted)) == int(nth or 1):
        os.kill(os.getpid(), signal.SIGKILL)


@functools.cache
def _passes_of(wanted: str) -> Iterator[int]:
    """1, 2, 3, ... for the passes of the point that `wanted` names."""
    return itertools.count(1)
