"""What every executable of a ladder needs on a machine, by compiling it: bytes a device against its memory. Nothing runs."""

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import jax

from stepladder.configs.spec import RunSpec
from stepladder.train import machine as machines
from stepladder.train import pack as packs
from stepladder.train.machine import Machine
from stepladder.train.packed import packed

# XLA refuses what does not fit in two ways: "Used 20.1G of 15.75G hbm", "requires ... (20.1G) exceeds available HBM (15.75G)".
_NEEDS = re.compile(r"RESOURCE_EXHAUSTED.*?([\d.]+)([KMGT])\b.*?([\d.]+)([KMGT])\b", re.S)
_UNIT = {unit: 2.0 ** (10 * i) for i, unit in enumerate("KMGT", 1)}


@dataclass(frozen=True)
class Compiled:
    """The training step of one executable: `bytes` is the peak of one device, of `memory`; seconds, the compilation's."""

    spec: RunSpec  # one of its runs
    runs: int
    members: int  # trained at once
    devices: int
    bytes: float
    memory: float
    seconds: float

    @property
    def fits(self) -> bool:
        return self.bytes <= self.memory


def compile_all(specs: Sequence[RunSpec], machine: Machine) -> Iterator[Compiled]:
    """Every executable of the ladder's packs, in their order."""
    groups: dict[tuple, list[packs.Pack]] = {}
    for pack in packs.plan(specs, machine):
        groups.setdefault((pack.specs[0].program_key, pack.members, pack.streams), []).append(pack)
    for (_, members, streams), found in groups.items():
        spec, began = found[0].specs[0], time.perf_counter()
        executable = packed(spec, machine, members, streams)
        memory = machines.memory(machine)
        try:
            stats = executable.compile().memory_analysis()
            used = stats.argument_size_in_bytes + stats.output_size_in_bytes + stats.temp_size_in_bytes - stats.alias_size_in_bytes
        except jax.errors.JaxRuntimeError as error:
            needs = _NEEDS.search(str(error))
            if not needs:
                raise
            used, memory = (float(needs[i]) * _UNIT[needs[i + 1]] for i in (1, 3))
        yield Compiled(spec, sum(len(p.specs) for p in found), members, executable.mesh.size, used, memory, time.perf_counter() - began)


def row(found: Compiled) -> str:
    """One line: size and batch, runs, members at once, devices used, bytes a device."""
    spec, share = found.spec, found.bytes / found.memory
    said = f"{share:.0%} of {found.memory / 2**30:.1f} GiB" + ("" if found.fits else ": DOES NOT FIT")
    name = f"{spec.model.size}, batch {spec.batch_size} x {spec.data.seq_len}"
    return (
        f"{name:28} {found.runs:5} runs, {found.members:4} at once on {found.devices:4} devices: "
        f"{found.bytes / 2**20:9,.1f} MiB a device, {said} (compiled in {found.seconds:.0f} s)"
    )
