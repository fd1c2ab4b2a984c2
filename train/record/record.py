"""The record of a run on disk (names and fields: configs/core/record.py).

Process 0 writes, the others only read.

Every file is written beside, then renamed. Metric rows wait in memory until a checkpoint covers
them. `commit_rows` writes the part, then the caller commits the checkpoint: the checkpoint is the
commit marker. A part that outran its checkpoint is dropped at restore, and its steps are made
again, so after any crash every step appears exactly once.
"""

import json
import time
from pathlib import Path
from typing import Any

from stepladder.configs.core import record
from stepladder.configs.core.errors import UserError
from stepladder.configs.core.files import write_atomic
from stepladder.configs.core.spec import RunSpec, to_dict
from stepladder.train.processes import group


def read_json(path: Path) -> dict | None:
    return json.loads(path.read_text()) if path.exists() else None


def reopen(folder: Path, step: int) -> None:
    """Make the run whose record is `folder` an unfinished one that stands at `step`: the next
    command goes on from there.
    """
    status = read_json(folder / record.STATUS) or {}
    status.pop("reason", None)
    write_atomic(
        folder / record.STATUS,
        json.dumps({**status, "state": record.RUNNING, "step": step}, sort_keys=True) + "\n",
    )


class Record:
    """One run's folder, opened for writing by the trainer."""

    def __init__(self, workdir: Path, spec: RunSpec):
        self.spec, self.path = spec, Path(workdir) / record.RUNS / spec.run_id
        self.rows: list[dict[str, Any]] = []
        self._beat = (0.0, 0)  # (time, step) of the last heartbeat
        # (steps, seconds) that killed processes lost, until a committed row says so
        self._lost = 0, 0.0

    def open(self, lineage: dict) -> None:
        """Write spec and lineage once; refuse a folder that holds another run or other data.

        A group calls it on all processes.
        """
        group.share(lambda: self._open(lineage))

    def _open(self, lineage: dict) -> None:
        held = read_json(self.path / record.SPEC)
        if held is None:
            write_atomic(
                self.path / record.SPEC,
                json.dumps(to_dict(self.spec), indent=1, sort_keys=True) + "\n",
            )
        elif {k: v for k, v in held.items() if k not in ("tags", "name")} != {
            k: v for k, v in to_dict(self.spec).items() if k not in ("tags", "name")
        }:
            raise UserError(
                f"workdir={self.path}: holds another run with the same id; move it away"
            )
        before = read_json(self.path / record.LINEAGE)
        if before is None:
            write_atomic(
                self.path / record.LINEAGE, json.dumps(lineage, indent=1, sort_keys=True) + "\n"
            )
        elif before["data_fingerprint"] != lineage["data_fingerprint"]:
            raise UserError(
                f"data.fingerprint={lineage['data_fingerprint']}: run {self.spec.run_id} began on "
                f"{before['data_fingerprint']}; restore that token store, or start a new workdir "
                "(a changed mixture is a branch, never a resume)"
            )

    @property
    def status(self) -> dict:
        return read_json(self.path / record.STATUS) or {"state": record.PENDING, "step": 0}

    def set_status(self, state: str, step: int, **more: Any) -> None:
        body = {"state": state, "step": step, "total_steps": self.spec.steps, **more}
        if group.first():
            write_atomic(self.path / record.STATUS, json.dumps(body, sort_keys=True) + "\n")

    def heartbeat(self, step: int, every: float = 1.0) -> None:
        """At most one write in `every` seconds, with the pace since the one before; feeds `status`
        only.
        """
        now, (then, before) = time.time(), self._beat
        if now - then >= every and group.first():
            self._beat = now, step
            pace = (step - before) / (now - then) if then else None
            body = {"step": step, "time": now, "steps_per_second": pace, "lost": self._lost}
            write_atomic(self.path / record.HEARTBEAT, json.dumps(body) + "\n", sync=False)

    def lose(self, step: int) -> tuple[int, float] | None:
        """(steps, seconds) of work made after the checkpoint at `step`, which a process killed
        since has lost: at least, by its heartbeats.
        """
        beat = read_json(self.path / record.HEARTBEAT) or {}
        steps, (before, seconds) = max(0, beat.get("step", 0) - step), beat.get("lost", (0, 0.0))
        pace = beat.get("steps_per_second")
        self._lost = steps + before, seconds + (steps / pace if pace else 0.0)
        return self._lost if self._lost[0] else None

    def add(self, kind: str, step: int, **fields: Any) -> None:
        self.rows.append(
            {"step": step, "tokens": step * self.spec.tokens_per_step, "kind": kind, **fields}
        )

    def commit_rows(self, first: int, last: int) -> list[dict]:
        """Write the waiting rows as the immutable part (first, last] and return them."""
        text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in self.rows)
        if self.rows and group.first():
            write_atomic(self.path / record.METRICS / record.part_name(first, last), text)
        rows, self.rows, self._lost = self.rows, [], (0, 0.0)
        return rows

    def truncate(self, step: int) -> None:
        """Drop parts that no committed checkpoint covers: their steps will be made again."""
        for part in sorted((self.path / record.METRICS).glob("*.jsonl")) if group.first() else ():
            if record.part_range(part.name)[1] > step:
                part.unlink()
