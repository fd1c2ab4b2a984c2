"""A window of dispatches as an XProf trace: `run --profile=START:COUNT`, read with `xprof` or
TensorBoard's profile plugin.
"""

from pathlib import Path

import jax

from stepladder.configs.core import record
from stepladder.train.hardware.machine import profile_window
from stepladder.train.processes import group


class ProfilerTrace:
    """Traces one window of a pack's dispatches on process 0, once a workdir: where a run has a
    profile already, nothing is traced.

    `window` is "START:COUNT" in dispatches, or empty for none.
    """

    def __init__(self, window: str, workdir: Path):
        is_there = any((Path(workdir) / record.RUNS).glob(f"*/{record.PROFILE}"))
        wanted = "" if is_there or not group.is_leader() else window
        self.first, self.last = profile_window(wanted)
        self.seen, self.running = 0, False

    def before(self, folder: Path, state: dict) -> None:
        """A dispatch from `state` comes next: begin the trace with the window's first."""
        self.seen += 1
        if self.seen == self.first:
            jax.block_until_ready(state)
            jax.profiler.start_trace(str(folder))
            self.running = True

    def after(self, metrics: dict) -> None:
        """A dispatch is on its way: end the trace when the window's last is done."""
        if self.running and self.seen >= self.last:
            jax.block_until_ready(metrics)
            self.stop()

    def stop(self) -> None:
        """End a trace under way; a run may end within its window."""
        if self.running:
            self.running = False
            jax.profiler.stop_trace()
