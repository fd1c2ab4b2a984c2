"""What a jax device is, and how it is wired to the others: asked here alone, from its `platform`.

Other attributes do not tell: CUDA devices have `coords` too, all of them (0, 0, 0), and no
`core_on_chip`.
"""

from collections.abc import Iterable
from typing import Protocol


class JaxDevice(Protocol):
    """What is read of a `jax.Device`, which is no type to a type checker.

    A device of several slices has `slice_index` too.
    """

    platform: str  # "cpu", "tpu", "gpu", or "cuda" and "rocm" for a GPU
    device_kind: str
    process_index: int
    coords: tuple[int, ...]  # of a TPU: where it lies in its slice; of a GPU see `slice_of`
    core_on_chip: int  # of a TPU

    def memory_stats(self) -> dict[str, int] | None: ...


_PLATFORMS = {"cuda": "gpu", "rocm": "gpu"}  # jax's names that are not ours


def platform_name(device: JaxDevice) -> str:
    """cpu | gpu | tpu."""
    return _PLATFORMS.get(device.platform, device.platform)


def slice_of(device: JaxDevice) -> int:
    """The number of the slice that a device belongs to; devices of one slice are wired together.

    Of a GPU node that is not here jax says it in `coords` (slice, host, card) alone.
    """
    index = getattr(device, "slice_index", None) or 0
    return index or (device.coords[0] if platform_name(device) == "gpu" else 0)


def place_in_slice(device: JaxDevice) -> tuple[int, ...]:
    """Where a TPU lies in the wiring of its slice: x, y, z and core; () for other devices, of whose
    wiring jax knows nothing.
    """
    if platform_name(device) != "tpu":
        return ()
    return (*device.coords, device.core_on_chip)


def by_wiring(devices: Iterable[JaxDevice]) -> list[JaxDevice]:
    """The devices slice by slice, row by row in the wiring; others than TPUs in the order given."""
    return sorted(devices, key=lambda device: (slice_of(device), place_in_slice(device)))
