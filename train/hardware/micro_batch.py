"""How a device takes its share of a batch: sequences at a time, and what the backward pass computes
again.

Chosen to fit its memory.
"""

import dataclasses

from stepladder.configs.core.spec import RunSpec
from stepladder.model import execution
from stepladder.model.execution import Execution
from stepladder.train.hardware import defaults, memory_model
from stepladder.train.hardware import machine as machines
from stepladder.train.hardware.machine import Machine


def fitting(spec: RunSpec, machine: Machine, forward: Execution, members: int = 1) -> Execution:
    """`forward`, which says the mesh, with the micro_batch and remat of a training step.

    What the machine does not fix is chosen: on a CPU what fits its cache; on an accelerator the
    least recomputation with which the `wanted` sequences fit, and the largest micro-batch with
    that. members: of a pack, that a device trains at once.
    """
    mesh = forward.mesh
    local = spec.batch_size // (mesh.shape["data"] * mesh.shape["fsdp"])
    chosen = defaults.of(machine)
    remats = chosen.remat if machine.remat == "auto" else (machine.remat,)
    if machine.accumulation:
        rows = local // machine.accumulation
    elif not chosen.micro_tokens:
        rows = execution.micro_batch(
            spec.model, local, spec.data.seq_len, machines.platform(machine)
        )
    else:
        rows = None
    enough = rows or (local if rows == 0 else wanted(spec, machine, local))
    cut, most = (
        (mesh.shape["fsdp"], mesh.shape["tensor"]),
        memory_model.FILL * machines.memory(machine) / members,
    )

    def fits(rows: int, remat: str) -> bool:
        return memory_model.step(spec, rows, remat, forward, *cut) <= most

    remat = next((remat for remat in remats if fits(enough, remat)), remats[-1])
    if rows is None:
        rows = max((k for k in range(1, local + 1) if local % k == 0 and fits(k, remat)), default=1)
    return dataclasses.replace(forward, micro_batch=rows, remat=remat)


def wanted(spec: RunSpec, machine: Machine, local: int) -> int:
    """Sequences a device should handle at a time, at least, of the `local` ones it has: a divisor
    of them with `Defaults.micro_tokens`.
    """
    tokens = defaults.of(machine).micro_tokens
    return next(
        k
        for k in range(1, local + 1)
        if local % k == 0 and (k * spec.data.seq_len >= tokens > 0 or k == local)
    )
