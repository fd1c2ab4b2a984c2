"""`stepladder status`: one line a run, progress, time left, failures with their reasons.

Reads records only, never jax.
"""

import json
import time
from pathlib import Path

from stepladder.configs.core import record
from stepladder.configs.core.errors import UserError
from stepladder.configs.core.goodput import goodput
from stepladder.train.record.record import read_json


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
    lines, counts = [], {}
    for run in ladder["runs"]:
        folder = workdir / record.RUNS / run
        status = read_json(folder / record.STATUS) or {"state": record.PENDING, "step": 0}
        beat = read_json(folder / record.HEARTBEAT) or {}
        state = status["state"]
        counts[state] = counts.get(state, 0) + 1
        note, step, total = status.get("reason", ""), status["step"], status.get("total_steps", 0)
        if state == record.RUNNING:
            step = max(step, beat.get("step", 0))
            note = _pace(beat, total)
        saved = sorted(
            int(p.name) for p in (folder / record.CHECKPOINTS).glob("*") if p.name.isdigit()
        )
        share = f"{100 * step / total:3.0f}%" if total else "   -"
        lines.append(
            (
                f"{run:44} {state:9} {share} {step:>7}/{total or '-':<7} checkpoints "
                f"{saved or '-'}  {note}"
            ).rstrip()
        )
    if spent := _goodput(workdir, ladder["runs"]):
        lines.append(spent)
    summary = ", ".join(f"{n} {state}" for state, n in sorted(counts.items()))
    forecast = "written" if (workdir / record.FORECAST).exists() else "not yet"
    return "\n".join([*lines, f"{len(ladder['runs'])} runs: {summary}; forecast {forecast}"])


def _goodput(workdir: Path, runs: list[str]) -> str:
    """Where the time of all runs went so far, by what their records say of every step that is
    saved.
    """
    seconds: dict[str, float] = {}
    lost = 0
    for run in runs:
        for part in (workdir / record.RUNS / run / record.METRICS).glob("*.jsonl"):
            for row in (
                json.loads(line)
                for line in part.read_text().splitlines()
                if f'"{record.TIMING}"' in line
            ):
                if row["phase"] != record.WINDOW:
                    seconds[row["phase"]] = seconds.get(row["phase"], 0.0) + row["seconds"]
                    lost += row["steps"] if row["phase"] == record.LOST else 0
    share, total = goodput(seconds), sum(seconds.values())
    if share is None:
        return ""
    others = [
        f"{phase} {value / total:.1%}"
        for phase, value in sorted(seconds.items(), key=lambda kv: -kv[1])
        if phase != record.STEPS and value / total >= 1e-3
    ]
    again = f"; {lost} steps were made again after a crash" if lost else ""
    return (
        f"goodput {share:.1%} of {total:,.0f} s"
        + (f": {', '.join(others)}" if others else "")
        + again
    )


def _pace(beat: dict, total: int) -> str:
    if not beat:
        return ""
    age = time.time() - beat["time"]
    if age > 60:
        return f"no heartbeat for {age:.0f} s: stopped? repeat the command, it resumes"
    rate = beat.get("steps_per_second")
    return f"{rate:.3g} steps/s, {(total - beat['step']) / rate:.0f} s left" if rate else ""
