"""How to execute on this machine: devices, their memory, compilation cache.

Nothing here is part of a run's identity.
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
from stepladder.configs.core.sizes import COMPUTE_DTYPES
from stepladder.configs.core.spec import RunSpec
from stepladder.model import execution, layer
from stepladder.model.attention.attend import IMPLEMENTATIONS
from stepladder.model.parallel.device import JaxDevice, platform_name
from stepladder.train.hardware import cards, defaults, topology
from stepladder.train.hardware.defaults import DeviceKind
from stepladder.train.processes import group


@dataclass(frozen=True)
class Machine:
    """The `machine` section of a config (configs/base.py explains each setting)."""

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
    topology: str = ""  # TPU slice or GPU node to compile for that is not here; only `plan` sets it

    @classmethod
    def from_config(cls, config: ConfigDict) -> "Machine":
        """Raises UserError for a value that is no setting."""
        machine = cls(**config.machine.to_dict())
        _check_names(machine)
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


def _check_names(machine: Machine) -> None:
    known_of = {
        "layers": layer.RUNNERS,
        "attention": IMPLEMENTATIONS,
        "remat": layer.REMAT,
        "pack_mode": ("map", "vmap"),
    }
    for field, names in known_of.items():
        value, known = getattr(machine, field), ("auto", *names)
        if value not in known:
            raise UserError(f"machine.{field}={value!r}: unknown; {nearest(value, known)}")


def profile_window(text: str) -> tuple[float, float]:
    """(first, last) dispatch to profile, of a text "START:COUNT": COUNT of them after START others.

    An empty text asks for none: (inf, inf). Raises UserError for any other text.
    """
    found = re.fullmatch(r"(\d+):(\d+)", text)
    if text and not (found and int(found[2])):
        raise UserError(
            f"machine.profile={text!r}: no window of dispatches; use START:COUNT, e.g. 20:5 for "
            "five after the first twenty"
        )
    return (int(found[1]) + 1, int(found[1]) + int(found[2])) if found else (math.inf, math.inf)


def start_jax(machine: Machine) -> None:
    """Set up jax for this process: CPU devices (one a core), the share of a card's memory, and the
    persistent compilation cache.

    To be called before jax is first used: later the process keeps the devices that it has. Raises
    UserError where a card is here that jax cannot use.
    """
    cards.claim(machine.memory_gb)
    with contextlib.suppress(RuntimeError):  # jax refuses once its backend is up
        jax.config.update("jax_num_cpu_devices", machine.devices or os.cpu_count() or 1)
    cards.check_reached()
    if machine.compilation_cache == "off":
        return
    given = machine.compilation_cache
    folder = cache.folder() if given == "auto" else Path(given)
    for name, value in cache.settings(folder).items():
        jax.config.update(name, value)


def devices_of(machine: Machine) -> list[JaxDevice]:
    """The devices that take part: the first `machine.devices` of every process."""
    found = topology.devices(machine.topology) if machine.topology else jax.devices()
    hosted: dict[int, list[JaxDevice]] = {}
    for device in found:
        process = 0 if machine.topology else device.process_index
        hosted.setdefault(process, []).append(device)
    return [device for own in hosted.values() for device in own[: machine.devices or None]]


def platform_of(machine: Machine) -> str:
    """cpu | gpu | tpu."""
    return platform_name(devices_of(machine)[0])


def defaults_of(machine: Machine) -> DeviceKind:
    """What the kind of the machine's devices wants, where the config leaves it open."""
    return defaults.row_of(devices_of(machine)[0])


def layers_of(machine: Machine, spec: RunSpec) -> str:
    """Key of model.layer.RUNNERS: how the layers of a run's model run here."""
    if machine.layers != "auto":
        return machine.layers
    return "unroll" if spec.model.n_layers <= defaults_of(machine).unrolled else "scan"


def attention_of(machine: Machine, spec: RunSpec, mapped: bool = False) -> str:
    """Key of the attention implementation that trains `spec` here; `mapped`: under vmap.

    Raises UserError when `machine.attention` names one that cannot.
    """
    row, platform, wanted = defaults_of(machine), platform_of(machine), machine.attention
    asked = platform == "gpu" and not machine.topology and "cudnn" in (row.attention, wanted)
    missing = cards.without_cudnn() if asked else ""
    if missing and wanted == "cudnn":
        raise UserError(f"machine.attention='cudnn': {missing}; use auto or xla")
    try:
        return execution.attention_for(
            spec.model,
            spec.data.seq_len,
            platform,
            wanted,
            kernel="xla" if missing else row.attention,
            kernel_from=row.kernel_from,
            mapped=mapped,
        )
    except ValueError as error:
        raise UserError(f"machine.attention={wanted!r}: {error}; use auto") from error


def check_arithmetic(machine: Machine, spec: RunSpec) -> None:
    """Raise UserError where the devices do not compute as `model.compute_dtype` says."""
    device = devices_of(machine)[0]
    known = defaults.row_of(device).arithmetics
    if spec.model.compute_dtype not in known:
        raise UserError(
            f"model.compute_dtype={spec.model.compute_dtype!r}: a {device.device_kind} does not "
            f"multiply matrices so; use {' or '.join(n for n in known if n in COMPUTE_DTYPES)}"
        )


def pack_mode_of(machine: Machine) -> str:
    """map | vmap: how runs that train together execute here (train/step/packed_steps.py)."""
    if machine.pack_mode != "auto":
        return machine.pack_mode
    return defaults_of(machine).pack_mode


def memory_of(machine: Machine) -> float:
    """Bytes of memory that a device may use; CPU devices share the host's."""
    if machine.memory_gb:
        return machine.memory_gb * 1e9
    if machine.topology:
        return topology.memory(machine.topology)
    return _memory_here()


@functools.cache
def _memory_here() -> float:
    """As process 0 finds it, so that all processes plan alike."""

    def look() -> float:
        stats = jax.local_devices()[0].memory_stats()
        if stats:
            return float(stats["bytes_limit"])
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))

    return group.broadcast_from_zero(look)
