"""When the processes of a group agree on whether to stop and to save."""

import json
import os
import signal
import threading

import pytest

from stepladder.train.processes import preemption


def test_a_group_decides_about_once_a_second(monkeypatch):
    """And at once when a loop begins: its dispatches may be slower than those before."""
    now, asked = [100.0], []
    monkeypatch.setattr(preemption.group, "count", lambda: 2)
    monkeypatch.setattr(
        preemption.group,
        "broadcast_from_zero",
        lambda action, ephemeral: asked.append(now[0]) or json.loads(json.dumps(action())),
    )
    monkeypatch.setattr(preemption.time, "monotonic", lambda: now[0])
    told = preemption.Preemption()

    def dispatches(count, seconds):
        for i in range(count):
            now[0] += seconds
            stop, save = told.agree(save_due=True)
            assert save == (asked[-1] == now[0]), (
                "the clock counts where process 0 was asked, nowhere else"
            )
            if stop:
                return i + 1
        return None

    with told.in_loop():
        assert dispatches(1000, 0.01) is None and 10 <= len(asked) <= 15
    with told.in_loop():
        before = len(asked)
        assert dispatches(5, 3.0) is None and len(asked) == before + 5
        told.requested = True
        assert dispatches(1, 3.0) == 1


def test_one_process_decides_after_every_dispatch():
    told = preemption.Preemption()
    with told.in_loop():
        assert told.agree(save_due=False) == (False, False)
        assert told.agree(save_due=True) == (False, True)
        told.requested = True
        assert told.agree(save_due=False) == (True, False)


def test_ctrl_c_while_jax_forms_the_group_tells_the_others(monkeypatch):
    """The processes have met and the group does not stand yet: an exception would unwind past
    jax, whose shutdown waits for the others.
    """
    left, statuses = threading.Event(), []

    def abort_all(status, why):
        statuses.append(status)
        left.set()

    monkeypatch.setattr(preemption.group, "abort_all", abort_all)
    told = preemption.Preemption(meeting=True)
    with told.listening():
        told.meeting = False
        os.kill(os.getpid(), signal.SIGINT)
        assert left.wait(10)
    assert statuses == [130]


def test_ctrl_c_of_a_process_by_itself_is_python_s_own():
    with pytest.raises(KeyboardInterrupt), preemption.Preemption().listening():
        os.kill(os.getpid(), signal.SIGINT)
        threading.Event().wait(10)
