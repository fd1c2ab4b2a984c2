"""What every executable of a ladder costs on a machine, by compiling it; nothing runs.

`plan --topology` prints it: memory, FLOPs, collectives, kernels and an estimate of time. One of the
numbers decides: a program whose memory does not fit makes `plan` return 1.
"""

import dataclasses
import hashlib
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from stepladder.configs.core import counting
from stepladder.configs.core.spec import RunSpec, canonical
from stepladder.model.parallel.device import slice_of
from stepladder.train.checks import collective_bytes, flops, hbm_bytes, hlo, roofline
from stepladder.train.checks.measured import Measured, measured
from stepladder.train.checks.memory import compiled, fixes, local_batch
from stepladder.train.checks.roofline import Roofline
from stepladder.train.hardware import chips, topology
from stepladder.train.hardware.machine import Machine, devices_of, layers_of, platform_of
from stepladder.train.ladder.packing import Pack, pack_ladder
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
    runs: int  # of the ladder that use it
    members: int  # runs that it trains at once
    mesh: dict[str, int]
    bytes: float  # memory needed at the peak
    memory: float  # memory that there is
    seconds: float  # to compile it
    micro_batch: int  # sequences of a run that a device takes at a time
    local_batch: int  # sequences of a run that a device takes in a step
    remat: str
    counted: float  # FLOPs that the mathematics asks for (configs/core/counting.py)
    executed: float  # FLOPs that the program executes (checks/flops.py)
    collectives: list[dict] = field(default_factory=list)  # kind, network, count and bytes a step
    kernels: dict[str, int] = field(default_factory=dict)  # attention kernels: calls a step
    unordered: dict[str, int] = field(default_factory=dict)  # sums without an order: times a step
    attention: str = "xla"  # the implementation that the program was built with
    peak: float = 0.0  # FLOP/s of all devices
    measured: Measured | None = None  # None: nobody has measured it on these devices
    roofline: Roofline | None = None  # None where no data sheet is known, or it does not fit
    fixes: tuple[str, ...] = ()  # settings that need less memory, when it does not fit
    formula: float = 0.0  # bytes that the collectives should send (checks/collective_bytes.py)
    fingerprint: str = ""
    idle: int = 0  # devices of the machine that take no part
    # The largest micro-batch that fits, when it was searched for; 0: none does.
    largest: int | None = None

    @property
    def fits(self) -> bool:
        return self.bytes <= self.memory

    @property
    def devices(self) -> int:
        return math.prod(self.mesh.values())

    @property
    def tokens(self) -> int:
        """Tokens of a step, of all members."""
        return self.members * self.spec.tokens_per_step

    def to_json(self) -> dict:
        """The fields as plain types, with the run's names in place of its spec, and speeds."""
        body = {k: v for k, v in dataclasses.asdict(self).items() if k != "spec"}
        spec = {
            "run_id": self.spec.run_id,
            "size": self.spec.model.size,
            "batch": self.spec.batch_size,
            "seq_len": self.spec.data.seq_len,
        }
        speed: dict[str, Any] = {}
        if self.roofline:
            for name in ("overlapped", "in_turn"):
                seconds = getattr(self.roofline, name)
                speed[name] = {
                    "seconds": seconds,
                    "tokens_per_second": self.tokens / seconds,
                    "mfu": self.counted / seconds / self.peak,
                }
            speed["bound"] = self.roofline.bound
        return {**spec, **body, "devices": self.devices, "fits": self.fits, "estimate": speed}


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


def compile_all(
    specs: Sequence[RunSpec],
    machine: Machine,
    largest: bool = False,
    only: Collection[RunSpec] | None = None,
    warn: Callable[[str], None] = _to_stderr,
) -> Iterator[Compiled]:
    """Compile every executable of a ladder, in the order in which its packs run.

    Args:
        largest: search the largest micro-batch that fits, by compiling more.
        only: when given, skip executables that train none of these runs.
        warn: is called with each warning of the packing.
    """
    packing = pack_ladder(specs, machine)
    for warning in packing.warnings:
        warn(warning)
    sharing: dict[tuple[str, int, int], list[Pack]] = {}  # packs of one executable
    for pack in packing.packs:
        if only is None or any(spec in only for spec in pack.specs):
            key = pack.specs[0].program_key, pack.members, pack.streams
            sharing.setdefault(key, []).append(pack)
    for (_, members, streams), packs in sharing.items():
        runs = sum(len(pack.specs) for pack in packs)
        with topology.compiling(machine.topology):
            result = _compile(packs[0].specs[0], machine, members, streams, runs)
            if largest:
                found = largest_micro_batch(result, machine, streams)
                result = dataclasses.replace(result, largest=found)
        yield result


def fingerprints(specs: Sequence[RunSpec], machine: Machine) -> set[str]:
    """The fingerprint of every executable of a ladder; nothing compiles."""
    packs = {
        (pack.specs[0].program_key, pack.members, pack.streams): pack.specs[0]
        for pack in pack_ladder(specs, machine).packs
    }
    return {
        fingerprint(unshared_executable(spec, machine, members, streams))
        for (_, members, streams), spec in packs.items()
    }


def fingerprint(pack: Executable) -> str:
    """A hash of what decides an executable: program, slice, members, mesh, execution.

    The code of the model and the version of the compiler are not in it. Tables of compiled programs
    are compared by it, so the names of FINGERPRINTED stay.
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


def unshared_executable(spec: RunSpec, machine: Machine, members: int, streams: int) -> Executable:
    """An executable that nothing keeps: a plan compiles each one once and lets it go."""
    return executable(Program(spec, machine), members, streams)


def _compile(spec: RunSpec, machine: Machine, members: int, streams: int, runs: int) -> Compiled:
    return compile_one(unshared_executable(spec, machine, members, streams), machine, runs)


def compile_one(pack: Executable, machine: Machine, runs: int) -> Compiled:
    """Compile an executable that trains `runs` runs of a ladder; what it costs."""
    began = time.perf_counter()
    found, used, memory = compiled(pack, machine)
    seconds = time.perf_counter() - began
    spec, members, mesh = pack.program.spec, pack.members, pack.mesh
    local, counts = local_batch(pack), counting.count(spec.model, spec.data.seq_len)
    on_device = max(1, members // mesh.shape["run"])
    should_send = collective_bytes.expected(spec, mesh.shape, pack.execution, on_device)
    result = Compiled(
        spec=spec,
        runs=runs,
        members=members,
        mesh=dict(mesh.shape),
        bytes=used,
        memory=memory,
        seconds=seconds,
        micro_batch=pack.execution.micro_batch or local,
        local_batch=local,
        remat=pack.execution.remat,
        counted=members * spec.tokens_per_step * counts.flops_per_token_train,
        executed=flops.executed(pack.jaxpr),
        attention=pack.execution.attention,
        fingerprint=fingerprint(pack),
        idle=len(devices_of(machine)) - mesh.size,
        formula=sum(should_send.values()),
        fixes=tuple(fixes(pack, used / memory)) if used > memory else (),
    )
    return _read(result, found, list(mesh.devices.flat), machine) if found else result


def _read(result: Compiled, executable, used: list, machine: Machine) -> Compiled:
    """Add what the text of the compiled program says: collectives, kernels, a roofline."""
    module = hlo.parse(executable.as_text())
    moved = hlo.collectives(module)
    sums: dict[tuple[str, str], Counter] = {}
    for c in moved:
        by_kind = sums.setdefault((c.kind, c.network), Counter())
        by_kind.update({"count": c.times, "bytes": c.bytes * c.times})
    collectives = [
        {"kind": kind, "network": network, **found}
        for (kind, network), found in sorted(sums.items())
    ]
    kernels = hlo.kernels(module).items()
    on_gpu = platform_of(machine) == "gpu"  # others add one after another
    result = dataclasses.replace(
        result,
        collectives=collectives,
        kernels={name: times for name, times in kernels if hlo.ATTENTION.search(name)},
        unordered=dict(hlo.scatters_that_combine(module)) if on_gpu else {},
    )
    chip = chips.device_sheet(devices_of(machine))
    if not chip:
        return result
    hosts = len({(slice_of(d), d.process_index) for d in used})
    line = roofline.estimate(
        chip,
        result.executed / len(used),
        hbm_bytes.bytes_accessed(module),
        moved,
        per_host=-(-len(used) // hosts),
    )
    kind, layers = used[0].device_kind, layers_of(machine, result.spec)
    alone = measured(kind, result.spec, result.members, layers) if len(used) == 1 else None
    return dataclasses.replace(result, peak=chip.flops * len(used), roofline=line, measured=alone)


def largest_micro_batch(found: Compiled, machine: Machine, streams: int) -> int:
    """The largest micro-batch that fits (sequences that a device takes at a time); 0: none does.

    By bisection over the divisors of the sequences that a device has, compiling each.
    """
    sizes = [n for n in range(1, found.local_batch + 1) if found.local_batch % n == 0]
    low, high = -1, len(sizes)  # sizes[low] fits, sizes[high] does not
    if found.fits:
        low = sizes.index(found.micro_batch)
    else:
        high = sizes.index(found.micro_batch)
    # That the whole batch fits is the common case: it is tried first.
    middle = high - 1 if high == len(sizes) else (low + high) // 2
    while high - low > 1:
        trial = dataclasses.replace(machine, accumulation=found.local_batch // sizes[middle])
        pack = unshared_executable(found.spec, trial, found.members, streams)
        _, used, memory = compiled(pack, trial)
        low, high = (middle, high) if used <= memory else (low, middle)
        middle = (low + high) // 2
    return sizes[low] if low >= 0 else 0


def row(found: Compiled) -> str:
    """The text of one executable: a headline, and indented lines with the rest."""
    spec, share = found.spec, found.bytes / found.memory
    said = f"{share:.0%} of {found.memory / 2**30:.1f} GiB"
    if not found.fits:
        said += ": DOES NOT FIT"
    name = f"{spec.model.size}, batch {spec.batch_size} x {spec.data.seq_len}"
    lines = [
        f"{name:28} {found.runs:5} runs, {found.members:4} at once on {found.devices:4} devices: "
        f"{found.bytes / 2**20:9,.1f} MiB a device, {said} (compiled in {found.seconds:.0f} s)",
        _mesh(found),
        _idle(found),
        (
            f"FLOPs a step: {found.counted:.3g} counted, {found.executed:.3g} executed "
            f"({found.executed / found.counted:.2f}x)"
        ),
        _collectives(found),
        _attention(found),
        _unordered(found),
        _time(found),
        _measured(found),
        f"use {' or '.join(found.fixes[:2])}" if found.fixes and not found.largest else "",
    ]
    return "\n    ".join(line for line in lines if line)


def _mesh(found: Compiled) -> str:
    axes = [f"{axis} {size}" for axis, size in found.mesh.items() if size > 1]
    said = (
        f"mesh {' x '.join(axes) or 'one device'}; micro-batch {found.micro_batch} of "
        f"{found.local_batch} sequences a device, remat {found.remat}, "
        f"{found.spec.model.compute_dtype}"
    )
    if found.largest is None:
        return said
    if found.largest == 0:
        return f"{said}; no micro-batch fits"
    times = found.local_batch // found.largest
    return f"{said}; the largest that fits: {found.largest} (machine.accumulation={times})"


def _idle(found: Compiled) -> str:
    if not found.idle:
        return ""
    every, batch = found.devices + found.idle, found.spec.batch_size
    said = f"{found.idle} of {every} devices have nothing to do"
    if found.members > 1:
        return said
    fitting = -(-batch // every) * every
    return f"{said}: run.batch_size={batch} does not divide among them; e.g. {fitting} does"


def _collectives(found: Compiled) -> str:
    if not found.collectives:
        return ""
    said = []
    for c in found.collectives:
        where = " between slices" if c["network"] == "dcn" else ""
        said.append(f"{c['count']} {c['kind']}{where} {c['bytes'] / 2**20:,.1f} MiB")
    line = f"collectives a step and device: {', '.join(said)}"
    if not found.formula:
        return line
    share = sum(c["bytes"] for c in found.collectives) / found.formula
    return f"{line} ({share:.2f} of the formula's, train/checks/collective_bytes.py)"


def _attention(found: Compiled) -> str:
    if found.kernels:
        return "attention kernels a step: " + ", ".join(
            f"{name} x {times}" for name, times in found.kernels.items()
        )
    asked = found.roofline and found.attention != "xla"
    return f"attention: {found.attention} asked for, NO KERNEL in the program" if asked else ""


def _unordered(found: Compiled) -> str:
    if not found.unordered:
        return ""
    names = ", ".join(found.unordered)
    return f"NOT BIT FOR BIT: adds with atomics ({names})"


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


def _measured(found: Compiled) -> str:
    if not found.roofline:
        return ""
    was = found.measured
    if not was:
        return "this step was not measured on such a device"
    speed = was.tokens_per_second
    ratio = found.tokens / speed / found.roofline.in_turn
    held = "" if was.peak_gib is None else f", {was.peak_gib:.2f} GiB held"
    return (
        f"measured {was.date} (jax {was.jax}, {was.commit}): {speed:,.0f} tokens/s, {ratio:.2f} "
        f"times the estimate in turn{held}"
    )


def _seconds(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.3g} s"
    if seconds >= 1e-3:
        return f"{1e3 * seconds:.3g} ms"
    return f"{1e6 * seconds:.3g} us"
