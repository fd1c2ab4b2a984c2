"""How a device takes its share of a batch: sequences at a time, and what is computed again.

Both are chosen so that a training step fits the device's memory.
"""

import dataclasses

from stepladder.configs.core.spec import RunSpec
from stepladder.model.execution import Execution, micro_batch_within
from stepladder.train.hardware import memory_model
from stepladder.train.hardware.machine import Machine, defaults_of, memory_of


def fitting(spec: RunSpec, machine: Machine, forward: Execution, members: int = 1) -> Execution:
    """`forward` with the micro-batch and remat of a training step on its mesh.

    What the machine does not fix is chosen. On a CPU the micro-batch fits the cache. On an
    accelerator, first the least recomputation with which the `wanted` sequences fit the memory,
    then the largest micro-batch that fits with it.

    Args:
        forward: how the forward pass runs, and its mesh.
        members: runs of a pack that a device trains at once.
    """
    mesh = forward.mesh
    assert mesh is not None, "a training step has a mesh"
    local = spec.batch_size // (mesh.shape["data"] * mesh.shape["fsdp"])
    row = defaults_of(machine)
    remats = row.remat if machine.remat == "auto" else (machine.remat,)
    if machine.accumulation:
        rows = local // machine.accumulation
    elif not row.micro_tokens:
        rows = micro_batch_within(spec.model, local, spec.data.seq_len, row.micro_batch_floats)
    else:
        rows = None
    enough = rows or (local if rows == 0 else wanted(spec, machine, local))
    fsdp, tensor = mesh.shape["fsdp"], mesh.shape["tensor"]
    kept = row.kept(forward.layers, fsdp)
    most = memory_model.FILL * memory_of(machine) / members

    def fits(rows: int, remat: str) -> bool:
        return memory_model.step(spec, rows, remat, forward, kept, fsdp, tensor) <= most

    remat = next((remat for remat in remats if fits(enough, remat)), remats[-1])
    if rows is None:
        sizes = (k for k in range(1, local + 1) if local % k == 0 and fits(k, remat))
        rows = max(sizes, default=1)
    return dataclasses.replace(forward, micro_batch=rows, remat=remat)


def wanted(spec: RunSpec, machine: Machine, local: int) -> int:
    """Sequences that a device should take at a time, at least, of the `local` ones it has.

    The smallest divisor of `local` that holds `micro_tokens` of the device's defaults.
    """
    tokens = defaults_of(machine).micro_tokens
    for k in range(1, local):
        if local % k == 0 and k * spec.data.seq_len >= tokens > 0:
            return k
    return local
