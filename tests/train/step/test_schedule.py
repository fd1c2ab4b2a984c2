"""Schedules: every entry of the table against plain NumPy, and what a trunk and its branches rely
on.
"""

import numpy as np
import pytest

from stepladder.train.step.schedule import SCHEDULES, decayed, factor

HYPER = {
    "warmup_steps": np.int32(10),
    "decay_start": np.int32(60),
    "total_steps": np.int32(100),
    "end_factor": np.float32(0.1),
}
REFERENCE = {
    "constant": lambda u: 1.0,
    "linear": lambda u: 1 - u,
    "cosine": lambda u: (1 + np.cos(np.pi * u)) / 2,
    "wsd": lambda u: 1 - np.sqrt(u),
    "wsd_linear": lambda u: 1 - u,
}


def reference(name: str, step: int, h: dict) -> float:
    start = h["decay_start"] if name.startswith("wsd") else h["warmup_steps"]
    u = min(max((step - start) / (h["total_steps"] - start), 0), 1)
    return min(1, (step + 1) / h["warmup_steps"]) * (
        h["end_factor"] + (1 - h["end_factor"]) * REFERENCE[name](u)
    )


@pytest.mark.parametrize("name", SCHEDULES)
def test_against_reference(name):
    for step in (0, 1, 5, 9, 10, 30, 59, 60, 61, 80, 99, 100, 150):
        assert float(factor(name, np.int32(step), HYPER)) == pytest.approx(
            reference(name, step, HYPER), abs=1e-6
        )


@pytest.mark.parametrize("name", ["wsd", "wsd_linear"])
def test_trunk_and_branch_agree_bitwise_until_the_decay(name):
    trunk = HYPER | {"decay_start": np.int32(1000), "total_steps": np.int32(1200)}
    for step in range(61):
        assert factor(name, np.int32(step), HYPER) == factor(name, np.int32(step), trunk)
    assert factor(name, np.int32(61), HYPER) != factor(name, np.int32(61), trunk)


def test_decayed_says_which_points_are_final():
    h = {"total_steps": 100}
    assert decayed("wsd", 100, h) and not decayed("wsd", 99, h) and not decayed("constant", 100, h)
