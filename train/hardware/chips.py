"""What the devices at hand can do: their data sheet, peak FLOP/s and the memory they have held."""

import functools
import math
import resource
import sys
import time
from collections.abc import Iterable
from dataclasses import replace

import jax
import jax.numpy as jnp

from stepladder.model.parallel.device import JaxDevice, place_in_slice, platform_name, slice_of
from stepladder.train.hardware.defaults import Chip, row_of


def device_sheet(devices: Iterable[JaxDevice]) -> Chip | None:
    """The data sheet of ONE of `devices`, which are alike; None where none is known.

    `devices` stand for whole chips: where jax shows a chip as two (a v4 without megacore, a v7x),
    each has half of it.
    """
    devices = tuple(devices)
    whole = row_of(devices[0]).chip
    if whole is None or platform_name(devices[0]) != "tpu":
        return whole
    chips = {(slice_of(d), *place_in_slice(d)[:-1]) for d in devices}  # without the core
    share = len(chips) / len(devices)
    return replace(
        whole,
        flops=whole.flops * share,
        memory=whole.memory * share,
        bandwidth=whole.bandwidth * share,
        links=whole.links * share,
    )


def peak_flops(devices: Iterable[JaxDevice]) -> float:
    """Peak FLOP/s of `devices` together, for MFU; 0 where no data sheet is known.

    CPU devices share their host; its peak is what a float32 GEMM reaches when this is called first.
    """
    devices = tuple(devices)
    if platform_name(devices[0]) == "cpu":
        return gemm_rate() * len({d.process_index for d in devices})
    found = device_sheet(devices)
    return found.flops * len(devices) if found else 0.0


def high_water(devices: Iterable[JaxDevice]) -> int:
    """Peak memory in bytes: of the fullest of this process's `devices`; on CPU, of the process."""
    stats = [d.memory_stats() for d in devices if d.process_index == jax.process_index()]
    known = [
        found["peak_bytes_in_use"] for found in stats if found and "peak_bytes_in_use" in found
    ]
    if known and len(known) == len(stats):
        return max(known)
    unit = 1 if sys.platform == "darwin" else 1024  # bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


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
