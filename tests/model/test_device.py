"""What a device is, by its platform: a CUDA device has `coords` as a TPU has, and is none."""

from dataclasses import dataclass

import pytest

from stepladder.model.parallel.collectives import Parallel
from stepladder.model.parallel.device import by_wiring, place_in_slice, platform_name, slice_of
from stepladder.train.hardware import chips
from stepladder.train.hardware.mesh import Sizes, make_mesh


@dataclass(frozen=True)
class Cuda:
    """A GPU as jax 0.10.2 (compile-only) and 0.11.2 (real) show it: no `core_on_chip`."""

    id: int
    process_index: int = 0
    platform: str = "gpu"
    device_kind: str = "NVIDIA H100 80GB HBM3"
    coords: tuple[int, ...] = (0, 0, 0)


@dataclass(frozen=True)
class Tpu:
    id: int
    coords: tuple[int, ...]
    core_on_chip: int = 0
    slice_index: int = 0
    process_index: int = 0
    platform: str = "tpu"
    device_kind: str = "TPU v5 lite"


@pytest.mark.parametrize("platform", ["gpu", "cuda", "rocm"])
def test_a_gpu_with_coords_is_no_tpu(platform):
    cards = [Cuda(i, process_index=i // 4, platform=platform) for i in range(8)]
    assert {platform_name(card) for card in cards} == {"gpu"}
    assert {place_in_slice(card) for card in cards} == {()}
    mesh = make_mesh(Sizes(fsdp=4, tensor=2), cards)
    assert list(mesh.devices.flat) == cards, "in the order of their numbers"
    assert Parallel.on(mesh).rings == (), "no torus"
    assert chips.device_sheet(cards).flops == 989e12


def test_tpus_lie_in_a_mesh_as_they_are_wired():
    places = [(x, y, 0) for y in range(4) for x in range(2)]  # jax numbers them column by column
    devices = [Tpu(8 * s + i, at, slice_index=s) for s in (1, 0) for i, at in enumerate(places)]
    mesh = make_mesh(Sizes(data=2, fsdp=8), devices)
    found = [(slice_of(d), place_in_slice(d)) for d in mesh.devices.flat]
    assert found == [(s, (x, y, 0, 0)) for s in (0, 1) for x in range(2) for y in range(4)]
    assert Parallel.on(mesh).rings == (2, 4)
    assert by_wiring(devices[:3]) == [devices[0], devices[2], devices[1]]


def test_a_device_without_a_slice_is_in_the_first():
    assert slice_of(Cuda(0)) == 0
