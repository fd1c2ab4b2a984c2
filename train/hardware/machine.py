"""How to execute on this machine: devices, their memory, compilation cache.

No part of a run's identity.
"""

import contextlib
import functools
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

import jax
from ml_collections import ConfigDict

from stepladder.configs.core import cache
from stepladder.configs.core.errors import UserError, nearest
from stepladder.configs.core.spec import RunSpec
from stepladder.model import execution, layer
from stepladder.model.attention.attend import IMPLEMENTATIONS
from stepladder.train.hardware import topology
from stepladder.train.processes import group

PACK_MODE = {"cpu": "map", "gpu": "vmap", "tpu": "vmap"}  # measured on CPU (BENCHMARKS.md)


@dataclass(frozen=True)
class Machine:
    """The `machine` section of a config.

    topology: a TPU slice to compile for that is not here; `plan` alone sets it.
    """

    store: str = ""
    devices: int = 0
    mesh: str = "auto"
    layers: str = "auto"
    attention: str = "auto"
    remat: str = "auto"
    accumulation: int = 0
    temporary_every: float = 300.0
    compilation_cache: str = "auto"
    tensorboard: bool = True
    pack: str = "auto"
    pack_mode: str = "auto"
    memory_gb: float = 0.0
    profile: str = ""
    topology: str = ""

    @classmethod
    def from_config(cls, config: ConfigDict) -> "Machine":
        machine = cls(**config.machine.to_dict())
        known_of = {"layers": layer.RUNNERS, "attention": IMPLEMENTATIONS, "remat": layer.REMAT}
        for field, known in ((field, ("auto", *names)) for field, names in known_of.items()):
            if getattr(machine, field) not in known:
                raise UserError(
                    f"machine.{field}={getattr(machine, field)!r}: unknown; "
                    f"{nearest(getattr(machine, field), known)}"
                )
        if machine.pack_mode not in ("auto", "map", "vmap"):
            raise UserError(
                f"machine.pack_mode={machine.pack_mode!r}: unknown; "
                f"{nearest(machine.pack_mode, ('auto', 'map', 'vmap'))}"
            )
        if machine.pack not in ("auto", "off") and not (
            machine.pack.isdigit() and int(machine.pack) > 0
        ):
            raise UserError(
                f"machine.pack={machine.pack!r}: not a number of runs; use auto, off or a number "
                "of at least 1"
            )
        profile_window(machine.profile)
        if machine.accumulation < 0:
            raise UserError(
                f"machine.accumulation={machine.accumulation}: negative; use 0 (automatic) or a "
                "number of micro-batches"
            )
        return machine


def profile_window(text: str) -> tuple[float, float]:
    """(first, last) dispatch of "START:COUNT": COUNT of them after START others.

    Empty is never. Raises UserError.
    """
    found = re.fullmatch(r"(\d+):(\d+)", text)
    if text and not (found and int(found[2])):
        raise UserError(
            f"machine.profile={text!r}: no window of dispatches; use START:COUNT, e.g. 20:5 for "
            "five after the first twenty"
        )
    return (int(found[1]) + 1, int(found[1]) + int(found[2])) if found else (math.inf, math.inf)


def start(machine: Machine) -> None:
    """Set up jax for this process, before its first use: CPU devices (one a core) and the
    persistent compilation cache.
    """
    # jax refuses once its backend is up: then the process keeps the devices it has
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", machine.devices or os.cpu_count() or 1)
    if machine.compilation_cache != "off":
        folder = (
            cache.folder()
            if machine.compilation_cache == "auto"
            else Path(machine.compilation_cache)
        )
        for name, value in cache.settings(folder).items():
            jax.config.update(name, value)


def devices(machine: Machine) -> list[jax.Device]:
    """Those that take part: the first `machine.devices` of every process."""
    found = topology.devices(machine.topology) if machine.topology else jax.devices()
    hosted: dict[int, list] = {}
    for device in found:
        hosted.setdefault(0 if machine.topology else device.process_index, []).append(device)
    return [device for own in hosted.values() for device in own[: machine.devices or None]]


def platform(machine: Machine) -> str:
    """cpu | gpu | tpu."""
    name = devices(machine)[0].platform
    return "gpu" if name in ("cuda", "rocm") else name


def attention(machine: Machine, spec: RunSpec, mapped: bool = False) -> str:
    """The implementation that trains `spec` here; `mapped`: under vmap.

    Raises UserError when the one the machine wants cannot.
    """
    try:
        return execution.attention_for(
            spec.model, spec.data.seq_len, platform(machine), machine.attention, mapped=mapped
        )
    except ValueError as error:
        raise UserError(f"machine.attention={machine.attention!r}: {error}; use auto") from error


def pack_mode(machine: Machine) -> str:
    """map | vmap: how a pack executes here (train/step/packed_program.py)."""
    return machine.pack_mode if machine.pack_mode != "auto" else PACK_MODE[platform(machine)]


def memory(machine: Machine) -> float:
    """Bytes of memory a device may use; CPU devices share the host's."""
    if machine.memory_gb:
        return machine.memory_gb * 1e9
    if machine.topology:
        return topology.memory(machine.topology)
    return _memory_here()


@functools.cache
def _memory_here() -> float:
    """As process 0 finds it: what fits is planned alike on all."""

    def look() -> float:
        stats = jax.local_devices()[0].memory_stats()
        return (
            float(stats["bytes_limit"])
            if stats
            else float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
        )

    return group.broadcast_from_zero(look)
