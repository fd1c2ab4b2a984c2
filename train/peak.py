"""Peak rates of devices, for model FLOPs utilisation."""

import functools
import time

import jax
import jax.numpy as jnp

# Dense bfloat16 FLOP/s of one device, from the vendors' data sheets, by a part of jax's device_kind (longest match first).
PEAK_BF16 = {
    "TPU v4": 275e12, "TPU v5 lite": 197e12, "TPU v5e": 197e12, "TPU v5p": 459e12, "TPU v5": 459e12, "TPU v6 lite": 918e12, "TPU v6e": 918e12,
    "H200": 989e12, "H100": 989e12, "A100": 312e12, "L4": 121e12, "V100": 125e12,
}  # fmt: skip


@functools.cache
def peak_flops(device_kind: str, platform: str) -> float:
    """Peak FLOP/s of all local devices of a kind together; on CPU what a float32 GEMM reaches on this machine now. 0 when unknown."""
    if platform == "cpu":
        return gemm_rate()
    for kind in sorted(PEAK_BF16, key=len, reverse=True):
        if kind in device_kind:
            return PEAK_BF16[kind] * jax.local_device_count()
    return 0.0


def gemm_rate(size: int = 1024, repeats: int = 5) -> float:
    """FLOP/s of the best of a few square float32 matrix products (all cores)."""
    a = jnp.ones((size, size), jnp.float32)
    product = jax.jit(lambda x: x @ x)
    product(a).block_until_ready()
    best = float("inf")
    for _ in range(repeats):
        begin = time.perf_counter()
        product(a).block_until_ready()
        best = min(best, time.perf_counter() - begin)
    return 2 * size**3 / best
