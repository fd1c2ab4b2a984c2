"""The devices of a TPU slice that is not here, to compile for them on a machine without a TPU.

Needs libtpu (`pip install stepladder[tpu-plan]`).
"""

import functools
import importlib.util
import os
from pathlib import Path

from stepladder.configs.core.errors import UserError
from stepladder.model.parallel.device import JaxDevice
from stepladder.train.hardware.gpu_target import KNOWN

EXAMPLES = "v5e:16x16, v4:2x2x2, v5p:2x2x4, v6e:4x4 or tpu7x:2x2x1, of several v5e:16x16*2"
# libtpu takes every machine for a TPU host: without these settings it asks the cloud's metadata
# server, warns about what it does not find there, and locks other processes out.
_NO_HOST = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
_DEVICE_FILES = ("accel*", "vfio/[0-9]*")


def hush(dev: Path = Path("/dev")) -> None:
    """Tell libtpu, before jax loads it, that this machine is no TPU host.

    On a TPU host nothing changes. dev: the folder of device files.
    """
    if not any(found for pattern in _DEVICE_FILES for found in dev.glob(pattern)):
        for variable, value in _NO_HOST.items():
            os.environ.setdefault(variable, value)


@functools.cache
def devices(name: str) -> tuple[JaxDevice, ...]:
    """The devices of a slice like "v5e:16x16", or of several slices like "v5e:16x16*2".

    Devices of several slices have a `slice_index`. Raises UserError for a name that libtpu does not
    know, or without libtpu.
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
            f"topology={name!r}: {str(error).splitlines()[0]}; use a slice like {EXAMPLES}, or "
            f"{KNOWN}"
        ) from error
