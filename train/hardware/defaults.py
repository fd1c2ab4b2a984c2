"""What the config leaves open, by kind of device: when a state is cut, how a batch is taken, what
is computed again.

One table.

`machine.mesh`, `machine.accumulation` and `machine.remat` override it (train/hardware/mesh.py,
train/hardware/micro_batch.py).

micro_tokens: for ZeRO-3 a device sends 8 bytes a parameter and micro-batch over its links, of which
half are busy at a time, and computes 6 FLOPs a parameter and token at 80 % of its peak
(train/hardware/chips.py, train/checks/roofline.py). Computing takes as long from 8 / (links / 2) *
0.8 peak / 6
tokens on: 2 100 on a v5e, 2 000 v4, 1 600 v5p, 4 900 v6e, 8 200 v7x, 4 700 H100, 2 200 A100; the
table asks for the next power of two from 1.5 times that. None of it has been timed on such devices.
"""

import math
from dataclasses import dataclass

import jax

from stepladder.train.hardware import machine as machines
from stepladder.train.hardware.machine import Machine


@dataclass(frozen=True)
class Defaults:
    """replicated: share of a device's memory that the state may take; above it the state is cut
    along as few sides of the wiring as do.
    """

    # a device handles at a time, at least, before more is computed again; 0: what fits its cache
    # (model/execution.py)
    micro_tokens: int
    replicated: float = 0.25
    tensor: int = (
        8  # devices that share a layer unasked, where a batch cannot be cut further; at most
    )
    remat: tuple[str, ...] = ("none", "dots", "full")  # keys of layers.REMAT, the first that fits


DEFAULTS = {
    "cpu": Defaults(micro_tokens=0, replicated=math.inf, tensor=1, remat=("none",)),
    "TPU": Defaults(micro_tokens=4096),
    "TPU v4": Defaults(micro_tokens=4096),
    "TPU v5 lite": Defaults(micro_tokens=4096),
    "TPU v5": Defaults(micro_tokens=4096),
    "TPU v6 lite": Defaults(micro_tokens=8192),
    "TPU7x": Defaults(micro_tokens=16384),
    "NVIDIA": Defaults(micro_tokens=8192),
    "NVIDIA A100": Defaults(micro_tokens=4096),
}


def of(machine: Machine) -> Defaults:
    """The row of the machine's devices: the longest name that is part of their kind."""
    return row(machines.devices(machine)[0])


def row(device: jax.Device) -> Defaults:
    kind = "cpu" if device.platform == "cpu" else device.device_kind
    found = [name for name in DEFAULTS if name in kind]
    return DEFAULTS[max(found, key=len, default="NVIDIA")]
