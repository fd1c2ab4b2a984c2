"""Real processes of one job on this machine, for the tests of several hosts."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from stepladder.train.processes.address import COORDINATOR, PROCESS, PROCESSES, TIMEOUT
from tests.support import tiny


def free_port() -> int:
    with socket.create_server(("localhost", 0)) as server:
        return server.getsockname()[1]


def words(root: Path, text: Path, workdir: Path, **changes) -> list[str]:
    """`run` of the tiny config with one device a process, unless `changes` (as in
    tests/support/tiny.py) say otherwise.
    """
    changes = {"machine__devices": 1, **changes}
    return [
        "run",
        f"--config={root / 'configs' / 'base.py'}",
        f"--workdir={workdir}",
        "--quiet",
        *tiny.overrides(text, **changes),
    ]


class Job:
    """`count` processes of tests/support/worker.py with these words, or with words and environment
    of their own; `folder` holds what they say and read.

    One process is started as a user would start it: without a group.
    """

    def __init__(
        self,
        words: Sequence,
        count: int,
        folder: Path,
        timeout: int = 60,
        envs: Sequence[dict] = (),
        present: Sequence[int] | None = None,
        recorded: bool = True,
    ):
        """recorded: by tests/support/worker.py, else by the command itself, which listens to
        signals from its first instructions on.
        """
        (folder / "read").mkdir(parents=True, exist_ok=True)
        self.folder, self.present = folder, range(count) if present is None else present
        self.command = (
            ["tests.support.worker", str(folder / "read")] if recorded else ["stepladder.train"]
        )
        group = (
            {
                COORDINATOR: f"localhost:{free_port()}",
                PROCESSES: str(count),
                TIMEOUT: str(timeout),
            }
            if count > 1
            else {}
        )
        self.processes = [
            self._start(
                i,
                words[i] if isinstance(words[0], list) else words,
                {**group, **(envs[i] if envs else {})},
            )
            for i in self.present
        ]

    def _start(self, index: int, words: Sequence[str], env: dict) -> subprocess.Popen:
        own = {PROCESS: str(index)} if PROCESSES in env and PROCESS not in env else {}
        with (self.folder / f"{index}.txt").open("w") as said:
            return subprocess.Popen(
                [sys.executable, "-m", *self.command, *words],
                cwd=Path(__file__).resolve().parents[2],
                env={**os.environ, **own, **env},
                stdout=said,
                stderr=subprocess.STDOUT,
            )

    def until(self, condition: Callable[[], bool], timeout: float = 120) -> "Job":
        """Wait for it while all processes live."""
        end = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > end or any(p.poll() is not None for p in self.processes):
                self.kill()
                pytest.fail(self.said())
            time.sleep(0.02)
        return self

    def kill(self) -> None:
        for process in self.processes:
            process.kill()

    def wait(self, timeout: float = 200) -> list[int]:
        """Exit statuses.

        Raises TimeoutExpired, with no process left, when they take longer than `timeout` seconds.
        """
        end = time.monotonic() + timeout
        try:
            return [process.wait(max(0.1, end - time.monotonic())) for process in self.processes]
        finally:
            self.kill()

    def said(self) -> str:
        return "\n".join(
            f"--- process {i}\n{(self.folder / f'{i}.txt').read_text()[-3000:]}"
            for i in self.present
        )

    def read(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """(rows, their tokens [steps, rows, L + 1] in the order in which they were dispatched) of
        each process.
        """
        found = []
        for i in self.present:
            parts = [np.load(path) for path in sorted((self.folder / "read").glob(f"{i}-*.npz"))]
            found.append((parts[0]["rows"], np.concatenate([part["tokens"] for part in parts])))
        return found
