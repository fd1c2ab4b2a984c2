"""Fault injection: a named point, at its n-th pass."""

import os
import signal

import pytest

from stepladder.train.processes import faults


def test_the_nth_pass_of_a_point_kills(monkeypatch):
    killed = []
    monkeypatch.setattr(os, "kill", lambda pid, number: killed.append((pid, number)))
    monkeypatch.setenv("STEPLADDER_FAULT", "after_metrics:3")
    for passes in (1, 2, 3, 4):
        faults.point("during_checkpoint")
        faults.point("after_metrics")
        assert len(killed) == (passes >= 3)
    assert killed == [(os.getpid(), signal.SIGKILL)]


def test_without_the_variable_nothing_happens_and_an_unknown_point_is_refused(monkeypatch):
    monkeypatch.delenv("STEPLADDER_FAULT", raising=False)
    faults.point("after_metrics")
    monkeypatch.setenv("STEPLADDER_FAULT", "nowhere:1")
    with pytest.raises(ValueError, match="unknown point; known: during_checkpoint"):
        faults.point("after_metrics")
