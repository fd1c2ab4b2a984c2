"""What every executable of a ladder costs on a machine, by compiling it: memory, FLOPs,
collectives, kernels, time.

Nothing runs.
"""

import contextlib
import dataclasses
import hashlib
import math
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from stepladder.configs.core import counting
from stepladder.configs.core.spec import RunSpec, canonical
from stepladder.train.checks import collective_bytes, flops, hbm_bytes, hlo, roofline
from stepladder.train.checks.memory import compiled, fixes, local_batch
from stepladder.train.checks.roofline import Roofline
from stepladder.train.hardware import chips, topology
from stepladder.train.hardware import machine as machines
from stepladder.train.hardware.machine import Machine
from stepladder.train.ladder import packing
from stepladder.train.step.executable import Executable
from stepladder.train.step.program import Program
from stepladder.train.step.programs import executable

# Name in a fingerprint -> field of Execution. benchmarks/tpu_compiled.json holds fingerprints made
# with these names, before the fields had theirs.
FINGERPRINTED = {
    "attention": "attention",
    "chunk": "micro_batch",
    "layers": "layers",
    "loss_floats": "loss_floats",
    "remat": "remat",
}


@dataclass(frozen=True)
class Compiled:
    """The training step of one executable.

    FLOPs are of one step of all its members on all devices; bytes are of one device.
    """

    spec: RunSpec  # one of its runs
    runs: int
    members: int  # trained at once
    mesh: dict[str, int]
    bytes: float  # at the peak, of `memory`
    memory: float
    seconds: float  # the compilation's
    micro_batch: int  # sequences a device (and run) takes at a time
    local_batch: int  # of these
    remat: str
    counted: float  # FLOPs by configs/core/counting.py
    executed: float  # FLOPs by train/checks/flops.py
    collectives: list[dict] = field(default_factory=list)  # kind, network, count and bytes a step
    kernels: dict[str, int] = field(default_factory=dict)  # of attention: calls a step
    attention: str = "xla"  # what the program asks for
    peak: float = 0.0  # FLOP/s of all devices
    roofline: Roofline | None = None  # None where no data sheet is known, or it does not fit
    fixes: tuple[str, ...] = ()  # when it does not fit
    formula: float = 0.0  # bytes that the collectives of train/checks/collective_bytes.py send
    fingerprint: str = ""
    largest: int | None = None  # the largest micro-batch that fits, when asked for; 0: none does

    @property
    def fits(self) -> bool:
        return self.bytes <= self.memory

    @property
    def devices(self) -> int:
        return math.prod(self.mesh.values())

    @property
    def tokens(self) -> int:
        """A step's, of all members."""
        return self.members * self.spec.tokens_per_step

    def to_json(self) -> dict:
        """Plain types: the fields, the run's names in place of its spec, and what follows from
        them.
        """
        body = {k: v for k, v in dataclasses.asdict(self).items() if k != "spec"}
        spec = {
            "run_id": self.spec.run_id,
            "size": self.spec.model.size,
            "batch": self.spec.batch_size,
            "seq_len": self.spec.data.seq_len,
        }
        speed = {}
        if self.roofline:
            for name in ("overlapped", "in_turn"):
                time = getattr(self.roofline, name)
                speed[name] = {
                    "seconds": time,
                    "tokens_per_second": self.tokens / time,
                    "mfu": self.counted / time / self.peak,
                }
            speed["bound"] = self.roofline.bound
        return {**spec, **body, "devices": self.devices, "fits": self.fits, "estimate": speed}


def compile_all(
    specs: Sequence[RunSpec],
    machine: Machine,
    largest: bool = False,
    only: Collection[RunSpec] | None = None,
) -> Iterator[Compiled]:
    """Every executable of the packs of a ladder, in their order; of those with a run in `only`,
    when given.

    largest: search the largest micro-batch that fits, by compiling more.
    """
    groups: dict[tuple, list[packing.Pack]] = {}
    for pack in packing.plan(specs, machine):
        if only is None or any(spec in only for spec in pack.specs):
            groups.setdefault((pack.specs[0].program_key, pack.members, pack.streams), []).append(
                pack
            )
    for (_, members, streams), found in groups.items():
        spec = found[0].specs[0]
        with topology.uncached() if machine.topology else contextlib.nullcontext():
            result = _compile(spec, machine, members, streams, sum(len(p.specs) for p in found))
            if largest:
                result = dataclasses.replace(result, largest=_largest(result, machine, streams))
        yield result


def fingerprint(pack: Executable) -> str:
    """Hash of what decides an executable: program, slice, members, mesh, execution.

    The model's own code and the compiler's version are not in it. Tables of compiled programs are
    compared by it, so the names of `FINGERPRINTED` stay.
    """
    execution = {name: getattr(pack.execution, at) for name, at in FINGERPRINTED.items()}
    program = pack.program
    decided = (
        program.spec.program_key,
        program.machine.topology,
        pack.members,
        pack.streams,
        dict(pack.mesh.shape),
        execution,
    )
    return hashlib.sha256(canonical(decided).encode()).hexdigest()[:12]


def _made(spec: RunSpec, machine: Machine, members: int, streams: int) -> Executable:
    """Kept by nobody: a plan compiles each executable once and lets it go."""
    return executable(Program(spec, machine), members, streams)


def _compile(spec: RunSpec, machine: Machine, members: int, streams: int, runs: int) -> Compiled:
    began = time.perf_counter()
    pack = _made(spec, machine, members, streams)
    found, used, memory = compiled(pack, machine)
    seconds = time.perf_counter() - began
    local, mesh = local_batch(pack), pack.mesh
    counted = (
        members
        * spec.tokens_per_step
        * counting.count(spec.model, spec.data.seq_len).flops_per_token_train
    )
    result = Compiled(
        spec,
        runs,
        members,
        dict(mesh.shape),
        used,
        memory,
        seconds,
        pack.execution.micro_batch or local,
        local,
        pack.execution.remat,
        counted,
        flops.executed(pack.jaxpr),
        attention=pack.execution.attention,
        fingerprint=fingerprint(pack),
        formula=sum(
            collective_bytes.expected(
                spec, mesh.shape, pack.execution, max(1, members // mesh.shape["run"])
            ).values()
        ),
        fixes=tuple(fixes(pack, used / memory)) if used > memory else (),
    )
    return _read(result, found, list(mesh.devices.flat), machine) if found else result


def _read(result: Compiled, executable, used: list, machine: Machine) -> Compiled:
    """What the compiled program's text adds."""
    module = hlo.parse(executable.as_text())
    moved = hlo.collectives(module)
    by_kind: dict[tuple[str, str], Counter] = {}
    for c in moved:
        by_kind.setdefault((c.kind, c.network), Counter()).update(
            {"count": c.times, "bytes": c.bytes * c.times}
        )
    chip, line = chips.device(machines.devices(machine)), None
    if chip:
        hosts = len({(getattr(d, "slice_index", None), d.process_index) for d in used})
        line = roofline.estimate(
            chip,
            result.executed / len(used),
            hbm_bytes.bytes_accessed(module),
            moved,
            -(-len(used) // hosts),
        )
    return dataclasses.replace(
        result,
        collectives=[
            {"kind": kind, "network": network, **sums}
            for (kind, network), sums in sorted(by_kind.items())
        ],
        kernels={
            name: times for name, times in hlo.kernels(module).items() if hlo.ATTENTION.search(name)
        },
        peak=chip.flops * len(used) if chip else 0.0,
        roofline=line,
    )


def _largest(found: Compiled, machine: Machine, streams: int) -> int:
    """The largest micro-batch that fits (sequences a device takes at a time), by bisection over the
    divisors of those it holds; 0: none.
    """
    sizes = [n for n in range(1, found.local_batch + 1) if found.local_batch % n == 0]
    known = {found.micro_batch: found.fits}
    low, high = -1, len(sizes)  # sizes[low] fits, sizes[high] does not
    if found.fits:
        low = sizes.index(found.micro_batch)
    else:
        high = sizes.index(found.micro_batch)
    while high - low > 1:
        # A whole batch that fits is the common case, and needs one trial.
        middle = high - 1 if high == len(sizes) and len(known) == 1 else (low + high) // 2
        trial = dataclasses.replace(machine, accumulation=found.local_batch // sizes[middle])
        _, used, memory = compiled(_made(found.spec, trial, found.members, streams), trial)
        known[sizes[middle]] = used <= memory
        low, high = (middle, high) if known[sizes[middle]] else (low, middle)
    return sizes[low] if low >= 0 else 0


def row(found: Compiled) -> str:
    """A headline (size and batch, runs, members at once, devices, bytes a device) and indented
    lines for the rest.
    """
    spec, share = found.spec, found.bytes / found.memory
    said = f"{share:.0%} of {found.memory / 2**30:.1f} GiB" + (
        "" if found.fits else ": DOES NOT FIT"
    )
    name = f"{spec.model.size}, batch {spec.batch_size} x {spec.data.seq_len}"
    lines = [
        f"{name:28} {found.runs:5} runs, {found.members:4} at once on {found.devices:4} devices: "
        f"{found.bytes / 2**20:9,.1f} MiB a device, {said} (compiled in {found.seconds:.0f} s)",
        _mesh(found),
        (
            f"FLOPs a step: {found.counted:.3g} counted, {found.executed:.3g} executed "
            f"({found.executed / found.counted:.2f}x)"
        ),
        _collectives(found),
        _attention(found),
        _time(found),
        f"use {' or '.join(found.fixes[:2])}" if found.fixes and not found.largest else "",
    ]
    return "\n    ".join(line for line in lines if line)


def _mesh(found: Compiled) -> str:
    axes = (
        " x ".join(f"{axis} {size}" for axis, size in found.mesh.items() if size > 1)
        or "one device"
    )
    best = {None: "", 0: "; no micro-batch fits"}.get(found.largest)
    if best is None:
        best = (
            f"; the largest that fits: {found.largest} "
            f"(machine.accumulation={found.local_batch // found.largest})"
        )
    return (
        f"mesh {axes}; micro-batch {found.micro_batch} of {found.local_batch} sequences a device, "
        f"remat {found.remat}{best}"
    )


def _collectives(found: Compiled) -> str:
    said = [
        (
            f"{c['count']} {c['kind']}{' between slices' if c['network'] == 'dcn' else ''} "
            f"{c['bytes'] / 2**20:,.1f} MiB"
        )
        for c in found.collectives
    ]
    sent = sum(c["bytes"] for c in found.collectives)
    formula = (
        f" ({sent / found.formula:.2f} of the formula's, train/checks/collective_bytes.py)"
        if found.formula
        else ""
    )
    return f"collectives a step and device: {', '.join(said)}{formula}" if said else ""


def _attention(found: Compiled) -> str:
    if found.kernels:
        return "attention kernels a step: " + ", ".join(
            f"{name} x {times}" for name, times in found.kernels.items()
        )
    asked = found.roofline and found.attention != "xla"
    return f"attention: {found.attention} asked for, NO KERNEL in the program" if asked else ""


def _time(found: Compiled) -> str:
    if not found.roofline:
        return ""
    line = found.roofline
    fast, slow = line.overlapped, line.in_turn
    terms = ", ".join(
        f"{name} {_seconds(seconds)}" for name, seconds in line.terms.items() if seconds
    )
    return (
        f"estimated step: {_seconds(fast)} overlapped to {_seconds(slow)} in turn ({terms}); "
        f"{found.tokens / slow:,.0f} to {found.tokens / fast:,.0f} tokens/s, MFU "
        f"{found.counted / slow / found.peak:.0%} to {found.counted / fast / found.peak:.0%}"
    )


def _seconds(seconds: float) -> str:
    return (
        f"{seconds:.3g} s"
        if seconds >= 1
        else f"{1e3 * seconds:.3g} ms"
        if seconds >= 1e-3
        else f"{1e6 * seconds:.3g} us"
    )
