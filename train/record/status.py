"""`stepladder status`: one line a run, progress, time left, failures with their reasons.

Reads records only, never jax.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from stepladder.configs.core import record
from stepladder.configs.core.errors import UserError
from stepladder.configs.core.goodput import goodput
from stepladder.train.record.record import read_json, read_rows

SILENT = 60.0  # seconds without a heartbeat after which a run may have stopped


def table(workdir: Path) -> str:
    """The state of every run of the ladder that owns `workdir`.

    Raises UserError when it is no workdir.
    """
    workdir = Path(workdir)
    ladder = read_json(workdir / record.LADDER)
    if ladder is None:
        raise UserError(
            f"workdir={workdir}: no {record.LADDER} there; give the --workdir of a `stepladder run`"
        )
    lines, counts = [], Counter()
    for run in ladder["runs"]:
        folder = workdir / record.RUNS / run
        status = read_json(folder / record.STATUS) or {"state": record.PENDING, "step": 0}
        counts[status["state"]] += 1
        lines.append(_line(run, folder, status))
    rows = (row for run in ladder["runs"] for row in read_rows(workdir / record.RUNS / run))
    if spent := _goodput(rows):
        lines.append(spent)
    summary = ", ".join(f"{n} {state}" for state, n in sorted(counts.items()))
    forecast = "written" if (workdir / record.FORECAST).exists() else "not yet"
    return "\n".join([*lines, f"{len(ladder['runs'])} runs: {summary}; forecast {forecast}"])


def _line(run: str, folder: Path, status: dict[str, Any]) -> str:
    """One run: state, progress, checkpoints, and a note."""
    state, step, total = status["state"], status["step"], status.get("total_steps", 0)
    note = status.get("reason", "")
    if state == record.RUNNING:
        beat = read_json(folder / record.HEARTBEAT) or {}
        step = max(step, beat.get("step", 0))
        note = _pace(beat, total)
    saved = sorted(int(p.name) for p in (folder / record.CHECKPOINTS).glob("*") if p.name.isdigit())
    share = f"{100 * step / total:3.0f}%" if total else "   -"
    progress = f"{share} {step:>7}/{total or '-':<7}"
    return f"{run:44} {state:9} {progress} checkpoints {saved or '-'}  {note}".rstrip()


def seconds_by_phase(rows: Iterable[dict]) -> tuple[dict[str, float], int]:
    """(seconds of every phase, steps that were made again after a crash) by rows of all kinds.

    The windows are left out: they overlap the phases.
    """
    seconds: defaultdict[str, float] = defaultdict(float)
    lost = 0
    for row in rows:
        if row["kind"] == record.TIMING and row["phase"] != record.WINDOW:
            seconds[row["phase"]] += row["seconds"]
            lost += row["steps"] if row["phase"] == record.LOST else 0
    return dict(seconds), lost


def _goodput(rows: Iterable[dict]) -> str:
    """Where the time of all runs went so far, as their rows tell."""
    seconds, lost = seconds_by_phase(rows)
    share, total = goodput(seconds), sum(seconds.values())
    if share is None:
        return ""
    others = [
        f"{phase} {value / total:.1%}"
        for phase, value in sorted(seconds.items(), key=lambda item: -item[1])
        if phase != record.STEPS and value / total >= 1e-3
    ]
    where = f": {', '.join(others)}" if others else ""
    again = f"; {lost} steps were made again after a crash" if lost else ""
    return f"goodput {share:.1%} of {total:,.0f} s{where}{again}"


def _pace(beat: dict[str, Any], total: int) -> str:
    """Steps a second and the time left, or since when there was no heartbeat."""
    if not beat:
        return ""
    age = time.time() - beat["time"]
    if age > SILENT:
        return f"no heartbeat for {age:.0f} s: stopped? repeat the command, it resumes"
    rate = beat.get("steps_per_second")
    return f"{rate:.3g} steps/s, {(total - beat['step']) / rate:.0f} s left" if rate else ""
