"""Run a ladder: every run that is not done yet, parents first, targets only after the forecast is
written.
"""

import functools
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from stepladder.configs.core.errors import UserError
from stepladder.configs.core.files import write_atomic
from stepladder.configs.core.load import Loaded
from stepladder.configs.core.record import CHECKPOINTS, DONE, FAILED, LADDER, RUNS, TERMINAL, TIMES
from stepladder.configs.core.spec import RunSpec
from stepladder.train.data.read.corpora import stores
from stepladder.train.hardware import machine as machines
from stepladder.train.hardware.machine import Machine
from stepladder.train.processes import faults, group
from stepladder.train.processes.preemption import Notice
from stepladder.train.processes.progress import bars
from stepladder.train.record.clock import Clock
from stepladder.train.record.record import Record, read_json

BeforeTarget = Callable[[Path, RunSpec], None]  # writes the forecast


def claim(workdir: Path, loaded: Loaded) -> None:
    """Make `workdir` this ladder's, or refuse: a ladder may grow, but a workdir never changes
    ladders.
    """
    ids = [spec.run_id for spec in loaded.specs]
    path = Path(workdir) / LADDER
    held = read_json(path)
    orphans = [run for run in held["runs"] if run not in ids] if held else []
    if orphans:
        raise UserError(
            f"workdir={workdir}: belongs to another ladder ({held['config']}, {len(orphans)} of "
            f"its runs are not in this one, e.g. {orphans[0]}); use another --workdir, or the "
            "config and overrides it was made with"
        )
    if not held or held["runs"] != ids:
        write_atomic(path, json.dumps({"config": loaded.path, "runs": ids}, indent=1) + "\n")


def run_ladder(
    loaded: Loaded,
    workdir: Path,
    before_target: BeforeTarget | None = None,
    quiet: bool = False,
    notice: Notice | None = None,
) -> dict[str, str]:
    """Run what is not done; returns run id -> terminal state.

    Safe to repeat: finished runs cost nothing, nothing is rewritten.

    `notice`, once it has arrived, stops the runs at hand after a save (Preempted).
    """
    workdir = Path(workdir)
    machine = Machine.from_config(loaded.config)
    group.share(lambda: claim(workdir, loaded))
    states = group.share(
        lambda: {spec.run_id: Record(workdir, spec).status["state"] for spec in loaded.specs}
    )
    if all(state in TERMINAL for state in states.values()):
        return states
    machines.start(machine)
    group.confirm()
    # after `start`: importing these brings up jax's backend in places
    from stepladder.train.ladder.packing import forecast_first, plan
    from stepladder.train.loop.run import run_pack

    clock = Clock()
    with clock.phase("prepare"):
        by_corpus = stores(
            loaded.specs,
            Path(machine.store) if machine.store else workdir / "data",
            show=not quiet and group.first(),
        )
    clock.start += clock.seconds.pop("prepare")  # the run phase begins when the corpus is there
    began, ran = time.time(), sum(state not in TERMINAL for state in states.values())
    with _bar(loaded.specs, states, quiet) as progress:
        for pack in plan(loaded.specs, machine):
            todo = [spec for spec in pack.specs if states[spec.run_id] not in TERMINAL]
            for spec in todo:
                if forecast_first(spec) and before_target:
                    with clock.phase("forecast"):
                        group.share(functools.partial(before_target, workdir, spec))
                    faults.point("after_forecast")
            lost = group.share(functools.partial(_lost_parents, todo, states, workdir))
            orphans = {spec: lost[spec.run_id] for spec in todo if spec.run_id in lost}
            for spec, reason in orphans.items():
                Record(workdir, spec).set_status(FAILED, 0, reason=reason)
                states[spec.run_id] = FAILED
            todo = [spec for spec in todo if spec not in orphans]
            try:
                states |= run_pack(
                    todo,
                    workdir,
                    by_corpus,
                    machine,
                    members=pack.members,
                    streams=pack.streams,
                    notice=notice,
                    progress=progress,
                    clock=clock,
                )
            except UserError as error:
                for record in (Record(workdir, spec) for spec in todo):
                    if record.status["state"] not in TERMINAL:
                        record.set_status(FAILED, record.status["step"], reason=str(error))
                raise
    body = {"began_unix": began, "seconds": clock.table(), "runs": ran}
    if group.first():
        write_atomic(workdir / TIMES, json.dumps(body, indent=1) + "\n")
    return states


def _lost_parents(specs: list[RunSpec], states: dict[str, str], workdir: Path) -> dict[str, str]:
    return {
        spec.run_id: reason for spec in specs if (reason := _lost_parent(spec, states, workdir))
    }


def _lost_parent(spec: RunSpec, states: dict[str, str], workdir: Path) -> str | None:
    """Why a branch cannot start: its parent diverged or failed before the branch point.

    The other runs go on.
    """
    if spec.parent is None or states[spec.parent.run_id] == DONE:
        return None
    if (Path(workdir) / RUNS / spec.parent.run_id / CHECKPOINTS / str(spec.parent.step)).is_dir():
        return None
    return (
        f"parent {spec.parent.run_id} {states[spec.parent.run_id]} before step {spec.parent.step}"
    )


@contextmanager
def _bar(specs: list[RunSpec], states: dict[str, str], quiet: bool) -> Iterator[Callable]:
    """Progress over all steps of the ladder and within the runs at hand; silent when stderr is not
    a terminal.
    """
    todo = [s for s in specs if states[s.run_id] not in TERMINAL]
    with bars(show=not quiet and group.first()) as progress:
        whole = progress.add_task(
            "ladder (steps)", total=sum(s.steps - s.start_step for s in todo), note=""
        )
        tasks, done = {}, dict.fromkeys((s.run_id for s in todo), 0)

        def update(spec: RunSpec, step: int, loss: float) -> None:
            if spec.run_id not in tasks:
                tasks[spec.run_id] = progress.add_task(spec.run_id, total=spec.steps, note="")
            done[spec.run_id] = step - spec.start_step
            progress.update(
                tasks[spec.run_id],
                completed=step,
                note=f"loss {loss:.3f}" if loss == loss else "",
                visible=step < spec.steps,
            )
            progress.update(whole, completed=sum(done.values()))

        yield update
