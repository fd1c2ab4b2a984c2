"""A training step, timed as the training loop calls it, and whether it repeats bit for bit."""

import dataclasses
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stepladder.configs.core.errors import UserError
from stepladder.configs.core.spec import RunSpec
from stepladder.train.checks import memory
from stepladder.train.hardware import chips
from stepladder.train.hardware.machine import Machine
from stepladder.train.ladder import executables
from stepladder.train.step.executable import Executable
from stepladder.train.step.program import dispatched
from stepladder.train.step.step import traced_hypers

ROUNDS, REPEATS = 5, 3


@dataclass(frozen=True)
class Step:
    """A row of the table. Times are medians of ROUNDS; memory is of one device."""

    size: str
    runs: int
    batch: int
    seq_len: int
    vocab_size: int
    compute_dtype: str
    layers: str
    attention: str
    micro_batch: int
    remat: str
    compile_seconds: float
    planned_gib: float
    peak_gib: float | None  # None: no more than a step before it held, or the device does not say
    step_seconds: float
    slowest_over_fastest: float  # of the rounds
    tokens_per_second: float  # of all runs together
    mfu: float | None  # None: the peak of the device is not known
    estimate_seconds: float | None  # by train/checks/roofline.py, its terms in turn
    hbm_gib: float | None  # bytes that the compiled step moves through the memory
    unequal: tuple[str, ...]  # arrays of the state that differ when the steps are taken again

    def to_json(self) -> dict:
        """The fields as JSON."""
        return dataclasses.asdict(self)


class Bench:
    """The executable of a step of `runs` runs, with a state and a batch.

    Raises UserError, when made, where the step does not fit the devices.
    """

    def __init__(self, spec: RunSpec, runs: int, machine: Machine):
        self.spec = spec
        self.pack: Executable = executables.unshared_executable(spec, machine, runs, 1)
        self.cost = executables.compile_one(self.pack, machine, runs)
        if self.pack.program.backend != "cpu" and not self.cost.fits:
            raise UserError(memory.refusal(self.pack, self.cost.bytes, self.cost.memory))
        self._hypers = [traced_hypers(spec)] * runs

    def prepare(self) -> None:
        """Bring hypers, a batch and a first state to the devices."""
        S, runs = dispatched(self.spec), len(self._hypers)
        rows, T = len(self.pack.batch_rows), self.spec.data.seq_len + 1
        rng = np.random.default_rng(0)
        tokens = list(rng.integers(0, self.spec.model.vocab_size, (S, rows, T), dtype=np.int32))
        self.batch = self.pack.batch([S] * runs, [0] * runs, [tokens])
        self.hyper = self.pack.hyper(self._hypers)
        self.state = self.first_state()

    def first_state(self) -> dict:
        """The state before the first step: the same at every call."""
        program = self.pack.program
        return self.pack.place([program.init(program.put(hyper)) for hyper in self._hypers])

    def __call__(self, dispatches: int) -> None:
        """Take the steps of so many dispatches, and wait for them."""
        for _ in range(dispatches):
            self.state, metrics = self.pack.step(self.state, self.hyper, *self.batch)
        jax.block_until_ready(metrics)

    def unequal(self) -> tuple[str, ...]:
        """Arrays that differ between REPEATS times the same two dispatches."""
        seen = []
        for _ in range(REPEATS):
            self.state = self.first_state()
            self(2)
            seen.append(jax.device_get(_checksums(self.state)))
        return tuple(name for name in seen[0] if len({int(sums[name]) for sums in seen}) > 1)


def measure(spec: RunSpec, runs: int, machine: Machine, seconds: float) -> Step:
    """Compile, time and repeat a step of `runs` runs like `spec`, on one stream of random tokens.

    Args:
        seconds: that the timed steps take together, about.

    Raises:
        UserError: for an arithmetic or a memory that the machine does not have.
    """
    bench = Bench(spec, runs, machine)
    cost = bench.cost
    devices = list(bench.pack.mesh.devices.flat)
    before = chips.high_water(devices)
    bench.prepare()
    times = rounds(bench, dispatched(spec), seconds)
    after = chips.high_water(devices)
    step = statistics.median(times)
    speed = cost.tokens / step
    peak = chips.peak_flops(devices)
    line, chip = cost.roofline, chips.device_sheet(devices)
    return Step(
        size=spec.model.size,
        runs=runs,
        batch=spec.batch_size,
        seq_len=spec.data.seq_len,
        vocab_size=spec.model.vocab_size,
        compute_dtype=spec.model.compute_dtype,
        layers=bench.pack.execution.layers,
        attention=cost.attention,
        micro_batch=cost.micro_batch,
        remat=cost.remat,
        compile_seconds=round(cost.seconds, 2),
        planned_gib=round(cost.bytes / 2**30, 3),
        peak_gib=round(after / 2**30, 3) if after > before and _tells_memory(devices) else None,
        step_seconds=step,
        slowest_over_fastest=round(max(times) / min(times), 3),
        tokens_per_second=round(speed, 1),
        mfu=round(cost.counted / step / peak, 4) if peak else None,
        estimate_seconds=line.in_turn if line else None,
        hbm_gib=round(line.memory * chip.bandwidth / 2**30, 3) if line and chip else None,
        unequal=bench.unequal(),
    )


def rounds(bench: Callable[[int], None], steps: int, seconds: float) -> list[float]:
    """Seconds a step in each of ROUNDS rounds, of which all together take about `seconds`.

    bench: takes a number of dispatches, each of `steps` steps.
    """
    bench(1)  # brings to the device what the first call brings
    began = time.perf_counter()
    bench(1)
    each = max(1, round(seconds / ROUNDS / (time.perf_counter() - began)))
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        bench(each)
        times.append((time.perf_counter() - began) / each / steps)
    return times


def _tells_memory(devices: list) -> bool:
    return bool(devices[0].memory_stats())


@jax.jit
def _checksums(state: Any) -> dict[str, jax.Array]:
    """A sum of the bits of each array, each number with its place as weight: integers, whose sum
    has no rounding.
    """

    def checksum(x: jax.Array) -> jax.Array:
        bits = jax.lax.bitcast_convert_type(x.reshape(-1), jnp.uint32)
        places = 2 * jnp.arange(bits.size, dtype=jnp.uint32) + 1
        return (bits * places).sum(dtype=jnp.uint32)

    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): checksum(x) for path, x in leaves}
