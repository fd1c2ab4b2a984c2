"""What the training loop drives: an executable that trains the runs of a pack together. A run that
trains alone is a pack of one.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr
from jax.sharding import Mesh
from jax.stages import Compiled

from stepladder.model.execution import Execution
from stepladder.train.step.program import Program


class Executable(Protocol):
    """Trains up to `members` runs of one program, with up to `streams` different data streams."""

    program: Program  # that of each run alone: it initialises, evaluates and saves
    mesh: Mesh
    execution: Execution
    members: int
    streams: int

    @property
    def batch_rows(self) -> np.ndarray:
        """The rows of a batch that this process's devices hold."""
        ...

    @property
    def jaxpr(self) -> ClosedJaxpr:
        """The jaxpr of the step; it does not need the step to compile."""
        ...

    def compile(self) -> Compiled:
        """The compiled step; compiles at the first call only."""
        ...

    def hyper(self, values: Sequence[dict]) -> dict:
        """The members' hypers, as `step` takes them."""
        ...

    def place(self, states: Sequence[dict]) -> dict:
        """The members' states, as `step` takes them."""
        ...

    def take(self, state: dict, member: int) -> dict:
        """One member's state, on the mesh of its own program."""
        ...

    def batch(
        self, counts: Sequence[int], streams: Sequence[int], tokens: Sequence[list[np.ndarray]]
    ) -> tuple:
        """Arguments of `step` after state and hypers: how many steps each member takes, of which
        stream, and the streams' batches.
        """
        ...

    def step(self, state: dict, hyper: dict, *batch: Any) -> tuple[dict, dict]:
        """(state, metrics) after one dispatch; the state given is donated."""
        ...

    def fetch(self, metrics: dict) -> dict[str, np.ndarray]:
        """Metrics on the host, each one number a member."""
        ...


class SingleRun:
    """One run, without a leading axis of members: its own program's step."""

    def __init__(self, program: Program):
        self.program, self.mesh, self.execution = program, program.mesh, program.execution
        self.members, self.streams = 1, 1

    @property
    def batch_rows(self) -> np.ndarray:
        return self.program.batch_rows

    @property
    def jaxpr(self) -> ClosedJaxpr:
        return self.program.traced_step.jaxpr

    def compile(self) -> Compiled:
        return self.program.compile_step()

    def hyper(self, values: Sequence[dict]) -> dict:
        return self.program.put(values[0])

    def place(self, states: Sequence[dict]) -> dict:
        return states[0]

    def take(self, state: dict, member: int) -> dict:
        return state

    def batch(
        self, counts: Sequence[int], streams: Sequence[int], tokens: Sequence[list[np.ndarray]]
    ) -> tuple:
        return self.program.put_batches(tokens[0])

    def step(self, state: dict, hyper: dict, *batch: Any) -> tuple[dict, dict]:
        return self.program.step(state, hyper, *batch)

    def fetch(self, metrics: dict) -> dict[str, np.ndarray]:
        return {name: np.atleast_1d(value) for name, value in jax.device_get(metrics).items()}


class Fetched:
    """Metrics of one dispatch, brought to the host once for all members, when first asked for."""

    def __init__(self, executable: Executable, metrics: dict):
        self.executable, self.metrics = executable, metrics
        self._host: dict[str, np.ndarray] | None = None

    @property
    def ready(self) -> bool:
        """Whether the devices have finished the dispatch."""
        return self.metrics["last_loss"].is_ready()

    def __call__(self, member: int) -> dict[str, float]:
        if self._host is None:
            self._host = self.executable.fetch(self.metrics)
        return {name: float(values[member]) for name, values in self._host.items()}
