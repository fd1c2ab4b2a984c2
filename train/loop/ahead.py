"""What the packs of a ladder will run, compiled in threads in the order of their turn, while the
first of them train.

An executable that is not ready when its pack's turn comes is waited for; what could not be compiled
is compiled again there, where the error is raised.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from stepladder.configs.core.record import CHECKPOINTS, RUNS
from stepladder.configs.core.spec import CorpusSpec, RunSpec
from stepladder.train.data.read.store import Store
from stepladder.train.hardware import autotuning
from stepladder.train.hardware.machine import Machine, defaults_of, platform_of
from stepladder.train.processes import group
from stepladder.train.step.evaluator import chunks, windows_key
from stepladder.train.step.packed_program import Packed
from stepladder.train.step.programs import Programs

Sized = tuple[Sequence[RunSpec], int, int]  # runs that train together, members and streams


@contextlib.contextmanager
def compiling_ahead(
    packs: Sequence[Sized],
    workdir: Path,
    stores: Mapping[CorpusSpec, Store],
    machine: Machine,
    programs: Programs,
) -> Iterator[None]:
    """Compile inside this context what the packs will run, as many at once as the device's row of
    DEVICES says; nothing where there are several processes, whose compilers meet.

    When the context is left, what has not begun to compile is dropped, and what has is waited for.
    """
    threads = defaults_of(machine).compile_ahead if group.count() == 1 else 0
    if not threads:
        yield
        return
    if platform_of(machine) == "gpu":
        autotuning.bring(workdir)
    with ThreadPoolExecutor(threads, thread_name_prefix="compile") as pool:
        for pack in packs:
            for compile in _executables(*pack, workdir, stores, machine, programs):
                pool.submit(compile)
        try:
            yield
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _executables(
    specs: Sequence[RunSpec],
    members: int,
    streams: int,
    workdir: Path,
    stores: Mapping[CorpusSpec, Store],
    machine: Machine,
    programs: Programs,
) -> Iterator[Callable[[], object]]:
    """What compiles each executable that a pack runs: its step, its evaluations, its start."""
    first = specs[0]

    def evaluations() -> None:
        own = programs.program(first, machine)
        of = {(spec.data.corpus, *windows_key(spec)): spec for spec in specs}
        for count in {chunks(spec, stores[spec.data.corpus], own) for spec in of.values()}:
            own.compile_window_losses(count)

    def moves() -> None:
        pack = programs.packed(first, machine, members, streams)
        if isinstance(pack, Packed):
            pack.compile_moves()

    yield lambda: programs.packed(first, machine, members, streams).compile()
    yield evaluations
    yield moves
    if any(_begins(spec, workdir) for spec in specs):
        yield lambda: programs.program(first, machine).compile_init()


def _begins(spec: RunSpec, workdir: Path) -> bool:
    """Whether a run will draw its first state from its seed, as far as one can see from outside."""
    folder = workdir / RUNS / spec.run_id / CHECKPOINTS
    return spec.parent is None and not any(folder.glob("[0-9]*"))
