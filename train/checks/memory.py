"""Whether a program fits a device's memory, and what would make it fit.

What a program needs is read from XLA's buffer assignment (`memory_analysis()`), or from the
compiler's refusal. Decided by it: a run starts, or is refused before its first step (`check`,
`check_evaluation`, called by loop/run.py); `plan --topology` returns 0 or 1, and `--largest` finds
the largest micro-batch (ladder/executables.py).
"""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from stepladder.configs.core.errors import UserError
from stepladder.configs.core.spec import RunSpec
from stepladder.train.hardware.machine import Machine, devices_of, memory_of, platform_of
from stepladder.train.hardware.mesh import mesh_of_run
from stepladder.train.processes.foreign_errors import memory_exceeded
from stepladder.train.step.executable import Executable


def compiled(pack: Executable, machine: Machine) -> tuple[Any | None, float, float]:
    """(executable, bytes that a device needs, bytes that it has) of a pack's training step.

    The executable is None where the compiler itself refuses what does not fit.
    """
    return _measured(pack.compile, machine)


def _measured(compile: Callable, machine: Machine) -> tuple[Any | None, float, float]:
    try:
        executable = compile()
    except jax.errors.JaxRuntimeError as error:
        exceeded = memory_exceeded(error)
        if not exceeded:
            raise
        return None, *exceeded
    stats = executable.memory_analysis()
    used = (
        stats.argument_size_in_bytes
        + stats.output_size_in_bytes
        + stats.temp_size_in_bytes
        - stats.alias_size_in_bytes
    )
    memory = memory_of(machine)
    if platform_of(machine) == "cpu" and not machine.memory_gb:  # of the host, shared by all
        memory /= len(devices_of(machine))
    return executable, float(used), memory


def check(pack: Executable, machine: Machine) -> None:
    """Compile the training step of a pack.

    Raises UserError, before the first step, when it does not fit its devices; never on CPU.
    """
    if platform_of(machine) == "cpu":
        pack.compile()
        return
    _, used, memory = compiled(pack, machine)
    if used > memory:
        raise UserError(refusal(pack, used, memory))


def check_evaluation(compile: Callable, spec: RunSpec, machine: Machine) -> None:
    """Compile an evaluation.

    Raises UserError when it does not fit a device; never on CPU.
    """
    if platform_of(machine) == "cpu":
        compile()
        return
    _, used, memory = _measured(compile, machine)
    if used > memory:
        raise UserError(
            f"model.size={spec.model.size!r}: evaluation needs {used / 2**30:.2f} GiB of a "
            f"device's {memory / 2**30:.2f} GiB; use a larger machine.accumulation (it evaluates a "
            "micro-batch at a time) or machine.mesh=fsdp=N (the parameters cut into more pieces)"
        )


def refusal(pack: Executable, used: float, memory: float) -> str:
    """The message for a step that does not fit: one line with both sizes and two ways out."""
    spec = pack.program.spec
    return (
        f"model.size={spec.model.size!r}: a step with batch {spec.batch_size} x "
        f"{spec.data.seq_len} needs {used / 2**30:.2f} GiB of a device's {memory / 2**30:.2f} GiB; "
        f"use {' or '.join(fixes(pack, used / memory)[:2])}"
    )


def fixes(pack: Executable, over: float) -> list[str]:
    """Settings that lower the memory of a step, the cheapest first; two at least.

    over: what the step needs, divided by what there is.
    """
    found = []
    if pack.members > 1:
        smaller = pack.members // 2 if pack.members > 3 else "off"
        found.append(f"machine.pack={smaller} (it trains {pack.members} runs at once)")
    now = local_batch(pack) // (pack.execution.micro_batch or local_batch(pack))
    more = [times for times in _accumulations(pack) if times > now]
    enough = [times for times in more if times >= now * over]  # if all of it were activations
    if more:
        found.append(_accumulate(pack, enough[0] if enough else more[-1]))
    if pack.execution.remat != "full":
        found.append("machine.remat=full (activations are computed again)")
    return [
        *found,
        *_larger_fsdp(pack),
        "more devices (a larger slice)",
        "a smaller run.batch_size or model.size",
    ]


def _larger_fsdp(pack: Executable) -> list[str]:
    """The next larger axis `fsdp` that this run can have: the state is cut into more pieces."""
    program, shape = pack.program, pack.mesh.shape
    tensor = f",tensor={shape['tensor']}" if shape["tensor"] > 1 else ""
    for size in range(shape["fsdp"] + 1, shape["data"] * shape["fsdp"] + 1):
        wanted = f"fsdp={size}{tensor}"
        with contextlib.suppress(UserError):
            mesh_of_run(dataclasses.replace(program.machine, mesh=wanted), program.spec)
            return [f"machine.mesh={wanted} (the state cut into more pieces)"]
    return []


def _accumulate(pack: Executable, times: int) -> str:
    return (
        f"machine.accumulation={times} (micro-batches of {pack.program.spec.batch_size // times} "
        "sequences)"
    )


def _accumulations(pack: Executable) -> list[int]:
    """Values of machine.accumulation that keep the mesh: divisors of the local batch."""
    local = local_batch(pack)
    return [a for a in range(1, local + 1) if local % a == 0]


def local_batch(pack: Executable) -> int:
    """Sequences of a run's batch that a device takes in a step."""
    return pack.program.spec.batch_size // (pack.mesh.shape["data"] * pack.mesh.shape["fsdp"])
