"""One run of a pack: its record, its checkpoints and where it stands.

It sees its own steps, rows and divergence as it would alone.
"""

import logging
import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from jax.sharding import Mesh

from stepladder.configs.core.errors import UserError
from stepladder.configs.core.record import (
    CHECKPOINTS,
    DIVERGED,
    DONE,
    EVAL,
    FIELDS,
    LOST,
    RUNNING,
    RUNS,
    TIMING,
    TRAIN,
    WINDOW,
)
from stepladder.configs.core.spec import ParentSpec, RunSpec
from stepladder.train.data.read.batches import BatchSource
from stepladder.train.data.read.mixture import check_epochs
from stepladder.train.data.read.store import Store
from stepladder.train.hardware.machine import Machine
from stepladder.train.loop.lineage import lineage
from stepladder.train.processes import faults, group
from stepladder.train.record.checkpoint import Checkpoints, UnreadableError
from stepladder.train.record.clock import WAIT
from stepladder.train.record.mirrors import tensorboard
from stepladder.train.record.record import Record, reopen
from stepladder.train.record.throughput import Rates
from stepladder.train.step import schedule
from stepladder.train.step.evaluator import Evaluator
from stepladder.train.step.program import Program, dispatched


@dataclass
class Member:
    """A run under way.

    `program` is the one it would have alone: it initialises, evaluates and saves.
    """

    spec: RunSpec
    record: Record
    store: Store
    program: Program
    evaluator: Evaluator
    checkpoints: Checkpoints
    rates: Rates
    step: int = 0
    group: int = 0  # steps in the dispatch that comes next; 0 once the run is over
    committed: int = 0  # last step a checkpoint covers
    steps_since: int = 0  # steps since then
    pending: tuple[int, dict] | None = (
        None  # a dispatch whose metrics have not been fetched: (step, metrics)
    )
    ended: dict | None = None  # why it diverged
    closed: bool = False
    meta: dict = field(default_factory=dict)
    charged: dict[str, float] = field(default_factory=dict)  # seconds by phase that rows have

    @classmethod
    def open(
        cls,
        spec: RunSpec,
        record: Record,
        store: Store,
        program: Program,
        evaluator: Evaluator,
        mesh: Mesh,
    ) -> "Member":
        """Write spec and lineage, open the checkpoints; `mesh` is what it trains on, its pack's.

        Raises UserError for a record that belongs to another run or other data.
        """
        record.open(lineage(spec, store, program))
        meta = {
            "run_id": spec.run_id,
            "data_fingerprint": store.fingerprint,
            "tokenizer": store.manifest["tokenizer"]["hash"],
        }
        checkpoints = Checkpoints(record.path / CHECKPOINTS, permanent=spec.checkpoint_steps)
        return cls(
            spec, record, store, program, evaluator, checkpoints, Rates(spec, mesh), meta=meta
        )

    @property
    def starts_fresh(self) -> bool:
        return not self.checkpoints.steps() and (
            self.spec.parent is None or bool(self.spec.parent.reset)
        )

    @property
    def over(self) -> bool:
        return self.ended is not None or self.step >= self.spec.steps

    def start(self, workdir: Path, hyper: dict) -> dict:
        """State to begin from: resume > branch > weights only > scratch.

        A named parent that is missing is an error.

        When no checkpoint of a run can be read they are set aside, and it starts again as it did at
        first: its rows are made again.
        """
        state, self.step = self._state(workdir, hyper)
        self.committed, self.group = self.step, dispatch(self.spec, self.step)
        self.record.truncate(self.step)
        if lost := self.record.lose(self.step):
            self.record.add(
                TIMING,
                self.step,
                phase=LOST,
                steps=lost[0],
                seconds=round(lost[1], 4),
            )
        self.record.set_status(RUNNING, self.step)
        return state

    def source(self, rows: np.ndarray) -> BatchSource:
        """The run's batches, of which this process reads `rows`."""
        spec = self.spec
        return BatchSource(
            self.store,
            spec.data.weights,
            spec.data.seq_len,
            spec.batch_size,
            spec.hyper.data_seed,
            rows,
        )

    def advance(self) -> None:
        """The dispatch of `group` steps is on its way."""
        self.step, self.steps_since = self.step + self.group, self.steps_since + self.group
        self.group = dispatch(self.spec, self.step)

    @property
    def due(self) -> bool:
        """Whether the state at this step is evaluated or saved, whatever the clock says."""
        return (
            self.step in self.spec.eval_steps
            or self.step in self.spec.checkpoint_steps
            or self.step == self.spec.steps
        )

    def observe(self, metrics: dict, now: bool) -> None:
        """Fetch the dispatch before this one, and this one too when `now`; sets `ended` when the
        loss is not finite.
        """
        self.ended = self._fetch(self.pending) or (
            self._fetch((self.step, metrics)) if now else None
        )
        self.pending = None if now else (self.step, metrics)
        if self.ended:
            self.group = 0

    def evaluate(self, params: dict) -> None:
        """Add the evaluation's rows; sets `ended` when one is not finite."""
        decayed = schedule.decayed(self.spec.optimizer.schedule, self.step, asdict(self.spec.hyper))
        rows = self.evaluator(params)
        # the last update broke what the last loss could not show yet
        if not all(math.isfinite(row["loss"]) for row in rows):
            self.ended = {
                "step": self.step,
                "reason": f"evaluation is not finite at step {self.step}",
            }
            self.group = 0
            return
        for row in rows:
            self.record.add(EVAL, self.step, **row, decayed=decayed)

    def add_timing(self, phases: dict[str, float], memory_bytes: int) -> None:
        """Rows of kind timing, all of the time since the last save: the window's, and one for each
        phase.

        `phases` are seconds so far.
        """
        since = {
            phase: round(seconds - self.charged.get(phase, 0.0), 4)
            for phase, seconds in phases.items()
        }
        self.charged = phases
        window = {
            **self.rates.since(self.steps_since),
            "wait": since.pop(WAIT),
            "memory_bytes": memory_bytes,
        }
        self.record.add(TIMING, self.step, phase=WINDOW, **window)
        for phase, seconds in since.items():
            if seconds:
                self.record.add(TIMING, self.step, phase=phase, seconds=seconds)

    def save(self, state: dict, machine: Machine) -> None:
        """Commit the rows, then start the save that covers them."""
        self._commit(self.step, machine)
        faults.point("after_metrics")
        self.checkpoints.save(self.step, state, {**self.meta, "step": self.step})
        self.committed, self.steps_since = self.step, 0

    def close(self, machine: Machine) -> str:
        """Wait for the last save, write the terminal state and return it."""
        self.checkpoints.wait()
        faults.point("after_checkpoint")
        if self.ended:
            self._commit(self.ended["step"], machine)
        self.checkpoints.close()
        self.closed, final = True, DIVERGED if self.ended else DONE
        step, reason = (
            (self.ended["step"], {"reason": self.ended["reason"]})
            if self.ended
            else (self.spec.steps, {})
        )
        self.record.set_status(final, step, **reason)
        return final

    @property
    def saved_ago(self) -> float:
        return time.monotonic() - self.checkpoints.last_save

    @property
    def last_loss(self) -> float:
        return self.record.rows[-1].get("loss", math.nan) if self.record.rows else math.nan

    def _state(self, workdir: Path, hyper: dict) -> tuple[dict, int]:
        spec, abstract = self.spec, self.program.abstract_state
        try:
            found = self.checkpoints.restore(abstract)
        except UnreadableError as error:
            self._lose_all(error)
            found = None
        if found:
            state, meta = found
            _check_fingerprint(spec.run_id, meta, self.store)
            self.checkpoints.set_aside_after(meta["step"])
            return state, meta["step"]
        if spec.parent is None:
            return self.program.init(hyper), 0
        folder = Path(workdir) / RUNS / spec.parent.run_id / CHECKPOINTS
        if not group.share(folder.is_dir):
            raise UserError(
                f"parent={spec.parent.run_id}: no record of it under {workdir}; run the parent "
                "first, a branch never starts from scratch"
            )
        parent = Checkpoints(folder, read_only=True)
        try:
            state, meta = parent.restore(abstract, spec.parent.step)
        except UnreadableError as error:
            raise _parent_to_be_made_again(folder, spec.parent, error) from error
        finally:
            parent.close()
        _check_fingerprint(spec.run_id, meta, self.store)
        if spec.parent.reset:
            fresh = self.program.init(hyper)
            parts = {"optimizer": ("opt", "window"), "step": ("step", "window")}
            for part in spec.parent.reset:
                if part not in parts:
                    raise UserError(
                        f"parent.reset={part!r}: unknown part; use one of {', '.join(parts)}"
                    )
                state |= {name: fresh[name] for name in parts[part]}
        return state, spec.start_step

    def _lose_all(self, error: UnreadableError) -> None:
        """Say what is lost and set it aside."""
        lost = self.checkpoints.steps()[-1]
        self.checkpoints.set_aside_after(-1)
        begin = (
            f"step {self.spec.parent.step} of {self.spec.parent.run_id}"
            if self.spec.parent
            else "the start"
        )
        if group.first():
            logging.warning(
                "%s; set aside in %s. %s is trained again from %s: %d steps and their rows are "
                "made again",
                error,
                self.checkpoints.aside,
                self.spec.run_id,
                begin,
                lost - self.spec.start_step,
            )

    def _fetch(self, pending: tuple[int, dict] | None) -> dict | None:
        """Bring a step's metrics to the host: a train row when the window is full; the reason to
        stop when the loss is not finite.
        """
        if pending is None:
            return None
        step, metrics = pending
        values = metrics()
        if not math.isfinite(values["last_loss"]):
            return {"step": step, "reason": f"loss is {values['last_loss']} at step {step}"}
        if step % self.spec.log_every == 0:
            values = {name: values[name] for name in FIELDS[TRAIN]}
            for name, value in values.items():
                # the norm of a gradient overflows float32 before the loss does
                if not math.isfinite(value):
                    return {"step": step, "reason": f"{name} is {value} at step {step}"}
            self.record.add(TRAIN, step, **values)
        return None

    def _commit(self, last: int, machine: Machine) -> None:
        rows = self.record.commit_rows(self.committed, last)
        if machine.tensorboard and rows and group.first():
            tensorboard.mirror(self.record.path / "tensorboard", rows)


def check_data(spec: RunSpec, store: Store) -> None:
    """Raise UserError when the store's vocabulary is another, or the run would see a domain too
    often.
    """
    if store.vocab_size != spec.model.vocab_size:
        raise UserError(
            f"model.vocab_size={spec.model.vocab_size}: the token store has {store.vocab_size} "
            f"(tokenizer {store.manifest['tokenizer']['name']}); prepare the store with the "
            "config's data.tokenizer"
        )
    check_epochs(
        store,
        spec.data.weights,
        spec.data.seq_len,
        spec.steps * spec.batch_size,
        spec.data.max_epochs,
    )


def timeline(spec: RunSpec) -> str:
    """Equal for runs that read the same batches in the same dispatches: in a pack they share one
    copy.

    Sortable.
    """
    data = (
        spec.data.corpus,
        spec.data.weights,
        spec.data.seq_len,
        spec.batch_size,
        spec.hyper.data_seed,
    )
    return repr(
        (*data, spec.start_step, spec.steps, spec.log_every, spec.eval_steps, spec.checkpoint_steps)
    )


def dispatch(spec: RunSpec, step: int) -> int:
    """Steps in the dispatch after `step`: up to the next row, evaluation, checkpoint or multiple of
    `dispatched`, whichever comes first.

    It depends on the step alone, so a resumed run, or one in a pack, groups its steps and sees a
    divergence as the unbroken one does.
    """
    ends = [step - step % every + every for every in (dispatched(spec), spec.log_every)]
    ends += [s for s in (*spec.eval_steps, *spec.checkpoint_steps, spec.steps) if s > step]
    return min(ends) - step if step < spec.steps else 0


def _parent_to_be_made_again(
    folder: Path, parent: ParentSpec, unreadable: UnreadableError
) -> UserError:
    """Set the parent's checkpoints from the branch point on aside and make it an unfinished run,
    which the next command trains to its end.
    """
    checkpoints = Checkpoints(folder)
    checkpoints.set_aside_after(parent.step - 1)
    left = checkpoints.steps()
    checkpoints.close()
    group.share(lambda: reopen(folder.parent, left[-1] if left else 0))
    begin = f"step {left[-1]}" if left else "its start"
    return UserError(
        f"parent={parent.run_id}: {unreadable}; set aside in {checkpoints.aside}; "
        f"repeat the command: the parent is trained again from {begin}, then its branches"
    )


def _check_fingerprint(run_id: str, meta: dict, store: Store) -> None:
    if meta["data_fingerprint"] != store.fingerprint:
        raise UserError(
            f"data.fingerprint={store.fingerprint}: the checkpoint of {run_id} was made on "
            f"{meta['data_fingerprint']}; restore that token store"
        )
