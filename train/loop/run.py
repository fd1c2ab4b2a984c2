"""A pack of runs, top to bottom: mesh, data, model, state, restore, loop, done.

A run alone is a pack of one.
"""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from stepladder.configs.core.record import PROFILE, TERMINAL
from stepladder.configs.core.spec import CorpusSpec, RunSpec
from stepladder.train.checks import memory
from stepladder.train.checks.compiled_hash import compiled_hash
from stepladder.train.data.read.store import Store
from stepladder.train.hardware import autotuning
from stepladder.train.hardware.chips import high_water
from stepladder.train.hardware.machine import Machine
from stepladder.train.loop.batch_streams import BatchStreams, Dispatch
from stepladder.train.loop.member import Member, check_data
from stepladder.train.loop.profiler_trace import ProfilerTrace
from stepladder.train.loop.start import check_reset, needs_init, start
from stepladder.train.processes import group
from stepladder.train.processes.preemption import Preempted, Preemption
from stepladder.train.record.clock import WAIT, Clock, Share
from stepladder.train.record.mirrors.mirrors import MIRRORS
from stepladder.train.record.record import Record
from stepladder.train.step.evaluator import evaluators
from stepladder.train.step.executable import Executable, Fetched
from stepladder.train.step.program import Program
from stepladder.train.step.programs import Programs
from stepladder.train.step.step import traced_hypers

Progress = Callable[[RunSpec, int, float], None]  # (run, step, its last logged loss)


def run(spec: RunSpec, workdir: Path, store: Store, machine: Machine, **more) -> str:
    """Train `spec` alone to its end, from wherever its record stands; returns the terminal state.

    Arguments and errors: `run_pack`.
    """
    return run_pack([spec], workdir, {spec.data.corpus: store}, machine, **more)[spec.run_id]


def run_pack(
    specs: Sequence[RunSpec],
    workdir: Path,
    stores: Mapping[CorpusSpec, Store],
    machine: Machine,
    *,
    members: int = 1,
    streams: int = 1,
    preemption: Preemption | None = None,
    progress: Progress | None = None,
    clock: Clock | None = None,
    programs: Programs | None = None,
) -> dict[str, str]:
    """Train runs of one program together, from wherever their records stand.

    Safe to repeat: finished runs return at once.

    Args:
        specs: the runs.
        workdir: where their records are.
        stores: the token store of every corpus.
        machine: how to execute.
        members: size of the executable (`Pack` of train/ladder/packing.py): at least the number of
            runs; 1 is the run's own executable.
        streams: at least the number of their different data streams.
        preemption: whether to stop, asked between dispatches.
        progress: called after every dispatch.
        clock: charged with the time, by phase.
        programs: where compiled programs are shared with other packs.

    Returns:
        Run id -> terminal state ("done" or "diverged").

    Raises:
        UserError: for what a user can mend; before anything compiles where possible.
        Preempted: after a save, when the job has been told to stop.
    """
    states, records = _open_records(specs, workdir, machine)
    if not records:
        return states
    clock, preemption = clock or Clock(), preemption or Preemption()
    shares, programs = clock.shares(len(records)), programs or Programs()

    # Mesh and data
    _check(records, stores)
    own = programs.program(records[0].spec, machine)
    pack = programs.packed(records[0].spec, machine, members, streams)

    # Model
    runs = _open_members(records, stores, own, pack, shares)
    with clock.phase("compile"):
        _compile(pack, runs, machine, workdir)

    # State and restore: resume > branch > weights only > scratch
    with clock.phase("restore"):
        state, hyper = _start(runs, pack, workdir)

    # Loop: a dispatch of steps is on its way before the metrics of the one before are fetched
    loop = _Loop(runs, pack, hyper, machine, clock, progress, workdir)
    dispatch = loop.first_dispatch()
    with preemption.in_loop():
        stop, save_now = preemption.agree(save_due=False)
        while dispatch:
            if stop:
                raise _close_unfinished(runs)
            state, metrics = loop.step(state, dispatch)
            upcoming = loop.read_ahead(metrics)
            stop, save_now = preemption.agree(loop.save_due(dispatch))
            loop.observe(dispatch, metrics, save_now or stop)
            loop.save_and_close(dispatch, state, save_now or stop)
            dispatch = loop.streams.without_diverged(upcoming)

    # Done
    loop.close_the_rest()
    return states | {member.spec.run_id: member.outcome for member in runs if member.outcome}


def _open_records(
    specs: Sequence[RunSpec], workdir: Path, machine: Machine
) -> tuple[dict[str, str], list[Record]]:
    """(run id -> state, the records of those that are not in a terminal one)."""
    mirrors = [name for name in MIRRORS if getattr(machine, name)]
    records = [Record(workdir, spec, mirrors) for spec in specs]
    states = group.broadcast_from_zero(
        lambda: {record.spec.run_id: record.status["state"] for record in records}
    )
    return states, [r for r in records if states[r.spec.run_id] not in TERMINAL]


def _check(records: Sequence[Record], stores: Mapping[CorpusSpec, Store]) -> None:
    """Raise UserError for what can be known before anything compiles."""
    for record in records:
        check_data(record.spec, stores[record.spec.data.corpus])
        check_reset(record.spec)


def _open_members(
    records: Sequence[Record],
    stores: Mapping[CorpusSpec, Store],
    own: Program,
    pack: Executable,
    shares: Sequence[Share],
) -> list[Member]:
    evaluator_of, runs = evaluators(own), []
    for slot, (record, share) in enumerate(zip(records, shares)):
        store = stores[record.spec.data.corpus]
        evaluator = evaluator_of(record.spec, store)
        runs.append(Member.open(slot, record, store, own, evaluator, pack.mesh, share))
    return runs


def _compile(pack: Executable, runs: Sequence[Member], machine: Machine, workdir: Path) -> None:
    """Compile what will run; raises UserError when it does not fit the devices' memory."""
    tried_kernels = pack.program.backend == "gpu"  # others' compilers try none
    if tried_kernels:
        autotuning.bring(workdir)
    memory.check(pack, machine)
    for member in runs:
        memory.check_evaluation(member.evaluator.compile, member.spec, machine)
    if any(needs_init(member) for member in runs):
        pack.program.compile_init()
    if tried_kernels:
        autotuning.keep(workdir)
    executable = _executable_hash(pack)
    for member in runs:
        member.executable = executable


def _executable_hash(pack: Executable) -> str:
    """What to note of the executable: "" on CPUs, where any of them gives the same bits."""
    return "" if pack.program.backend == "cpu" else compiled_hash(pack.compile())


def _start(runs: Sequence[Member], pack: Executable, workdir: Path) -> tuple[dict, dict]:
    """(state, hyperparameters) of the pack, on its devices."""
    hypers = [traced_hypers(member.spec) for member in runs]
    states = [
        start(member, workdir, member.program.put(hyper)) for member, hyper in zip(runs, hypers)
    ]
    return pack.place(states), pack.hyper(hypers)


def _close_unfinished(runs: Sequence[Member]) -> Preempted:
    """Wait for the saves under way; where each run stands."""
    for member in runs:
        if not member.outcome:
            member.checkpoints.close()
    return Preempted(
        ", ".join(
            f"{member.spec.run_id}: stopped at step {member.step}"
            for member in runs
            if not member.finished
        )
    )


class _Loop:
    """One pass of the loop, in parts; each part charges its time to the clock."""

    def __init__(
        self,
        runs: Sequence[Member],
        pack: Executable,
        hyper: dict,
        machine: Machine,
        clock: Clock,
        progress: Progress | None,
        workdir: Path,
    ):
        self.runs, self.pack, self.hyper, self.clock = runs, pack, hyper, clock
        self.progress, self.temporary_every = progress, machine.temporary_every
        self.streams = BatchStreams(runs, pack)
        self.trace = ProfilerTrace(machine.profile, workdir)
        self.began = 0.0  # when the dispatch under way was sent

    def first_dispatch(self) -> Dispatch | None:
        """None when every run has taken all of its steps."""
        with self.clock.phase("data"):
            return self.streams.next_dispatch()

    def step(self, state: dict, dispatch: Dispatch) -> tuple[dict, Fetched]:
        """Send a dispatch to the devices: the state after it, and its metrics to come."""
        self.began = time.perf_counter()
        self.trace.before(dispatch.members[0].record.path / PROFILE, state)
        with self.clock.phase("steps"):
            state, metrics = self.pack.step(state, self.hyper, *dispatch.batch)
        fetched = Fetched(self.pack, metrics)
        self.trace.after(metrics)
        for member in dispatch.members:
            member.advance()
        return state, fetched

    def read_ahead(self, under_way: Fetched) -> Dispatch | None:
        """The next dispatch, while the devices compute the one under way."""
        with self.clock.reading(device_busy=lambda: not under_way.ready):
            return self.streams.next_dispatch()

    def save_due(self, dispatch: Dispatch) -> bool:
        """Whether the clock asks for a temporary checkpoint."""
        return any(m.since_last_save > self.temporary_every for m in dispatch.members)

    def observe(self, dispatch: Dispatch, metrics: Fetched, save_now: bool) -> None:
        """Fetch the metrics of the dispatch before, and of this one where it is saved or
        evaluated.
        """
        members = dispatch.members
        with self.clock.phase("steps"), self.clock.phase(WAIT):
            for member in members:
                fetch = functools.partial(metrics, member.slot)
                member.observe(fetch, now=member.at_planned_step or save_now)
        for member in members:
            member.throughput.charge((time.perf_counter() - self.began) / len(members))

    def save_and_close(self, dispatch: Dispatch, state: dict, save_now: bool) -> None:
        """Evaluate and save what is due, then close the runs that have finished."""
        for member in dispatch.members:
            if member.divergence:
                continue
            # one file a second for the whole pack
            member.record.heartbeat(member.step, every=min(len(dispatch.members), 20.0))
            if self.progress:
                self.progress(member.spec, member.step, member.last_loss)
            if member.at_planned_step or save_now:
                with self.clock.phase("checkpoint"):
                    own = self.pack.take(state, member.slot)
                self._evaluate_and_save(member, own, save_now)
        for member in dispatch.members:  # after all saves have begun: they are written together
            if member.finished:
                self._close(member)

    def _evaluate_and_save(self, member: Member, state: dict, save_now: bool) -> None:
        if member.evaluates_here:
            with self.clock.phase("eval"):
                member.evaluate(state["params"])
        if not member.divergence and (member.saves_here or save_now):
            member.add_timing(high_water(member.throughput.devices))
            with self.clock.phase("checkpoint"):
                member.save(state)

    def _close(self, member: Member) -> None:
        with self.clock.phase("checkpoint"):
            member.close()

    def close_the_rest(self) -> None:
        """End the trace, and the runs whose checkpoints had every step while their status did not
        say so.
        """
        self.trace.stop()
        for member in self.runs:
            if not member.outcome:
                self._close(member)
