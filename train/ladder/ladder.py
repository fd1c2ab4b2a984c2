"""Run a ladder: every run that is not done yet, parents first, targets only after the forecast is
written.
"""

import functools
import json
import sys
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from stepladder.configs.core.errors import UserError
from stepladder.configs.core.files import write_atomic
from stepladder.configs.core.load import Loaded
from stepladder.configs.core.record import (
    CHECKPOINTS,
    DIVERGED,
    DONE,
    FAILED,
    LADDER,
    RUNS,
    TERMINAL,
    TIMES,
)
from stepladder.configs.core.spec import RunSpec
from stepladder.train.data.read.corpora import stores
from stepladder.train.hardware.machine import Machine, start_jax
from stepladder.train.ladder.consistency import check_tasks
from stepladder.train.ladder.packing import forecast_first, pack_ladder
from stepladder.train.ladder.progress import progress_bar
from stepladder.train.loop.ahead import compiling_ahead
from stepladder.train.loop.run import run_pack
from stepladder.train.processes import faults, group
from stepladder.train.processes.preemption import Preemption
from stepladder.train.record.clock import Clock
from stepladder.train.record.record import Record, read_json
from stepladder.train.step.programs import Programs

BeforeTarget = Callable[[Path, RunSpec], None]  # writes the forecast of a target into the workdir


def run_ladder(
    loaded: Loaded,
    workdir: Path,
    before_target: BeforeTarget | None = None,
    quiet: bool = False,
    preemption: Preemption | None = None,
    only: Collection[str] | None = None,
) -> dict[str, str]:
    """Train every run of a ladder that is not done yet.

    Safe to repeat: finished runs cost nothing, and nothing is written again.

    Args:
        loaded: the config and its runs.
        workdir: where records, checkpoints and the prepared corpus are.
        before_target: is called before a run that is forecast (`packing.forecast_first`) trains.
        quiet: no progress bar.
        preemption: once it is requested, the runs at hand stop after a save.
        only: when given, the ids of the runs to train; the others are another command's.

    Returns:
        Run id -> terminal state: done, diverged or failed; of the runs to train.

    Raises:
        UserError: for what a user can mend; the runs at hand are then marked as failed.
        Preempted: when `preemption` has stopped the runs.
    """
    workdir, machine = Path(workdir), Machine.from_config(loaded.config)
    group.broadcast_from_zero(lambda: claim(workdir, loaded))
    states = group.broadcast_from_zero(functools.partial(_states, loaded.specs, workdir))
    mine = {spec.run_id for spec in loaded.specs if only is None or spec.run_id in only}

    def to_train(specs: Sequence[RunSpec]) -> list[RunSpec]:
        return [s for s in specs if s.run_id in mine and states[s.run_id] not in TERMINAL]

    unfinished = to_train(loaded.specs)
    if not unfinished:
        return {run_id: state for run_id, state in states.items() if run_id in mine}
    start_jax(machine)
    group.confirm()
    show = not quiet and group.is_leader()
    root = Path(machine.store) if machine.store else workdir / "data"
    corpora = stores(loaded.specs, root, show=show)
    check_tasks(unfinished, corpora)
    clock, programs = Clock(), Programs()  # the time of the run begins when the corpora are there
    began = time.time()
    packing = pack_ladder(loaded.specs, machine)
    for warning in packing.warnings if group.is_leader() else ():
        print(warning, file=sys.stderr)
    sized = [(pack.specs, pack.members, pack.streams) for pack in packing.packs]
    ahead = [pack for pack in sized if to_train(pack[0])]
    with (
        compiling_ahead(ahead, workdir, corpora, machine, programs),
        progress_bar(unfinished, show) as progress,
    ):
        shared = {
            "preemption": preemption,
            "progress": progress,
            "clock": clock,
            "programs": programs,
        }
        for together, members, streams in sized:
            specs = to_train(together)
            _forecast(specs, workdir, before_target, clock)
            lost = _fail_without_parent(specs, states, workdir)
            states |= lost
            specs = [spec for spec in specs if spec.run_id not in lost]
            size = {"members": members, "streams": streams}
            try:
                states |= run_pack(specs, workdir, corpora, machine, **size, **shared)
            except UserError as error:
                _fail(specs, workdir, str(error))
                raise
    if group.is_leader():
        body = {"began_unix": began, "seconds": clock.table(), "runs": len(unfinished)}
        write_atomic(workdir / TIMES, json.dumps(body, indent=1) + "\n")
    return {run_id: state for run_id, state in states.items() if run_id in mine}


def claim(workdir: Path, loaded: Loaded) -> None:
    """Note in `workdir` that it belongs to this ladder.

    A ladder may grow, but a workdir never changes ladders: raises UserError when runs that it holds
    are not in this one.
    """
    ids = [spec.run_id for spec in loaded.specs]
    path = Path(workdir) / LADDER
    held = read_json(path)
    foreign = [run_id for run_id in held["runs"] if run_id not in ids] if held else []
    if held and foreign:
        raise UserError(
            f"workdir={workdir}: belongs to another ladder ({held['config']}, {len(foreign)} of "
            f"its runs are not in this one, e.g. {foreign[0]}); use another --workdir, or the "
            "config and overrides it was made with"
        )
    if not held or held["runs"] != ids:
        write_atomic(path, json.dumps({"config": loaded.path, "runs": ids}, indent=1) + "\n")


def _states(specs: Sequence[RunSpec], workdir: Path) -> dict[str, str]:
    return {spec.run_id: Record(workdir, spec).status["state"] for spec in specs}


def _forecast(
    specs: Sequence[RunSpec], workdir: Path, before_target: BeforeTarget | None, clock: Clock
) -> None:
    """Write the forecast of those runs that are forecast, before they train."""
    for spec in specs:
        if forecast_first(spec) and before_target:
            with clock.phase("forecast"):
                group.broadcast_from_zero(functools.partial(before_target, workdir, spec))
            faults.point("after_forecast")


def _fail_without_parent(
    specs: Sequence[RunSpec], states: dict[str, str], workdir: Path
) -> dict[str, str]:
    """Mark the branches that cannot start as failed; returns their new states. Others go on."""

    def look() -> dict[str, str]:
        reasons = {spec.run_id: _lost_parent(spec, states, workdir) for spec in specs}
        return {run_id: reason for run_id, reason in reasons.items() if reason}

    lost = group.broadcast_from_zero(look)
    for spec in specs:
        if spec.run_id in lost:
            Record(workdir, spec).set_status(FAILED, 0, reason=lost[spec.run_id])
    return dict.fromkeys(lost, FAILED)


def _lost_parent(spec: RunSpec, states: dict[str, str], workdir: Path) -> str:
    """Why a branch cannot start: its parent ended before the branch point; "" when it can."""
    parent = spec.parent
    if parent is None or states[parent.run_id] == DONE:
        return ""
    if (workdir / RUNS / parent.run_id / CHECKPOINTS / str(parent.step)).is_dir():
        return ""
    if states[parent.run_id] == DIVERGED:
        return f"parent {parent.run_id} diverged before step {parent.step}"
    return (
        f"parent {parent.run_id} is {states[parent.run_id]} and has no checkpoint at step "
        f"{parent.step} yet; repeat the command when it has"
    )


def _fail(specs: Sequence[RunSpec], workdir: Path, reason: str) -> None:
    """Mark those of `specs` that have not ended as failed."""
    for record in (Record(workdir, spec) for spec in specs):
        if record.status["state"] not in TERMINAL:
            record.set_status(FAILED, record.status["step"], reason=reason)
