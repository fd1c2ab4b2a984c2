"""Whether a training step fits a device's memory: what it needs, by XLA's buffer assignment, and
what would make it fit.
"""

import contextlib
import dataclasses
from collections.abc import Callable

import jax

from stepladder.configs.core.errors import UserError
from stepladder.configs.core.spec import RunSpec
from stepladder.train.hardware import machine as machines
from stepladder.train.hardware import mesh as meshes
from stepladder.train.hardware.machine import Machine
from stepladder.train.processes.foreign_errors import memory_exceeded
from stepladder.train.step.executable import Executable


def compiled(pack: Executable, machine: Machine) -> tuple[object | None, float, float]:
    """(executable, bytes a device needs, bytes it has); no executable where the compiler itself
    refuses what does not fit.
    """
    return _measured(pack.compile, machine)


def _measured(compile: Callable, machine: Machine) -> tuple[object | None, float, float]:
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
    memory = machines.memory(machine)
    shared = (
        len(machines.devices(machine))
        if machines.platform(machine) == "cpu" and not machine.memory_gb
        else 1
    )
    return executable, float(used), memory / shared


def check(pack: Executable, machine: Machine) -> None:
    """Compile `pack`; raise UserError, before the first step, when it does not fit its devices.

    On CPU nothing is refused.
    """
    if machines.platform(machine) == "cpu":
        pack.compile()
        return
    _, used, memory = compiled(pack, machine)
    if used > memory:
        raise UserError(refusal(pack, used, memory))


def check_evaluation(compile: Callable, spec: RunSpec, machine: Machine) -> None:
    """Compile an evaluation; raise UserError when it does not fit a device.

    On CPU nothing is refused.
    """
    if machines.platform(machine) == "cpu":
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
    """One line: the number and two ways out."""
    spec = pack.program.spec
    return (
        f"model.size={spec.model.size!r}: a step with batch {spec.batch_size} x "
        f"{spec.data.seq_len} needs {used / 2**30:.2f} GiB of a device's {memory / 2**30:.2f} GiB; "
        f"use {' or '.join(fixes(pack, used / memory)[:2])}"
    )


def fixes(pack: Executable, over: float) -> list[str]:
    """What would lower the memory of a step that needs `over` times what there is, the cheapest
    first; two at least.
    """
    now = local_batch(pack) // (pack.execution.micro_batch or local_batch(pack))
    found = []
    if pack.members > 1:
        fewer = pack.members // 2 if pack.members > 3 else "off"
        found.append(f"machine.pack={fewer} (it trains {pack.members} runs at once)")
    more = [a for a in accumulations(pack) if a > now]
    enough = [a for a in more if a >= now * over]  # where activations take most of it
    found += [accumulate(pack, enough[0] if enough else more[-1])] if more else []
    if pack.execution.remat != "full":
        found.append("machine.remat=full (activations are computed again)")
    found += _sharded(pack)
    return [*found, "more devices (a larger slice)", "a smaller run.batch_size or model.size"]


def _sharded(pack: Executable) -> list[str]:
    """The next larger fsdp axis that this run can have, which cuts the state into more pieces."""
    program, shape = pack.program, pack.mesh.shape
    tensor = f",tensor={shape['tensor']}" if shape["tensor"] > 1 else ""
    for size in range(shape["fsdp"] + 1, shape["data"] * shape["fsdp"] + 1):
        wanted = f"fsdp={size}{tensor}"
        with contextlib.suppress(UserError):
            meshes.alone(dataclasses.replace(program.machine, mesh=wanted), program.spec)
            return [f"machine.mesh={wanted} (the state cut into more pieces)"]
    return []


def accumulate(pack: Executable, times: int) -> str:
    return (
        f"machine.accumulation={times} (micro-batches of {pack.program.spec.batch_size // times} "
        "sequences)"
    )


def accumulations(pack: Executable) -> list[int]:
    """Values of machine.accumulation that keep the mesh: the divisors of the sequences a device
    holds.
    """
    local = local_batch(pack)
    return [a for a in range(1, local + 1) if local % a == 0]


def local_batch(pack: Executable) -> int:
    """Sequences of a batch that a device holds; those of one run, in a pack."""
    return pack.program.spec.batch_size // (pack.mesh.shape["data"] * pack.mesh.shape["fsdp"])
