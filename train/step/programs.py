"""The compiled programs that one owner shares between its runs."""

from collections import Counter

from stepladder.configs.core.spec import RunSpec
from stepladder.train.hardware.machine import Machine
from stepladder.train.step.executable import Executable, SingleRun
from stepladder.train.step.once import Once
from stepladder.train.step.packed_program import Packed
from stepladder.train.step.program import Program


class Programs:
    """Programs by what decides them, made when first asked for. Whoever runs a ladder owns one, and
    lets all that it compiled go with it. Several threads may ask.

    compiled: (executable, program key) -> how often it was compiled.
    """

    def __init__(self):
        self.compiled: Counter = Counter()
        self._programs, self._packed = Once(), Once()

    def program(self, spec: RunSpec, machine: Machine) -> Program:
        """The program of a spec, one for all specs with an equal program key."""
        key = spec.program_key, machine
        return self._programs(key, lambda: Program(spec, machine, self.compiled))

    def packed(self, spec: RunSpec, machine: Machine, members: int, streams: int) -> Executable:
        """What trains `members` runs of the program of `spec`, one for all packs of that size."""
        key = spec.program_key, machine, members, streams
        program = self.program(spec, machine)
        return self._packed(key, lambda: executable(program, members, streams))


def executable(program: Program, members: int, streams: int) -> Executable:
    """What trains `members` runs of a program with `streams` data streams; 1 is the run's own."""
    return SingleRun(program) if members == 1 else Packed(program, members, streams)
