"""Devices that are not here, to compile for them: TPU slices by libtpu, GPU nodes by XLA's CUDA
compiler.

A topology is a name like "v5e:16x16" (tpu_slice.py) or "h100:8" (gpu_target.py).
"""

import contextlib
from collections.abc import Iterator

from stepladder.configs.core.errors import UserError
from stepladder.model.parallel.device import JaxDevice
from stepladder.train.hardware import gpu_target, tpu_slice

HERE = "here"  # the devices of this machine, as `plan --topology` calls them


def devices(name: str) -> tuple[JaxDevice, ...]:
    """The devices of a topology.

    Raises UserError for a name that is not known, or without the compiler that it needs.
    """
    return gpu_target.devices(name) if gpu_target.card_of(name) else tpu_slice.devices(name)


def hush() -> None:
    """Tell libtpu and the plugin for CUDA, before jax loads them, that there is no TPU or GPU here
    where there is none; they would complain, or wait for one.
    """
    tpu_slice.hush()
    gpu_target.hush()


@contextlib.contextmanager
def compiling(name: str) -> Iterator[None]:
    """Compile inside this context for a topology; "" are the devices of this machine."""
    with contextlib.ExitStack() as stack:
        if name:
            stack.enter_context(uncached())
        if card := gpu_target.card_of(name):
            stack.enter_context(gpu_target.attention_of(card))
        yield


def compiler_options(name: str) -> dict[str, str | bool] | None:
    """The options of XLA with which a topology's programs compile here; None for its defaults."""
    return gpu_target.OPTIONS if gpu_target.card_of(name) else None


@contextlib.contextmanager
def uncached() -> Iterator[None]:
    """Keep jax's persistent cache from storing what is compiled inside this context.

    jax can write an executable for a slice that is not here, but cannot read it back.
    """
    import jax

    setting = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, setting)
    jax.config.update(setting, 1e9)
    try:
        yield
    finally:
        jax.config.update(setting, before)


def memory(name: str) -> float:
    """Bytes of memory of one device of the topology."""
    from stepladder.train.hardware.chips import device_sheet

    found = devices(name)
    known = device_sheet(found)
    if known is None:
        raise UserError(
            f"topology={name!r}: the memory of a {found[0].device_kind} is unknown; add it to "
            "train/hardware/defaults.py"
        )
    return known.memory
