"""How to execute on this machine: devices, mesh, compilation cache. No part of a run's identity."""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from stepladder.configs import cache
from stepladder.configs.errors import UserError, nearest
from stepladder.model import layers

AXES = ("run", "data", "fsdp", "tensor")


@dataclass(frozen=True)
class Machine:
    """The `machine` section of a config."""

    store: str = ""
    devices: int = 0
    layers: str = "auto"
    remat: str = "none"
    accumulation: int = 0
    temporary_every: float = 300.0
    compilation_cache: str = "auto"
    tensorboard: bool = True

    @classmethod
    def from_config(cls, config: ConfigDict) -> "Machine":
        machine = cls(**config.machine.to_dict())
        for field, known in (("layers", ("auto", *layers.RUNNERS)), ("remat", tuple(layers.REMAT))):
            if getattr(machine, field) not in known:
                raise UserError(f"machine.{field}={getattr(machine, field)!r}: unknown; {nearest(getattr(machine, field), known)}")
        if machine.accumulation < 0:
            raise UserError(f"machine.accumulation={machine.accumulation}: negative; use 0 (automatic) or a number of micro-batches")
        return machine


def start(machine: Machine) -> None:
    """Set up jax for this process, before its first use: CPU devices (one a core) and the persistent compilation cache."""
    with contextlib.suppress(RuntimeError):  # jax refuses once its backend is up: then the process keeps the devices it has
        jax.config.update("jax_num_cpu_devices", machine.devices or os.cpu_count() or 1)
    if machine.compilation_cache != "off":
        folder = cache.folder() if machine.compilation_cache == "auto" else Path(machine.compilation_cache)
        for name, value in cache.settings(folder).items():
            jax.config.update(name, value)


def mesh(machine: Machine, batch_size: int) -> Mesh:
    """A data-parallel mesh over as many of the machine's devices as divide a micro-batch; the batch never depends on the hardware."""
    micro = machine.accumulation or 1
    if batch_size % micro:
        raise UserError(f"machine.accumulation={micro}: does not divide the batch of {batch_size}; use a divisor")
    devices = jax.devices()[: machine.devices or None]
    count = max(k for k in range(1, len(devices) + 1) if batch_size // micro % k == 0)
    return jax.make_mesh((1, count, 1, 1), AXES, devices=devices[:count], axis_types=(AxisType.Auto,) * 4)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def by_batch(mesh: Mesh, batch_axis: int = 0) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec(*(None,) * batch_axis, "data"))
