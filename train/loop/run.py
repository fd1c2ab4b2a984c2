"""A pack of runs, top to bottom: mesh, data, model, state, restore, loop, done.

A run alone is a pack of one.
"""

import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from stepladder.configs.core.record import PROFILE, TERMINAL
from stepladder.configs.core.spec import CorpusSpec, RunSpec
from stepladder.train.checks import memory
from stepladder.train.data.read import batches as batching
from stepladder.train.data.read.store import Store
from stepladder.train.hardware.chips import high_water
from stepladder.train.hardware.machine import Machine
from stepladder.train.loop.member import Member, check_data, timeline
from stepladder.train.loop.profiler_trace import Profile
from stepladder.train.processes import group
from stepladder.train.processes.preemption import Notice, Preempted
from stepladder.train.record.clock import WAIT, Clock
from stepladder.train.record.record import Record
from stepladder.train.step.evaluator import evaluators
from stepladder.train.step.executable import Executable, Fetched
from stepladder.train.step.programs import Programs
from stepladder.train.step.step import traced_hypers

Progress = Callable[[RunSpec, int, float], None]  # (run, step, loss so far)


def run(spec: RunSpec, workdir: Path, store: Store, machine: Machine, **more) -> str:
    """Train `spec` alone to its end, from wherever its record stands; returns the terminal state.

    Arguments and errors: `run_pack`.
    """
    return run_pack([spec], workdir, {spec.data.corpus: store}, machine, **more)[spec.run_id]


def run_pack(
    specs: Sequence[RunSpec],
    workdir: Path,
    stores: dict[CorpusSpec, Store],
    machine: Machine,
    *,
    members: int = 1,
    streams: int = 1,
    notice: Notice | None = None,
    progress: Progress | None = None,
    clock: Clock | None = None,
    programs: Programs | None = None,
) -> dict[str, str]:
    """Train runs of one program together; run id -> terminal state ("done" or "diverged").

    members, streams: the size of the executable (`pack.Pack`), at least the number of runs and of
    their different data streams; 1 is the run's own executable. programs: where compiled programs
    are shared with other packs. Idempotent: finished runs return at once. Raises UserError for what
    a user can mend (before anything compiles where possible) and Preempted after a save when
    `notice` arrives.
    """
    records, notice, clock = (
        {spec: Record(workdir, spec) for spec in specs},
        notice or Notice(),
        clock or Clock(),
    )
    states = group.share(
        lambda: {spec.run_id: record.status["state"] for spec, record in records.items()}
    )
    todo = [spec for spec in specs if states[spec.run_id] not in TERMINAL]
    if not todo:
        return states
    earlier = clock.details()

    # Mesh and data
    for spec in todo:
        check_data(spec, stores[spec.data.corpus])
    programs = programs or Programs()
    own = programs.program(todo[0], machine)
    pack = programs.packed(todo[0], machine, members, streams)
    evaluator = evaluators(own)
    hypers = [traced_hypers(spec) for spec in todo]

    # Model
    runs = [
        Member.open(
            s,
            records[s],
            stores[s.data.corpus],
            own,
            evaluator(s, stores[s.data.corpus]),
            pack.mesh,
        )
        for s in todo
    ]
    with clock.phase("compile"):
        memory.check(pack, machine)
        for member in runs:
            memory.check_evaluation(member.evaluator.compile, member.spec, machine)
        if any(member.starts_fresh for member in runs):
            own.compile_init()

    # State and restore: resume > branch > weights only > scratch
    with clock.phase("restore"):
        state = pack.place(
            [member.start(workdir, own.put(hyper)) for member, hyper in zip(runs, hypers)]
        )
        hyper = pack.hyper(hypers)

    # Loop: a dispatch of steps is on its way before the metrics of the one before are fetched
    read, profile = _Streams(runs, pack), Profile(machine.profile, workdir)
    with clock.phase("data"):
        batch = read()
    with notice.looping():
        stopping, _ = notice.decide(False)
        while batch:
            if stopping:
                for member in runs:
                    if not member.closed:
                        member.checkpoints.close()
                raise Preempted(
                    ", ".join(
                        f"{member.spec.run_id}: stopped at step {member.step}"
                        for member in runs
                        if member.group
                    )
                )
            began, going = time.perf_counter(), read.going
            profile.before(going[0][1].record.path / PROFILE, state)
            with clock.phase("steps"):
                state, metrics = pack.step(state, hyper, *batch)
            fetched = Fetched(pack, metrics)
            profile.after(metrics)
            for _, member in going:
                member.advance()
            reading = time.perf_counter()
            batch = read()
            # When the device was still computing, the batch cost nothing.
            clock.seconds["data" if fetched.ready else "steps"] += time.perf_counter() - reading
            stopping, late = notice.decide(
                any(member.saved_ago > machine.temporary_every for _, member in going)
            )
            late = late or stopping
            with clock.phase("steps"), clock.phase(WAIT):
                for k, member in going:
                    member.observe(functools.partial(fetched, k), now=member.due or late)
            for _, member in going:
                member.rates.charge((time.perf_counter() - began) / len(going))
            for k, member in going:
                if not member.ended:
                    # one file a second for the whole pack
                    member.record.heartbeat(member.step, every=min(len(going), 20.0))
                    if progress:
                        progress(member.spec, member.step, member.last_loss)
                    if member.due or late:
                        with clock.phase("checkpoint"):
                            taken = pack.take(state, k)
                        _evaluate_and_save(member, taken, late, machine, clock, earlier, len(runs))
            for _, member in going:  # after all saves have begun: they are written at the same time
                if member.over:
                    with clock.phase("checkpoint"):
                        states[member.spec.run_id] = member.close(machine)
            if any(member.ended for _, member in going):
                batch = read.again()
    profile.stop()

    # Done
    for member in runs:
        if not member.closed:  # its checkpoints had every step, its status did not say so
            with clock.phase("checkpoint"):
                states[member.spec.run_id] = member.close(machine)
    return states


def _evaluate_and_save(
    member: Member,
    state: dict,
    late: bool,
    machine: Machine,
    clock: Clock,
    earlier: dict,
    members: int,
) -> None:
    if member.step in member.spec.eval_steps:
        with clock.phase("eval"):
            member.evaluate(state["params"])
    if not member.ended and (
        member.step in member.spec.checkpoint_steps or member.step == member.spec.steps or late
    ):
        # The phases are the pack's: a member is charged its share, so that the sum over the runs of
        # a ladder is the wall time.
        phases = {
            phase: (seconds - earlier[phase]) / members
            for phase, seconds in clock.details().items()
        }
        member.add_timing(phases, high_water(member.rates.devices))
        with clock.phase("checkpoint"):
            member.save(state, machine)


class _Streams:
    """The next dispatch's batches: one stream for all members with the same data and the same
    timeline.

    Members of a stream that resume from different checkpoints wait for the last of them: a stream
    is read once.
    """

    def __init__(self, runs: list[Member], pack: Executable):
        self.runs, self.pack = runs, pack
        keys = [timeline(member.spec) for member in runs]
        self.of = [list(dict.fromkeys(keys)).index(key) for key in keys]
        by_stream = [
            [m for m, u in zip(runs, self.of) if u == stream] for stream in range(max(self.of) + 1)
        ]
        starts = [min(member.step for member in members) for members in by_stream]
        self.batches = [
            batching.batches(members[0].source(pack.batch_rows), at, members[0].spec.steps)
            for members, at in zip(by_stream, starts)
        ]
        # (number, member) of those that take part in the next dispatch
        self.going: list[tuple[int, Member]] = []
        self.read: list[list[np.ndarray]] = []

    def __call__(self) -> tuple | None:
        """Arguments of the pack's next step; None when no member goes on."""
        left = [(u, member) for u, member in zip(self.of, self.runs) if member.group]
        first = {
            stream: min((m.step, m.group) for u, m in left if u == stream)
            for stream in {u for u, _ in left}
        }
        self.going = [
            (k, m) for k, m in enumerate(self.runs) if m.group and m.step == first[self.of[k]][0]
        ]
        self.read = [
            [next(batches) for _ in range(first[u][1])] if u in first else []
            for u, batches in enumerate(self.batches)
        ]
        return self.again()

    def again(self) -> tuple | None:
        """The same batches, without the members that ended since they were read."""
        self.going = [(k, member) for k, member in self.going if member.group]
        counts = [0] * len(self.runs)
        for k, member in self.going:
            counts[k] = member.group
        return (
            self.pack.batch(counts, self.of, self.read)
            if self.going or any(m.group for m in self.runs)
            else None
        )
