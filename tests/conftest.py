"""Shared by all tests: fake devices, one compilation cache for the session and its subprocesses,
shards of the slow tests.
"""

import os
import zlib
from dataclasses import astuple
from pathlib import Path

import pytest

from tests.support import published_rows

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("STEPLADDER_CACHE", str(ROOT / ".pytest_cache" / "stepladder"))
# On a card, the processes that a test starts need memory beside this one.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def pytest_configure(config):
    """Eight CPU devices and the persistent cache, before a test that runs the command in this
    process asks for another number.
    """
    import jax

    from stepladder.train.hardware import topology
    from stepladder.train.hardware.machine import Machine, start_jax

    topology.hush()
    start_jax(Machine(devices=8))
    jax.devices()


def pytest_addoption(parser):
    parser.addoption(
        "--slow-shard", default="", help="i/k: only the i-th of k shards of the slow tests"
    )


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


def pytest_sessionfinish(session):
    """Hand the rows of the published tests to the process that prints them (under xdist every
    worker has its own).
    """
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["published"] = [astuple(row) for row in published_rows.ROWS]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    for row in getattr(node, "workeroutput", {}).get("published", []):
        published_rows.record_row(*row)


def pytest_terminal_summary(terminalreporter):
    if published_rows.ROWS:
        terminalreporter.section("ours against published")
        terminalreporter.write_line(
            published_rows.text(sorted(published_rows.ROWS, key=lambda row: row.table))
        )


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT
