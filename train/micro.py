"""How a device takes its share of a batch: sequences at a time, and what the backward pass computes again. Chosen to fit its memory."""

from typing import Any

from jax.sharding import Mesh

from stepladder.configs.spec import RunSpec
from stepladder.model import layers, layout
from stepladder.train import machine as machines
from stepladder.train import memory
from stepladder.train.machine import Machine


def batches(spec: RunSpec, machine: Machine, mesh: Mesh, forward: dict) -> dict[str, Any]:
    """{chunk, remat} of `loss_and_gradient` on `mesh`: sequences a device handles at a time (0: all it has) and a key of layers.REMAT.

    What the machine does not fix is chosen: on a CPU what fits its cache; on an accelerator the least recomputation with which a micro-batch
    of `layout.Layout.micro_tokens` fits, and the largest micro-batch with that.
    """
    local = spec.batch_size // (mesh.shape["data"] * mesh.shape["fsdp"])
    defaults = layout.DEFAULTS[machines.platform(machine)]
    remats = [machine.remat] if machine.remat != "auto" else list(layers.REMAT) if defaults.micro_tokens else [defaults.remat]
    if machine.accumulation or not defaults.micro_tokens:
        chunk = (
            local // machine.accumulation
            if machine.accumulation
            else layout.chunk(spec.model, local, spec.data.seq_len, machines.platform(machine))
        )
        fits = [remat for remat in remats if _fitting(spec, machine, mesh, remat, forward) >= (chunk or local)]
        return {"chunk": chunk, "remat": (fits or remats[-1:])[0] if len(remats) > 1 else remats[0]}
    wanted = min(local, -(-defaults.micro_tokens // spec.data.seq_len))
    best = {}
    for remat in remats:
        fitting = _fitting(spec, machine, mesh, remat, forward)
        best = {"chunk": max([k for k in range(1, local + 1) if local % k == 0 and k <= fitting], default=1), "remat": remat}
        if best["chunk"] >= wanted:
            break
    return best


def _fitting(spec: RunSpec, machine: Machine, mesh: Mesh, remat: str, forward: dict) -> int:
    """Sequences that fit the memory of a device beside the state."""
    fsdp, tensor = mesh.shape["fsdp"], mesh.shape["tensor"]
    free = memory.FILL * machines.memory(machine) - memory.state(spec, fsdp * tensor) - memory.gathered(spec, fsdp, tensor)
    scores = forward["attention"] == "xla"
    return int(free / memory.activations(spec, remat, scores=scores, tensor=tensor))
