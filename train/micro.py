"""How a device takes its share of a batch: sequences at a time, and what the backward pass computes again. Chosen to fit its memory."""

from typing import Any

from jax.sharding import Mesh

from stepladder.configs.spec import RunSpec
from stepladder.model import layers, layout
from stepladder.train import machine as machines
from stepladder.train import memory
from stepladder.train.machine import Machine


def batches(spec: RunSpec, machine: Machine, mesh: Mesh, forward: dict, members: int = 1) -> dict[str, Any]:
    """{chunk, remat} of `loss_and_gradient` on `mesh`: sequences a device handles at a time (0: all it has) and a key of layers.REMAT.

    What the machine does not fix is chosen: on a CPU what fits its cache; on an accelerator the least recomputation with which the `wanted`
    sequences fit, and the largest micro-batch with that. members: of a pack, that a device trains at once.
    """
    local, platform = spec.batch_size // (mesh.shape["data"] * mesh.shape["fsdp"]), machines.platform(machine)
    defaults = layout.DEFAULTS[platform]
    known = tuple(layers.REMAT) if defaults.micro_tokens else (defaults.remat,)
    remats = known if machine.remat == "auto" else (machine.remat,)
    fitting = {remat: _fitting(spec, machine, mesh, remat, forward) // members for remat in remats}
    if machine.accumulation:
        chunk = local // machine.accumulation
    elif not defaults.micro_tokens:
        chunk = layout.chunk(spec.model, local, spec.data.seq_len, platform)
    else:
        chunk = None
    enough = chunk or (local if chunk == 0 else wanted(spec, platform, local))
    remat = next((remat for remat in remats if fitting[remat] >= enough), remats[-1])
    if chunk is None:
        chunk = max((k for k in range(1, local + 1) if local % k == 0 and k <= fitting[remat]), default=1)
    return {"chunk": chunk, "remat": remat}


def wanted(spec: RunSpec, platform: str, local: int) -> int:
    """Sequences a device should handle at a time, at least, of the `local` ones it has: a divisor of them with `Layout.micro_tokens`."""
    tokens = layout.DEFAULTS[platform].micro_tokens
    return next(k for k in range(1, local + 1) if local % k == 0 and (k * spec.data.seq_len >= tokens > 0 or k == local))


def _fitting(spec: RunSpec, machine: Machine, mesh: Mesh, remat: str, forward: dict) -> int:
    """Sequences that fit the memory of a device beside the state."""
    fsdp, tensor = mesh.shape["fsdp"], mesh.shape["tensor"]
    free = memory.FILL * machines.memory(machine) - memory.state(spec, fsdp * tensor) - memory.gathered(spec, fsdp, tensor)
    return int(free / memory.activations(spec, remat, scores=forward["attention"] == "xla", tensor=tensor))
