"""The two speeds that bound every step on a device: of its memory, and of its matrix products."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from stepladder.model.arithmetic import ARITHMETICS
from stepladder.model.parallel.device import platform_name

ROUNDS = 3
# Platform -> (bytes copied, side of the matrices): well beyond a cache, and a second's work at most
SIZES = {"cpu": (2**26, 1024), "gpu": (2**30, 8192), "tpu": (2**30, 8192)}


@dataclass(frozen=True)
class Ceilings:
    """What one device reaches."""

    copy: float  # bytes a second, read and written, of a copy of a large array
    matmul: dict[str, float]  # arithmetic -> FLOP/s of the product of two large square matrices


def ceilings(arithmetics: tuple[str, ...]) -> Ceilings:
    """Measure them on this process's first device, the products in each of the arithmetics (names
    of model/arithmetic.py).
    """
    size, side = SIZES[platform_name(jax.local_devices()[0])]
    return Ceilings(_copy(size), {name: _matmul(name, side) for name in arithmetics})


def fastest(call: Callable[[], jax.Array]) -> float:
    """Seconds of the fastest of a few calls, the first left out."""
    call().block_until_ready()
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        call().block_until_ready()
        times.append(time.perf_counter() - began)
    return min(times)


def _copy(size: int) -> float:
    x = jnp.zeros(size // 4, jnp.float32)
    add = jax.jit(lambda x: x + 1)
    return 2 * size / fastest(lambda: add(x))


def _matmul(name: str, side: int) -> float:
    arithmetic = ARITHMETICS[name]
    x = jnp.ones((side, side), arithmetic.dtype)

    @jax.jit
    def product(x: jax.Array) -> jax.Array:
        with jax.default_matmul_precision(arithmetic.products):
            return x @ x

    return 2 * side**3 / fastest(lambda: product(x))
