"""The mesh of a program on a machine: how many devices along each axis of model/parallel/rules.py,
and which.

The global batch never depends on it. Devices that cannot share a batch are left out, or, since
every host must take part, repeat the work of others along the axis `run`; the plan says so.
"""

import dataclasses
import itertools
import math
import operator
import re
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from stepladder.configs.core.errors import UserError
from stepladder.configs.core.spec import RunSpec
from stepladder.model.parallel import rules
from stepladder.train.hardware import defaults, memory_model
from stepladder.train.hardware import machine as machines
from stepladder.train.hardware.machine import Machine

AXES = rules.AXES
WIDE = 512  # hidden units that a device keeps, at least, when a layer is shared unasked


@dataclass(frozen=True)
class Sizes:
    """Devices along each axis."""

    run: int = 1
    data: int = 1
    fsdp: int = 1
    tensor: int = 1

    @property
    def shape(self) -> tuple[int, ...]:
        return self.run, self.data, self.fsdp, self.tensor

    @property
    def rows(self) -> int:
        """Into how many parts a batch is divided."""
        return self.data * self.fsdp


def asked(text: str) -> dict[str, int]:
    """Sizes by axis of a `machine.mesh` like "fsdp=4,tensor=2"; "auto" is none.

    Raises UserError for anything else.
    """
    found = {}
    for part in text.split(",") if text != "auto" else ():
        match = re.fullmatch(rf"\s*({'|'.join(AXES)})\s*=\s*([1-9]\d*)\s*", part)
        if not match or match[1] in found:
            raise UserError(
                f"machine.mesh={text!r}: not a mesh; use auto, or sizes of {', '.join(AXES)} like "
                "'fsdp=4,tensor=2'"
            )
        found[match[1]] = int(match[2])
    return found


def alone(machine: Machine, spec: RunSpec) -> Mesh:
    """The mesh of one run by itself.

    Raises UserError when the mesh asked for fits neither the devices nor the run.
    """
    found, given = machines.devices(machine), asked(machine.mesh)
    sizes = _given(machine, given, found) if given else _chosen(machine, spec, found)
    # the axis of packs: alone, a run shares its batch over those devices too, as far as it can be
    # divided
    if "run" in given:
        rows = sizes.run * sizes.data
        data = _most(rows, spec.batch_size // _micro(machine), sizes.fsdp, divisor=True)
        sizes = dataclasses.replace(sizes, run=rows // data, data=data)
    check(machine, spec, sizes)
    if _hosts(found) > 1:  # those left repeat the others' work
        sizes = dataclasses.replace(sizes, run=sizes.run * (len(found) // math.prod(sizes.shape)))
    return make(sizes, found)


def of_pack(machine: Machine, spec: RunSpec, members: int, mode: str) -> Mesh:
    """A mesh whose axis `run` shares `members`; what devices are left over share a batch (`vmap`
    only: `map` runs a member on one device).
    """
    found, given = machines.devices(machine), asked(machine.mesh)
    if "run" in given:
        sizes = _given(machine, given, found)
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
            rest, spec.batch_size // _micro(machine), fsdp, divisor=_hosts(found) > 1
        )
        sizes = Sizes(runs, data, fsdp, given.get("tensor", 1))
    if mode == "map" and sizes.rows * sizes.tensor > 1:
        raise UserError(
            f"machine.mesh={machine.mesh!r}: a pack in mode map runs a member on one device; use "
            "machine.pack_mode=vmap"
        )
    check(machine, spec, sizes)
    if _hosts(found) > 1 and math.prod(sizes.shape) < len(found):
        raise UserError(
            f"run.batch_size={spec.batch_size}: a pack of {members} keeps {math.prod(sizes.shape)} "
            f"of {len(found)} devices busy, and every host must take part; use a batch with more "
            "factors of two, or machine.pack=off"
        )
    return make(sizes, found)


def pack_size(machine: Machine, members: int, batch_size: int) -> int:
    """`members` with padding, so that no device is left out: a multiple of their number, or a
    divisor whose rest can share a batch.
    """
    given, found = asked(machine.mesh), machines.devices(machine)
    if "run" in given:
        return -(-members // given["run"]) * given["run"]
    count, each = _groups(given, found), given.get("fsdp", 1) * _micro(machine)
    if members > count:
        return -(-members // count) * count

    # whether the devices of a member can all take part, where they must
    def busy(rest: int) -> bool:
        shared = (
            machines.pack_mode(machine) == "vmap"
            and "data" not in given
            and batch_size % (rest * each) == 0
        )
        return _hosts(found) == 1 or rest == 1 or shared

    return next(
        (k for k in range(members, count + 1) if count % k == 0 and busy(count // k)), count
    )


def _groups(given: dict[str, int], found: list[jax.Device]) -> int:
    """Groups of devices that could each train a member, of the sizes given."""
    return max(1, len(found) // math.prod(size for axis, size in given.items() if axis != "run"))


def check(machine: Machine, spec: RunSpec, sizes: Sizes) -> None:
    """Raise UserError when the run cannot be cut into such pieces."""
    model, name = spec.model, f"machine.mesh={machine.mesh!r}"
    parts = sizes.rows * _micro(machine)
    if spec.batch_size % parts:
        said = f"data x fsdp = {sizes.rows}" + (
            f" times machine.accumulation={machine.accumulation}"
            if machine.accumulation > 1
            else ""
        )
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


def make(sizes: Sizes, found: list[jax.Device]) -> Mesh:
    """`found` in the order of their wiring, row by row: neighbours share the innermost axis, and
    slices meet along the outermost.
    """
    count, ordered = math.prod(sizes.shape), found
    if hasattr(found[0], "coords"):
        ordered = sorted(
            found, key=lambda d: (getattr(d, "slice_index", 0) or 0, *d.coords, d.core_on_chip)
        )
    return Mesh(
        np.array(ordered[:count]).reshape(sizes.shape),
        AXES,
        axis_types=(AxisType.Auto,) * len(AXES),
    )


def _given(machine: Machine, given: dict[str, int], found: list[jax.Device]) -> Sizes:
    """Sizes asked for; `data`, when it is not among them, takes the devices that are left."""
    product, count = math.prod(given.values()), len(found)
    rest = 1 if "data" in given else count // product
    if product * rest != count:
        raise UserError(
            f"machine.mesh={machine.mesh!r}: {product} devices, and there are {count}; change a "
            f"size, or set machine.devices={product}"
        )
    sizes = Sizes(**{"data": rest, **given})
    wired = count // len({getattr(device, "slice_index", 0) or 0 for device in found})
    if wired % (sizes.fsdp * sizes.tensor):
        raise UserError(
            f"machine.mesh={machine.mesh!r}: fsdp x tensor = {sizes.fsdp * sizes.tensor} does not "
            f"lie within a slice of {wired} devices, and slices meet along data only; use divisors "
            f"of {wired}"
        )
    return sizes


def _chosen(machine: Machine, spec: RunSpec, found: list[jax.Device]) -> Sizes:
    """Data-parallel over as many devices as divide a micro-batch; the state is cut when it is
    large; tensor takes what a batch leaves idle.
    """
    chosen, count = defaults.of(machine), len(found)
    rows = _most(count, spec.batch_size // _micro(machine), divisor=_hosts(found) > 1)
    tensor = _tensor(spec, min(chosen.tensor, count // rows))
    limit = chosen.replicated * machines.memory(machine)
    if memory_model.state(spec, tensor) <= limit:
        return Sizes(data=rows, tensor=tensor)
    # of ever more sides of the wiring; else any number of devices
    reach = itertools.accumulate(reversed(_sides(found)), operator.mul)

    def cuts(sizes):
        return [
            k
            for k in sizes
            if rows * tensor % k == 0 and k % tensor == 0 and spec.model.d_model % k == 0
        ]

    groups = [k for k in cuts(reach) if k > tensor] or cuts(range(tensor + 1, rows * tensor + 1))
    small = (k for k in groups if memory_model.state(spec, k) <= limit)
    fsdp = next(small, max(groups, default=tensor)) // tensor
    return Sizes(data=rows // fsdp, fsdp=fsdp, tensor=tensor)


def _tensor(spec: RunSpec, idle: int) -> int:
    """Of `idle` devices beside each that has a part of the batch, those that can share its layers
    with it.
    """
    model = spec.model
    numbers = (model.n_kv_heads, model.d_ff, spec.data.seq_len, model.d_model)

    def fits(k):
        return all(n % k == 0 for n in numbers) and model.d_ff // k >= WIDE

    return max([k for k in range(2, idle + 1) if idle % k == 0 and fits(k)], default=1)


def _most(count: int, batch: int, times: int = 1, *, divisor: bool) -> int:
    """The largest number up to `count` by which, times `times`, a batch can be divided.

    divisor: of `count`, where none may be left out.
    """
    return max(
        (
            k
            for k in range(1, count + 1)
            if batch % (k * times) == 0 and not (divisor and count % k)
        ),
        default=1,
    )


def _hosts(found: list[jax.Device]) -> int:
    return len({device.process_index for device in found})


def _micro(machine: Machine) -> int:
    return machine.accumulation or 1


def _sides(found: list[jax.Device]) -> tuple[int, ...]:
    """How the devices that are wired together lie: the sides of a TPU slice, or hosts by devices of
    a host; slices are not wired.
    """
    if not hasattr(found[0], "coords"):
        return _hosts(found), len(found) // _hosts(found)
    places = np.array([(*device.coords, device.core_on_chip) for device in found])
    return tuple(int(side) for side in np.ptp(places, axis=0) + 1)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def by_batch(mesh: Mesh, batch_axis: int = 0) -> NamedSharding:
    """Tokens, whose dimension `batch_axis` is the batch."""
    return NamedSharding(mesh, PartitionSpec(*(None,) * batch_axis, rules.RULES["batch"]))


def by_state(mesh: Mesh, state: dict, *leading: str) -> dict:
    """The sharding of every leaf of a training state; with `leading` axes in front of each."""
    return jax.tree.map(
        lambda partition: NamedSharding(mesh, PartitionSpec(*leading, *partition)),
        rules.partitions(state),
    )
