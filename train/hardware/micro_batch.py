"""How a device takes its share of a batch: sequences at a time, and what the backward pass computes
again.

Chosen to fit its memory.
"""

from typing import Any

from jax.sharding import Mesh

from stepladder.configs.core.spec import RunSpec
from stepladder.model import execution
from stepladder.train.hardware import defaults, memory_model
from stepladder.train.hardware import machine as machines
from stepladder.train.hardware.machine import Machine


def batches(
    spec: RunSpec, machine: Machine, mesh: Mesh, forward: dict, members: int = 1
) -> dict[str, Any]:
    """{chunk, remat} of `loss_and_gradient` on `mesh`: sequences a device handles at a time (0: all
    it has) and a key of layers.REMAT.

    What the machine does not fix is chosen: on a CPU what fits its cache; on an accelerator the
    least recomputation with which the `wanted` sequences fit, and the largest micro-batch with
    that. members: of a pack, that a device trains at once.
    """
    local = spec.batch_size // (mesh.shape["data"] * mesh.shape["fsdp"])
    chosen = defaults.of(machine)
    remats = chosen.remat if machine.remat == "auto" else (machine.remat,)
    if machine.accumulation:
        chunk = local // machine.accumulation
    elif not chosen.micro_tokens:
        chunk = execution.chunk(spec.model, local, spec.data.seq_len, machines.platform(machine))
    else:
        chunk = None
    enough = chunk or (local if chunk == 0 else wanted(spec, machine, local))
    cut, most = (
        (mesh.shape["fsdp"], mesh.shape["tensor"]),
        memory_model.FILL * machines.memory(machine) / members,
    )

    def fits(rows, remat):
        return memory_model.step(spec, rows, remat, forward, *cut) <= most

    remat = next((remat for remat in remats if fits(enough, remat)), remats[-1])
    if chunk is None:
        chunk = max(
            (k for k in range(1, local + 1) if local % k == 0 and fits(k, remat)), default=1
        )
    return {"chunk": chunk, "remat": remat}


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
