"""A window of dispatches as an XProf trace: `run --profile=START:COUNT`, read with `xprof` or
TensorBoard's profile plugin.
"""

from pathlib import Path

import jax

from stepladder.configs.core import record
from stepladder.train.hardware.machine import profile_window
from stepladder.train.processes import group


class Profile:
    """Traces one window of a pack's dispatches on process 0, once a workdir: where a run has a
    profile already, nothing is traced.
    """

    def __init__(self, text: str, workdir: Path):
        there = any((Path(workdir) / record.RUNS).glob(f"*/{record.PROFILE}"))
        self.first, self.last = profile_window("" if there or not group.first() else text)
        self.seen, self.running = 0, False

    def before(self, folder: Path, state) -> None:
        """A dispatch from `state` comes next: begin the trace with the window's first."""
        self.seen += 1
        if self.seen == self.first:
            jax.block_until_ready(state)
            jax.profiler.start_trace(str(folder))
            self.running = True

    def after(self, metrics) -> None:
        """A dispatch is on its way: end the trace when the window's last is done."""
        if self.running and self.seen >= self.last:
            jax.block_until_ready(metrics)
            self.stop()

    def stop(self) -> None:
        """End a trace under way; a run may end within its window."""
        if self.running:
            self.running = False
            jax.profiler.stop_trace()
