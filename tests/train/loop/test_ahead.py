"""What is compiled ahead: everything that the packs run, once; nothing of it changes a record; what
fails there is raised where the pack's turn comes.
"""

import dataclasses
import threading
import time

import pytest

from stepladder.configs.core.build import rung
from stepladder.configs.core.errors import UserError
from stepladder.configs.core.load import Loaded
from stepladder.configs.core.record import DONE, RUNS
from stepladder.train.data.read.corpora import stores
from stepladder.train.hardware.machine import Machine, defaults_of
from stepladder.train.ladder import ladder as ladder_module
from stepladder.train.ladder.ladder import run_ladder
from stepladder.train.loop import ahead
from stepladder.train.loop.ahead import compiling_ahead
from stepladder.train.processes import group
from stepladder.train.step.program import Program
from stepladder.train.step.programs import Programs
from tests.support import tiny
from tests.support.records import rows

MACHINE = Machine(devices=2, tensorboard=False)


@pytest.fixture(scope="module")
def two_sizes(tmp_path_factory):
    """A run of each of two programs, their config, and their store."""
    folder = tmp_path_factory.mktemp("ahead")
    config = tiny.config(folder / "text", machine__devices=2)
    specs = [
        rung(tiny.config(folder / "text", name=size, model__size=size, run__duration="12 steps"))
        for size in ("6k", "w16d1h8")
    ]
    return config, specs, stores(specs, folder / "data", show=False)


def with_threads(monkeypatch, threads: int) -> None:
    row = dataclasses.replace(defaults_of(MACHINE), compile_ahead=threads)
    monkeypatch.setattr(ahead, "defaults_of", lambda machine: row)


def names(programs: Programs) -> list[str]:
    return sorted(name.partition(" losses")[0] for name, _ in programs.compiled)


def test_all_that_the_packs_run_is_compiled_once(two_sizes, tmp_path, monkeypatch):
    _, specs, by_corpus = two_sizes
    with_threads(monkeypatch, 3)
    programs = Programs()
    packs = [([spec], 1, 1) for spec in specs]
    with compiling_ahead(packs, tmp_path, by_corpus, MACHINE, programs):
        end = time.monotonic() + 120  # nobody else asks for any of it
        while sum(programs.compiled.values()) < 6 and time.monotonic() < end:
            time.sleep(0.05)
    assert set(programs.compiled.values()) == {1}
    assert names(programs) == ["init", "init", "step", "step", "window", "window"]


def test_a_ladder_is_the_same_and_compiles_nothing_twice(two_sizes, tmp_path, monkeypatch):
    config, specs, _ = two_sizes
    made = []

    class Kept(Programs):
        def __init__(self):
            super().__init__()
            made.append(self)

    monkeypatch.setattr(ladder_module, "Programs", Kept)
    for name, threads in (("plain", 0), ("ahead", 2)):
        with_threads(monkeypatch, threads)
        done = run_ladder(Loaded("x", config, specs), tmp_path / name, quiet=True)
        assert set(done.values()) == {DONE}
    assert made[0].compiled == made[1].compiled and set(made[1].compiled.values()) == {1}
    for spec in specs:
        plain, beside = (tmp_path / name / RUNS / spec.run_id for name in ("plain", "ahead"))
        assert rows(plain) == rows(beside)


def test_what_fails_ahead_is_raised_in_its_turn(two_sizes, tmp_path, monkeypatch):
    """The second program does not compile: the first run is done before that is said."""
    config, specs, _ = two_sizes
    with_threads(monkeypatch, 2)
    compile_step, failed = Program.compile_step, threading.Event()

    def refuse(self):
        if self.spec.model.size == specs[1].model.size:
            failed.set()
            raise UserError("machine.remat='none': does not fit; use full")
        assert failed.wait(60), "the second was not tried ahead"
        return compile_step(self)

    monkeypatch.setattr(Program, "compile_step", refuse)
    with pytest.raises(UserError, match="does not fit"):
        run_ladder(Loaded("x", config, specs), tmp_path, quiet=True)
    assert rows(tmp_path / RUNS / specs[0].run_id)


def test_several_processes_compile_in_their_turn(two_sizes, tmp_path, monkeypatch):
    _, specs, by_corpus = two_sizes
    with_threads(monkeypatch, 2)
    monkeypatch.setattr(group, "count", lambda: 2)
    programs = Programs()
    with compiling_ahead([(specs, 1, 1)], tmp_path, by_corpus, MACHINE, programs):
        pass
    assert not programs.compiled
