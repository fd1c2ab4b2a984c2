"""The record of a run on disk (names and fields: configs/core/record.py).

Process 0 writes, the others only read.

Every file is written beside, then renamed. Metric rows wait in memory until a checkpoint covers
them: `commit_rows` writes them as a part, then the caller saves the checkpoint, which is the commit
marker. A part whose checkpoint was never completed is dropped at restore, and its steps are made
again; so after any crash every step appears exactly once.
"""

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from stepladder.configs.core import record
from stepladder.configs.core.errors import UserError
from stepladder.configs.core.files import write_atomic
from stepladder.configs.core.spec import RunSpec, to_dict
from stepladder.train.processes import group
from stepladder.train.record.mirrors.mirrors import MIRRORS


def read_json(path: Path) -> dict | None:
    """The JSON object in a file; None when there is no file."""
    return json.loads(path.read_text()) if path.exists() else None


def read_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """The rows of the record in `folder`, in order.

    Those after the last checkpoint are made again when the run was killed; a part that is deleted
    for it meanwhile is left out.
    """
    for part in sorted((folder / record.METRICS).glob("*.jsonl")):
        with contextlib.suppress(FileNotFoundError):
            for line in part.read_text().splitlines():
                yield json.loads(line)


def reopen(folder: Path, step: int) -> None:
    """Make the run whose record is `folder` an unfinished one that stands at `step`: the next
    command goes on from there.
    """
    status = read_json(folder / record.STATUS) or {}
    status.pop("reason", None)
    _write_json(folder / record.STATUS, {**status, "state": record.RUNNING, "step": step})


class Record:
    """One run's folder, opened for writing by the trainer.

    `mirrors` are names of MIRRORS: copies of the rows for dashboards.
    """

    def __init__(self, workdir: Path, spec: RunSpec, mirrors: Sequence[str] = ()):
        self.spec, self.path = spec, Path(workdir) / record.RUNS / spec.run_id
        self.mirrors = mirrors
        self.rows: list[dict[str, Any]] = []
        self._beat = (0.0, 0)  # (time, step) of the last heartbeat
        # (steps, seconds) that killed processes lost, until a committed row says so
        self._lost: tuple[int, float] = 0, 0.0

    def open(self, lineage: dict) -> None:
        """Write spec and lineage once; all processes of a group call it.

        Raises UserError for a folder that holds another run or other data.
        """
        group.broadcast_from_zero(lambda: self._open(lineage))

    def _open(self, lineage: dict) -> None:
        spec = to_dict(self.spec)
        held = read_json(self.path / record.SPEC)
        if held is None:
            _write_json(self.path / record.SPEC, spec, indent=1)
        elif _identity(held) != _identity(spec):
            raise UserError(
                f"workdir={self.path}: holds another run with the same id; move it away"
            )
        before = read_json(self.path / record.LINEAGE)
        if before is None:
            _write_json(self.path / record.LINEAGE, lineage, indent=1)
        elif before["data_fingerprint"] != lineage["data_fingerprint"]:
            raise UserError(
                f"data.fingerprint={lineage['data_fingerprint']}: run {self.spec.run_id} began on "
                f"{before['data_fingerprint']}; restore that token store, or start a new workdir "
                "(a changed mixture is a branch, never a resume)"
            )
        elif _task_fingerprint(before) != _task_fingerprint(lineage):
            raise UserError(
                f"data.task.fingerprint={_task_fingerprint(lineage)}: run {self.spec.run_id} began "
                f"on {_task_fingerprint(before)}; restore the examples of "
                f"{lineage['task']['source']}, or start a new workdir"
            )

    def note_executable(self, step: int, compiled: str) -> str:
        """Write into the lineage that an executable, by its hash, computes the steps after `step`.

        All processes of a group call it. Returns the hash of the one before, "" for none: where it
        is another, the run is not bit for bit what it would be unbroken.
        """
        return group.broadcast_from_zero(lambda: self._note_executable(step, compiled))

    def _note_executable(self, step: int, compiled: str) -> str:
        lineage = read_json(self.path / record.LINEAGE) or {}
        noted = {int(k): v for k, v in lineage.get("executables", {}).items() if int(k) < step}
        before = noted[max(noted)] if noted else ""
        if compiled != before:
            noted[step] = compiled
        body = {**lineage, "executables": {str(k): v for k, v in sorted(noted.items())}}
        _write_json(self.path / record.LINEAGE, body, indent=1)
        return before

    @property
    def status(self) -> dict[str, Any]:
        """The content of status.json; state `pending` before there is one."""
        return read_json(self.path / record.STATUS) or {"state": record.PENDING, "step": 0}

    def set_status(self, state: str, step: int, **more: Any) -> None:
        """Rewrite status.json."""
        if group.is_leader():
            body = {"state": state, "step": step, "total_steps": self.spec.steps, **more}
            _write_json(self.path / record.STATUS, body)

    def heartbeat(self, step: int, every: float = 1.0) -> None:
        """Write that the run is at `step`, at most once in `every` seconds, with the pace since the
        time before.

        Only `stepladder status` and `count_lost_steps` read it.
        """
        now, (then, before) = time.time(), self._beat
        if now - then >= every and group.is_leader():
            self._beat = now, step
            pace = (step - before) / (now - then) if then else None
            body = {"step": step, "time": now, "steps_per_second": pace, "lost": self._lost}
            write_atomic(self.path / record.HEARTBEAT, json.dumps(body) + "\n", sync=False)

    def count_lost_steps(self, step: int) -> tuple[int, float] | None:
        """(steps, seconds) of work after the checkpoint at `step` that killed processes have lost;
        None when there is none.

        A lower bound, by their heartbeats. It counts until the next commit.
        """
        beat = read_json(self.path / record.HEARTBEAT) or {}
        steps = max(0, beat.get("step", 0) - step)
        steps_before, seconds_before = beat.get("lost", (0, 0.0))
        pace = beat.get("steps_per_second")
        self._lost = steps + steps_before, seconds_before + (steps / pace if pace else 0.0)
        return self._lost if self._lost[0] else None

    def add(self, kind: str, step: int, **fields: Any) -> None:
        """A row that waits for the next commit."""
        tokens = step * self.spec.tokens_per_step
        self.rows.append({"step": step, "tokens": tokens, "kind": kind, **fields})

    def commit_rows(self, first: int, last: int) -> None:
        """Write the waiting rows as the immutable part (first, last], then mirror them."""
        rows, self.rows, self._lost = self.rows, [], (0, 0.0)
        if not rows or not group.is_leader():
            return
        text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
        write_atomic(self.path / record.METRICS / record.part_name(first, last), text)
        for name in self.mirrors:
            MIRRORS[name](self.path, rows)

    def truncate(self, step: int) -> None:
        """Drop parts that no complete checkpoint covers: their steps will be made again."""
        if not group.is_leader():
            return
        for part in sorted((self.path / record.METRICS).glob("*.jsonl")):
            if record.part_range(part.name)[1] > step:
                part.unlink()


def _task_fingerprint(lineage: dict) -> str | None:
    """That of the examples a run trains on; None where it trains on text."""
    return (lineage.get("task") or {}).get("fingerprint")


def _identity(spec: dict) -> dict:
    """What of a spec may not differ between two runs in one folder: all but its labels."""
    return {field: value for field, value in spec.items() if field not in ("tags", "name")}


def _write_json(path: Path, body: dict, indent: int | None = None) -> None:
    write_atomic(path, json.dumps(body, indent=indent, sort_keys=True) + "\n")
