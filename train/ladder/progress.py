"""The progress bar of a ladder: all of its steps, and those of the runs that train now."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from stepladder.configs.core.spec import RunSpec
from stepladder.train.loop.run import Progress as Report
from stepladder.train.processes.progress import bars


@contextmanager
def progress_bar(specs: Sequence[RunSpec], show: bool) -> Iterator[Report]:
    """A bar on stderr while `specs` are trained; yields what is called as they advance.

    Nothing is drawn unless `show`, and where stderr is no terminal.
    """
    steps = sum(spec.steps - spec.start_step for spec in specs)
    with bars(show) as progress:
        whole = progress.add_task("ladder (steps)", total=steps, note="")
        tasks = {}
        done = dict.fromkeys((spec.run_id for spec in specs), 0)

        def report(spec: RunSpec, step: int, loss: float) -> None:
            if spec.run_id not in tasks:
                tasks[spec.run_id] = progress.add_task(spec.run_id, total=spec.steps, note="")
            done[spec.run_id] = step - spec.start_step
            progress.update(
                tasks[spec.run_id],
                completed=step,
                note="" if math.isnan(loss) else f"loss {loss:.3f}",
                visible=step < spec.steps,
            )
            progress.update(whole, completed=sum(done.values()))

        yield report
