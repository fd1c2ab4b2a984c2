"""One run of a pack: its record, its checkpoints and where it stands.

It sees its own steps, rows and divergence as it would alone.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import numpy as np
from jax.sharding import Mesh

from stepladder.configs.core.errors import UserError
from stepladder.configs.core.record import (
    CHECKPOINTS,
    DIVERGED,
    DONE,
    EVAL,
    FIELDS,
    TIMING,
    TRAIN,
    WINDOW,
)
from stepladder.configs.core.spec import RunSpec
from stepladder.train.data.read.batches import BatchSource
from stepladder.train.data.read.mixture import check_epochs
from stepladder.train.data.read.store import Store
from stepladder.train.data.tasks.batches import TaskSource, check_replay, replayed
from stepladder.train.data.tasks.task import Task, load
from stepladder.train.loop.lineage import lineage
from stepladder.train.processes import faults
from stepladder.train.record.checkpoint import Checkpoints
from stepladder.train.record.clock import WAIT, Share
from stepladder.train.record.record import Record
from stepladder.train.record.throughput import Throughput
from stepladder.train.step import schedule
from stepladder.train.step.evaluator import Evaluator
from stepladder.train.step.program import Program, dispatched

FetchMetrics = Callable[[], dict[str, float]]  # waits for a dispatch, returns its last step's


@dataclass(frozen=True)
class Divergence:
    """Why a run ended before its last step: something was not finite."""

    step: int
    reason: str


@dataclass
class Member:
    """A run under way, from its opened record to its terminal state.

    It is active until it diverges or has taken its last step, then `close` gives it its outcome.
    """

    slot: int  # its number in the pack
    spec: RunSpec
    record: Record
    store: Store
    program: Program  # the one it would have alone: it initialises, evaluates and saves
    evaluator: Evaluator
    checkpoints: Checkpoints
    throughput: Throughput
    share: Share  # of the pack's time
    meta: dict = field(default_factory=dict)  # what a checkpoint says beside the state
    executable: str = ""  # hash of what computes its steps; "" on CPUs, where the bits are equal
    step: int = 0  # finished steps, those of a dispatch under way included
    committed: int = 0  # last step that a checkpoint covers
    steps_since: int = 0  # steps since then
    pending: tuple[int, FetchMetrics] | None = None  # last step of a dispatch not yet fetched
    divergence: Divergence | None = None
    outcome: str | None = None  # DONE or DIVERGED, once its status says so

    @classmethod
    def open(
        cls,
        slot: int,
        record: Record,
        store: Store,
        program: Program,
        evaluator: Evaluator,
        mesh: Mesh,
        share: Share,
    ) -> "Member":
        """Write spec and lineage, open the checkpoints; `mesh` is what it trains on, its pack's.

        Raises UserError for a record that belongs to another run or other data.
        """
        spec = record.spec
        task = task_of(spec, store)
        record.open(lineage(spec, store, program, task))
        checkpoints = Checkpoints(record.path / CHECKPOINTS, permanent=spec.checkpoint_steps)
        throughput = Throughput(spec, mesh)
        meta = {
            "run_id": spec.run_id,
            "data_fingerprint": store.fingerprint,
            "tokenizer": store.manifest["tokenizer"]["hash"],
        }
        if task:
            meta["task_fingerprint"] = task.fingerprint
        return cls(
            slot, spec, record, store, program, evaluator, checkpoints, throughput, share, meta
        )

    @property
    def dispatch_steps(self) -> int:
        """Steps in the dispatch that comes next; 0 once there is none."""
        return 0 if self.finished else steps_in_dispatch(self.spec, self.step)

    @property
    def finished(self) -> bool:
        """Whether it takes no more steps."""
        return self.divergence is not None or self.step >= self.spec.steps

    @property
    def at_planned_step(self) -> bool:
        """Whether the state at this step is evaluated or saved, whatever the clock says."""
        return self.evaluates_here or self.saves_here

    @property
    def evaluates_here(self) -> bool:
        """Whether an evaluation is planned at this step."""
        return self.step in self.spec.eval_steps

    @property
    def saves_here(self) -> bool:
        """Whether a permanent checkpoint is planned at this step."""
        return self.step in self.spec.checkpoint_steps or self.step == self.spec.steps

    @property
    def since_last_save(self) -> float:
        """Seconds since its last checkpoint."""
        return time.monotonic() - self.checkpoints.last_save

    @property
    def last_loss(self) -> float:
        """The loss of the last row that waits; NaN when the last row has none, or none waits."""
        return self.record.rows[-1].get("loss", math.nan) if self.record.rows else math.nan

    def source(self, rows: np.ndarray) -> BatchSource:
        """The run's batches, of which this process reads `rows`."""
        spec, task = self.spec, task_of(self.spec, self.store)
        text = (
            self.store,
            spec.data.weights,
            spec.data.seq_len,
            spec.batch_size,
            spec.hyper.data_seed,
            rows,
            spec.data.seen,
        )
        if task:
            return TaskSource(*text, task=task, replay=spec.data.replay)
        return BatchSource(*text)

    def advance(self) -> None:
        """A dispatch of `dispatch_steps` steps is on its way."""
        steps = self.dispatch_steps
        self.step, self.steps_since = self.step + steps, self.steps_since + steps

    def observe(self, fetch: FetchMetrics, now: bool) -> None:
        """Fetch the metrics of the dispatch before this one, and this one's too when `now`.

        Adds a train row where one is due; sets `divergence` when the loss is not finite.
        """
        earlier, self.pending = self.pending, None if now else (self.step, fetch)
        if earlier:
            self.divergence = self._observe(*earlier)
        if now and not self.divergence:
            self.divergence = self._observe(self.step, fetch)

    def evaluate(self, params: dict) -> None:
        """Add the evaluation's rows; sets `divergence` when one is not finite."""
        decayed = schedule.decayed(self.spec.optimizer.schedule, self.step, asdict(self.spec.hyper))
        rows = self.evaluator(params)
        # the last update broke what the last loss could not show yet
        if not all(math.isfinite(row["loss"]) for row in rows):
            reason = f"evaluation is not finite at step {self.step}"
            self.divergence = Divergence(self.step, reason)
            return
        for row in rows:
            self.record.add(EVAL, self.step, **row, decayed=decayed)

    def add_timing(self, memory_bytes: int) -> None:
        """Add the rows of kind timing, all of the time since the last save: the window's, and one
        for each phase.
        """
        seconds_of = self.share.since_last()
        window = {
            **self.throughput.end_window(self.steps_since),
            "wait": seconds_of.pop(WAIT),
            "memory_bytes": memory_bytes,
        }
        self.record.add(TIMING, self.step, phase=WINDOW, **window)
        for phase, seconds in seconds_of.items():
            if seconds:
                self.record.add(TIMING, self.step, phase=phase, seconds=seconds)

    def save(self, state: dict) -> None:
        """Commit the rows, then start the save that covers them."""
        self.record.commit_rows(self.committed, self.step)
        faults.point("after_metrics")
        self.checkpoints.save(self.step, state, {**self.meta, "step": self.step})
        self.committed, self.steps_since = self.step, 0

    def close(self) -> None:
        """Wait for the last save, then write the terminal state: the outcome."""
        self.checkpoints.wait()
        faults.point("after_checkpoint")
        if self.divergence:
            self.record.commit_rows(self.committed, self.divergence.step)
        self.checkpoints.close()
        if self.divergence:
            self.outcome = DIVERGED
            self.record.set_status(DIVERGED, self.divergence.step, reason=self.divergence.reason)
        else:
            self.outcome = DONE
            self.record.set_status(DONE, self.spec.steps)

    def _observe(self, step: int, fetch: FetchMetrics) -> Divergence | None:
        """Bring a step's metrics to the host and add its train row, if it has one."""
        metrics = fetch()
        if not math.isfinite(metrics["last_loss"]):
            return Divergence(step, f"loss is {metrics['last_loss']} at step {step}")
        if step % self.spec.log_every == 0:
            values = {name: metrics[name] for name in FIELDS[TRAIN]}
            for name, value in values.items():
                # the norm of a gradient overflows float32 before the loss does
                if not math.isfinite(value):
                    return Divergence(step, f"{name} is {value} at step {step}")
            self.record.add(TRAIN, step, **values)
        return None


def task_of(spec: RunSpec, store: Store) -> Task | None:
    """The task that a run trains on, if it does. Raises UserError as `load`."""
    return load(spec.data.task, store, spec.data.seq_len) if spec.data.task else None


def check_data(spec: RunSpec, store: Store) -> None:
    """Raise UserError when the store's vocabulary is another, the run would see a domain too often,
    or its task cannot be trained on.
    """
    if store.vocab_size != spec.model.vocab_size:
        raise UserError(
            f"model.vocab_size={spec.model.vocab_size}: the token store has {store.vocab_size} "
            f"(tokenizer {store.manifest['tokenizer']['name']}); prepare the store with the "
            "config's data.tokenizer"
        )
    examples = (spec.steps - spec.stream_start) * spec.batch_size
    if spec.data.task:
        check_task(spec, store)
        examples = int(replayed(examples, spec.data.replay))
        if not examples:
            return
    elif spec.data.replay:
        raise UserError(
            f"data.replay={spec.data.replay}: is the share of a fine-tuning run's rows that are of "
            "the mixture, and this run has no data.task; use 0"
        )
    check_epochs(
        store,
        spec.data.weights,
        spec.data.seq_len,
        examples,
        spec.data.max_epochs,
        spec.data.seen,
    )


def check_task(spec: RunSpec, store: Store) -> None:
    """Raise UserError unless the model of a run with a task keeps examples apart, and the task can
    be loaded.
    """
    check_replay(spec.data.replay)
    end = store.manifest["tokenizer"]["eos"]
    if not spec.model.marked:
        raise UserError(
            "model.marked=False: a task's prompts are marked tokens; use True for a run with "
            "data.task"
        )
    if spec.model.document_end != end:
        raise UserError(
            f"model.document_end={spec.model.document_end}: examples of a row would see each "
            f"other; use {end}, the tokenizer's end of a document"
        )
    task_of(spec, store)


def timeline(spec: RunSpec) -> str:
    """Equal for runs that read the same batches in the same dispatches: in a pack they share one
    stream.

    Sortable.
    """
    data = (
        spec.data.corpus,
        spec.data.weights,
        spec.data.seq_len,
        spec.data.seen,
        spec.data.task,
        spec.data.replay,
        spec.batch_size,
        spec.hyper.data_seed,
        spec.stream_start,
    )
    return repr(
        (*data, spec.start_step, spec.steps, spec.log_every, spec.eval_steps, spec.checkpoint_steps)
    )


def steps_in_dispatch(spec: RunSpec, step: int) -> int:
    """Steps in the dispatch after `step`; 0 at the end of the run.

    It goes up to the next row, evaluation, checkpoint or multiple of `dispatched`, whichever comes
    first. It depends on the step alone, so a resumed run, or one in a pack, groups its steps and
    sees a divergence as the unbroken one does.
    """
    if step >= spec.steps:
        return 0
    ends = [step - step % every + every for every in (dispatched(spec), spec.log_every)]
    ends += [s for s in (*spec.eval_steps, *spec.checkpoint_steps, spec.steps) if s > step]
    return min(ends) - step
