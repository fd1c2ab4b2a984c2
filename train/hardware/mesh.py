"""The mesh of a program on a machine: which devices, and how many along each axis.

The axes are those of model/parallel/rules.py. The global batch never depends on the mesh. Devices
that cannot get a part of the batch are left out. With several hosts, each of which must take part,
they repeat the work of others along the axis `run` instead. `plan` prints the mesh.
"""

import dataclasses
import itertools
import math
import operator
import re
from collections.abc import Iterable
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from stepladder.configs.core.errors import UserError
from stepladder.configs.core.spec import RunSpec
from stepladder.model.parallel import rules
from stepladder.model.parallel.device import JaxDevice, by_wiring, place_in_slice, slice_of
from stepladder.train.hardware import memory_model
from stepladder.train.hardware.machine import (
    Machine,
    defaults_of,
    devices_of,
    memory_of,
    pack_mode_of,
)

WIDE = 512  # hidden units that each device keeps, at least, when a layer is shared unasked


@dataclass(frozen=True)
class Sizes:
    """Number of devices along each axis."""

    run: int = 1
    data: int = 1
    fsdp: int = 1
    tensor: int = 1

    @property
    def shape(self) -> tuple[int, ...]:
        return self.run, self.data, self.fsdp, self.tensor

    @property
    def rows(self) -> int:
        """Number of parts that a batch is divided into."""
        return self.data * self.fsdp


def parse_sizes(text: str) -> dict[str, int]:
    """Axis -> size of a `machine.mesh` like "fsdp=4,tensor=2"; {} for "auto".

    Raises UserError for anything else.
    """
    found = {}
    for part in text.split(",") if text != "auto" else ():
        match = re.fullmatch(rf"\s*({'|'.join(rules.AXES)})\s*=\s*([1-9]\d*)\s*", part)
        if not match or match[1] in found:
            raise UserError(
                f"machine.mesh={text!r}: not a mesh; use auto, or sizes of {', '.join(rules.AXES)} "
                "like 'fsdp=4,tensor=2'"
            )
        found[match[1]] = int(match[2])
    return found


def mesh_of_run(machine: Machine, spec: RunSpec) -> Mesh:
    """The mesh of a run that trains alone.

    Raises UserError when the devices or the run do not allow the mesh that is asked for.
    """
    found, given = devices_of(machine), parse_sizes(machine.mesh)
    sizes = _sizes_given(machine, given, found) if given else _sizes_chosen(machine, spec, found)
    # The axis `run` is for packs. A run alone divides its batch over those devices too, as far as
    # the batch allows.
    if "run" in given:
        rows = sizes.run * sizes.data
        data = _most(rows, spec.batch_size // _micro_batches(machine), sizes.fsdp, divisor=True)
        sizes = dataclasses.replace(sizes, run=rows // data, data=data)
    check_sizes(machine, spec, sizes)
    if n_hosts(found) > 1:  # devices that are left over repeat the work of the others
        sizes = dataclasses.replace(sizes, run=sizes.run * (len(found) // math.prod(sizes.shape)))
    return make_mesh(sizes, found)


def mesh_of_pack(machine: Machine, spec: RunSpec, members: int, mode: str) -> Mesh:
    """The mesh of a pack: `members` runs are divided over its axis `run`.

    Devices that are left over divide the batch (mode `vmap` only: `map` trains a member on one
    device). Raises UserError when the devices or the runs do not allow the mesh that is asked for.
    """
    found, given = devices_of(machine), parse_sizes(machine.mesh)
    if "run" in given:
        sizes = _sizes_given(machine, given, found)
        if members % sizes.run:
            raise UserError(
                f"machine.mesh={machine.mesh!r}: run={sizes.run} does not divide the {members} "
                "runs of a pack; use a divisor"
            )
    else:
        groups = _groups(given, found)
        runs = max(k for k in range(1, groups + 1) if members % k == 0)
        rest, fsdp = groups // runs if mode == "vmap" else 1, given.get("fsdp", 1)
        data = given.get("data") or _most(
            rest, spec.batch_size // _micro_batches(machine), fsdp, divisor=n_hosts(found) > 1
        )
        sizes = Sizes(runs, data, fsdp, given.get("tensor", 1))
    if mode == "map" and sizes.rows * sizes.tensor > 1:
        raise UserError(
            f"machine.mesh={machine.mesh!r}: a pack in mode map runs a member on one device; use "
            "machine.pack_mode=vmap"
        )
    check_sizes(machine, spec, sizes)
    if n_hosts(found) > 1 and math.prod(sizes.shape) < len(found):
        raise UserError(
            f"run.batch_size={spec.batch_size}: a pack of {members} keeps {math.prod(sizes.shape)} "
            f"of {len(found)} devices busy, and every host must take part; use a batch with more "
            "factors of two, or machine.pack=off"
        )
    return make_mesh(sizes, found)


def padded_members(machine: Machine, members: int, batch_size: int) -> int:
    """`members` rounded up so that no device is left out.

    To a multiple of the number of devices, or to a divisor of it when the devices of one member
    can divide its batch of `batch_size` sequences.
    """
    given, found = parse_sizes(machine.mesh), devices_of(machine)
    if "run" in given:
        return -(-members // given["run"]) * given["run"]
    count, each = _groups(given, found), given.get("fsdp", 1) * _micro_batches(machine)
    if members > count:
        return -(-members // count) * count

    def all_take_part(devices: int) -> bool:
        """Whether that many devices can train one member; on one host some may stay idle."""
        if n_hosts(found) == 1 or devices == 1:
            return True
        dividable = batch_size % (devices * each) == 0
        return pack_mode_of(machine) == "vmap" and "data" not in given and dividable

    for padded in range(members, count + 1):
        if count % padded == 0 and all_take_part(count // padded):
            return padded
    return count


def _groups(given: dict[str, int], found: list[JaxDevice]) -> int:
    """Number of groups of devices that could each train a member, with the sizes given."""
    return max(1, len(found) // math.prod(size for axis, size in given.items() if axis != "run"))


def check_sizes(machine: Machine, spec: RunSpec, sizes: Sizes) -> None:
    """Raise UserError when the run cannot be divided into such pieces."""
    model, name = spec.model, f"machine.mesh={machine.mesh!r}"
    parts = sizes.rows * _micro_batches(machine)
    if spec.batch_size % parts:
        said = f"data x fsdp = {sizes.rows}"
        if machine.accumulation > 1:
            said += f" times machine.accumulation={machine.accumulation}"
        raise UserError(
            f"run.batch_size={spec.batch_size}: not divisible by {said}; use machine.mesh=auto, or "
            f"a batch of {-(-spec.batch_size // parts) * parts}"
        )
    whole = {
        f"{model.n_kv_heads} key/value heads": (model.n_kv_heads, "tensor"),
        f"{model.d_ff} hidden units of the MLP": (model.d_ff, "tensor"),
        f"{spec.data.seq_len} tokens of a sequence": (spec.data.seq_len, "tensor"),
        f"width {model.d_model}": (model.d_model, "fsdp x tensor"),
    }
    for what, (number, axes) in whole.items():
        size = sizes.tensor * (sizes.fsdp if axes != "tensor" else 1)
        if number % size:
            raise UserError(
                f"{name}: {axes} = {size} does not divide the {what} of {model.size}; use a divisor"
            )


def make_mesh(sizes: Sizes, found: list[JaxDevice]) -> Mesh:
    """A mesh over `found` in the order of their wiring.

    Neighbours lie along the innermost axis; slices meet along the outermost.
    """
    return Mesh(
        np.array(by_wiring(found)[: math.prod(sizes.shape)]).reshape(sizes.shape),
        rules.AXES,
        axis_types=(AxisType.Auto,) * len(rules.AXES),
    )


def _sizes_given(machine: Machine, given: dict[str, int], found: list[JaxDevice]) -> Sizes:
    """The sizes asked for; the axis `data`, when not among them, takes the devices left over."""
    product, count = math.prod(given.values()), len(found)
    rest = 1 if "data" in given else count // product
    if product * rest != count:
        raise UserError(
            f"machine.mesh={machine.mesh!r}: {product} devices, and there are {count}; change a "
            f"size, or set machine.devices={product}"
        )
    sizes = Sizes(**{"data": rest, **given})
    wired = count // len(set(map(slice_of, found)))
    if wired % (sizes.fsdp * sizes.tensor):
        raise UserError(
            f"machine.mesh={machine.mesh!r}: fsdp x tensor = {sizes.fsdp * sizes.tensor} does not "
            f"lie within a slice of {wired} devices, and slices meet along data only; use divisors "
            f"of {wired}"
        )
    return sizes


def _sizes_chosen(machine: Machine, spec: RunSpec, found: list[JaxDevice]) -> Sizes:
    """The sizes for `machine.mesh=auto`.

    Data parallelism over as many devices as divide a micro-batch. The axis `tensor` takes devices
    that this leaves idle. A training state that is large for a device is cut along `fsdp`.
    """
    row, count = defaults_of(machine), len(found)
    parts = _most(count, spec.batch_size // _micro_batches(machine), divisor=n_hosts(found) > 1)
    tensor = _tensor(spec, min(row.tensor, count // parts))
    limit = row.replicated * memory_of(machine)
    if memory_model.state(spec, tensor) <= limit:
        return Sizes(data=parts, tensor=tensor)
    pieces = parts * tensor

    def possible(numbers: Iterable[int]) -> list[int]:
        """Of these numbers of devices, those that can hold one state together."""
        return [
            k
            for k in numbers
            if pieces % k == 0 and k % tensor == 0 and spec.model.d_model % k == 0
        ]

    # Devices along one side of the wiring, along two, ...; failing that, any number of them.
    along_sides = itertools.accumulate(reversed(_sides(found)), operator.mul)
    groups = [k for k in possible(along_sides) if k > tensor]
    groups = groups or possible(range(tensor + 1, pieces + 1))
    enough = (k for k in groups if memory_model.state(spec, k) <= limit)
    fsdp = next(enough, max(groups, default=tensor)) // tensor
    return Sizes(data=parts // fsdp, fsdp=fsdp, tensor=tensor)


def _tensor(spec: RunSpec, idle: int) -> int:
    """How many devices share the layers of a run, when each part of the batch could have `idle`."""
    model = spec.model
    numbers = (model.n_kv_heads, model.d_ff, spec.data.seq_len, model.d_model)

    def fits(k: int) -> bool:
        return all(n % k == 0 for n in numbers) and model.d_ff // k >= WIDE

    return max([k for k in range(2, idle + 1) if idle % k == 0 and fits(k)], default=1)


def _most(count: int, batch: int, times: int = 1, *, divisor: bool) -> int:
    """The largest k up to `count` such that k * `times` divides `batch`.

    divisor: k must divide `count` too, where no device may be left out.
    """
    for k in range(count, 0, -1):
        if batch % (k * times) == 0 and not (divisor and count % k):
            return k
    return 1


def n_hosts(found: list[JaxDevice]) -> int:
    """Number of processes that the devices belong to."""
    return len({device.process_index for device in found})


def _micro_batches(machine: Machine) -> int:
    return machine.accumulation or 1


def _sides(found: list[JaxDevice]) -> tuple[int, ...]:
    """Sides of the array in which the devices are wired together.

    Those of one TPU slice (slices are not wired to each other); else hosts by devices of a host.
    """
    places = np.array([place_in_slice(device) for device in found])
    if not places.size:
        return n_hosts(found), len(found) // n_hosts(found)
    return tuple(int(side) for side in np.ptp(places, axis=0) + 1)


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def by_batch(mesh: Mesh, batch_axis: int = 0) -> NamedSharding:
    """The sharding of tokens whose dimension `batch_axis` is the batch."""
    return NamedSharding(mesh, PartitionSpec(*(None,) * batch_axis, rules.RULES["batch"]))


def by_state(mesh: Mesh, state: dict, *leading: str) -> dict:
    """The sharding of every leaf of a training state that has `leading` mesh axes in front."""
    return jax.tree.map(
        lambda partition: NamedSharding(mesh, PartitionSpec(*leading, *partition)),
        rules.partitions(state),
    )
