"""A TPU slice that is not here: its devices, to compile for on a machine without a TPU (libtpu,
`pip install stepladder[tpu-plan]`).
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from stepladder.configs.core.errors import UserError

if TYPE_CHECKING:
    import jax

HERE = "here"  # the devices of this machine, as `plan --topology` calls them
EXAMPLES = "v5e:16x16, v4:2x2x2, v5p:2x2x4, v6e:4x4 or tpu7x:2x2x1, of several v5e:16x16*2"
# libtpu takes any machine for a TPU host: it would ask the cloud's metadata server, warn about what
# it does not find, and lock other processes out.
_NO_HOST = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
_CHIPS = ("accel*", "vfio/[0-9]*")


def hush(dev: Path = Path("/dev")) -> None:
    """Tell libtpu, before jax loads it, that this machine is no TPU host; where it is one, nothing
    changes.
    """
    if not any(found for pattern in _CHIPS for found in dev.glob(pattern)):
        for variable, value in _NO_HOST.items():
            os.environ.setdefault(variable, value)


@functools.cache
def devices(name: str) -> tuple[jax.Device, ...]:
    """The devices of a slice like "v5e:16x16", or of several: "v5e:16x16*2", whose devices have a
    `slice_index`.

    Raises UserError for a name libtpu does not know, or without libtpu.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            f"topology={name!r}: compiling for a TPU needs libtpu; pip install "
            "'stepladder[tpu-plan]'"
        )
    import jax
    from jax.experimental import topologies

    one, times, count = name.partition("*")
    if times and not (count.isdigit() and int(count) > 0):
        raise UserError(
            f"topology={name!r}: {count!r} is no number of slices; use a slice like {EXAMPLES}"
        )
    several = {"num_slices": int(count)} if times and int(count) > 1 else {}
    hush()
    try:
        return tuple(topologies.get_topology_desc(one, "tpu", **several).devices)
    except jax.errors.JaxRuntimeError as error:
        raise UserError(
            f"topology={name!r}: {str(error).splitlines()[0]}; use a slice like {EXAMPLES}"
        ) from error


@contextlib.contextmanager
def uncached() -> Iterator[None]:
    """Keep what is compiled out of jax's persistent cache: it writes executables for a slice that
    is not here, and cannot read them.
    """
    import jax

    before = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1e9)
    try:
        yield
    finally:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", before)


def memory(name: str) -> float:
    """Bytes of memory of one device of the slice."""
    from stepladder.train.hardware.chips import device

    found = devices(name)
    known = device(found)
    if known is None:
        raise UserError(
            f"topology={name!r}: the memory of a {found[0].device_kind} is unknown; add it to "
            "train/hardware/chips.py"
        )
    return known.memory
