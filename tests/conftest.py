"""Shared by all tests: fake devices, one compilation cache for the session and its subprocesses, shards of the slow tests."""

import os
import zlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("STEPLADDER_CACHE", str(ROOT / ".pytest_cache" / "stepladder"))


def pytest_configure(config):
    """Four CPU devices and the persistent cache, before any test module brings up jax's backend."""
    from stepladder.train import machine

    machine.start(machine.Machine(devices=4))


def pytest_addoption(parser):
    parser.addoption("--slow-shard", default="", help="i/k: only the i-th of k shards of the slow tests")


def pytest_collection_modifyitems(config, items):
    shard = config.getoption("--slow-shard")
    if not shard:
        return
    i, k = (int(part) for part in shard.split("/"))
    keep, drop = [], []
    for item in items:
        mine = "slow" not in item.keywords or zlib.crc32(item.nodeid.encode()) % k == i
        (keep if mine else drop).append(item)
    items[:] = keep
    config.hook.pytest_deselected(items=drop)


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT
