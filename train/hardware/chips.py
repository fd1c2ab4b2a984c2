"""What a device can do, by jax's device_kind: one table of data sheets that the plan, MFU and the
memory check read.
"""

import functools
import math
import re
import resource
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp


@dataclass(frozen=True)
class Chip:
    """One chip (TPU) or card (GPU).

    Where jax shows a chip as several devices, each has its share (`of`).
    """

    flops: float  # dense bfloat16 FLOP/s
    memory: float  # bytes
    bandwidth: float  # bytes a second between memory and chip
    # bytes a second to other chips of the slice or host (ICI, NVLink, PCIe): all links together,
    # one way
    links: float
    # bytes a second to other hosts, one way, of a whole HOST (its network cards together)
    network: float


GIB = 2.0**30
# TPU: docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x}; ICI is half of the two-way figure
# there, network the figure a chip times the 4 chips of a host (v4's page has none: taken as v5p's).
# GPU: data sheets of A100 SXM 80 GB, L4, H100 SXM and H200 SXM at nvidia.com, the dense bfloat16
# figure (half of the one "with sparsity"); NVLink is half of the two-way figure, L4 has PCIe 4 x16;
# network is a DGX's or a g2-standard-96's cards. By a part of device_kind, the longest that
# matches; "TPU v5" alone is how jax calls a v5p.
CHIPS = {
    "TPU v4": Chip(275e12, 32 * GIB, 1200e9, 300e9, 25e9),
    "TPU v5 lite": Chip(197e12, 16 * GIB, 819e9, 200e9, 12.5e9),
    "TPU v5e": Chip(197e12, 16 * GIB, 819e9, 200e9, 12.5e9),
    "TPU v5p": Chip(459e12, 95 * GIB, 2765e9, 600e9, 25e9),
    "TPU v5": Chip(459e12, 95 * GIB, 2765e9, 600e9, 25e9),
    "TPU v6 lite": Chip(918e12, 32 * GIB, 1640e9, 400e9, 50e9),
    "TPU v6e": Chip(918e12, 32 * GIB, 1640e9, 400e9, 50e9),
    "TPU7x": Chip(2307e12, 192 * GIB, 7380e9, 600e9, 50e9),
    "A100": Chip(312e12, 80e9, 2039e9, 300e9, 200e9),
    "A100-SXM4-40GB": Chip(312e12, 40e9, 1555e9, 300e9, 200e9),
    "A100-PCIE-40GB": Chip(312e12, 40e9, 1555e9, 32e9, 12.5e9),
    "A100 80GB PCIe": Chip(312e12, 80e9, 1935e9, 32e9, 12.5e9),
    "H100 PCIe": Chip(756e12, 80e9, 2000e9, 64e9, 50e9),
    "L4": Chip(121e12, 24e9, 300e9, 32e9, 12.5e9),
    "H100": Chip(989e12, 80e9, 3350e9, 450e9, 400e9),
    "H200": Chip(989e12, 141e9, 4800e9, 450e9, 400e9),
}


def chip(kind: str) -> Chip | None:
    """The data sheet of a device_kind; None for one that is not in the table."""
    # an L40S is no L4, a GH200 no H200
    found = [name for name in CHIPS if re.search(rf"\b{name}\b", kind)]
    return CHIPS[max(found, key=len)] if found else None


def device(devices: Iterable[jax.Device]) -> Chip | None:
    """The data sheet of ONE of `devices`, which are alike and stand for whole chips: a v4 without
    megacore, or a v7x, is two a chip.
    """
    devices = tuple(devices)
    whole = chip(devices[0].device_kind)
    if whole is None or devices[0].platform != "tpu":
        return whole
    share = len({(getattr(d, "slice_index", None), *d.coords) for d in devices}) / len(devices)
    parts = {
        name: getattr(whole, name) * share for name in ("flops", "memory", "bandwidth", "links")
    }
    return replace(whole, **parts)


def peak_flops(devices: Iterable[jax.Device]) -> float:
    """Peak FLOP/s of `devices` together, for MFU; 0 for an unknown kind.

    CPU devices share their host: what a float32 GEMM reaches now.
    """
    devices = tuple(devices)
    if devices[0].platform == "cpu":
        return gemm_rate() * len({d.process_index for d in devices})
    found = device(devices)
    return found.flops * len(devices) if found else 0.0


def high_water(devices: Iterable[jax.Device]) -> int:
    """The most bytes that one of this process's `devices` has held so far; on CPU, the most that
    the process had in memory.
    """
    stats = [d.memory_stats() for d in devices if d.process_index == jax.process_index()]
    if stats and all("peak_bytes_in_use" in (found or {}) for found in stats):
        return max(found["peak_bytes_in_use"] for found in stats)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


@functools.cache
def gemm_rate(size: int = 1024, repeats: int = 5) -> float:
    """FLOP/s of the best of a few square float32 matrix products (all cores of this host)."""
    a = jnp.ones((size, size), jnp.float32)
    product = jax.jit(lambda x: x @ x)
    product(a).block_until_ready()
    best = math.inf
    for _ in range(repeats):
        begin = time.perf_counter()
        product(a).block_until_ready()
        best = min(best, time.perf_counter() - begin)
    return 2 * size**3 / best
