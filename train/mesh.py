"""The mesh of a program on a machine: how many devices along each axis of model/parallel.py, and which.

The global batch never depends on it: what the devices cannot share they leave idle, and say so in the plan.
"""

import math
import re
from dataclasses import dataclass

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from stepladder.configs.errors import UserError
from stepladder.configs.spec import RunSpec
from stepladder.model import parallel
from stepladder.train import machine as machines
from stepladder.train import memory
from stepladder.train.machine import Machine

AXES = parallel.AXES
REPLICATED = 0.25  # of a device's memory that a state whole on every device may take; above it the state is cut (fsdp)
TENSOR, WIDE = 8, 512  # devices that share a layer unasked, at most, and hidden units each keeps, at least


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
    """Sizes by axis of a `machine.mesh` like "fsdp=4,tensor=2"; "auto" is none. Raises UserError for anything else."""
    found = {}
    for part in text.split(",") if text != "auto" else ():
        match = re.fullmatch(rf"\s*({'|'.join(AXES)})\s*=\s*([1-9]\d*)\s*", part)
        if not match or match[1] in found:
            raise UserError(f"machine.mesh={text!r}: not a mesh; use auto, or sizes of {', '.join(AXES)} like 'fsdp=4,tensor=2'")
        found[match[1]] = int(match[2])
    return found


def alone(machine: Machine, spec: RunSpec) -> Mesh:
    """The mesh of one run by itself. Raises UserError when the mesh asked for fits neither the devices nor the run."""
    found = machines.devices(machine)
    given = asked(machine.mesh)
    runs = given.pop("run", 1)  # the axis of packs: alone, a run shares its batch over those devices too
    if runs > 1:
        given["data"] = _most(given.get("data", 1) * runs, spec.batch_size // _micro(machine), given.get("fsdp", 1))
    sizes = _given(machine, given, len(found)) if given else _chosen(machine, spec, len(found))
    check(machine, spec, sizes)
    return make(sizes, found)


def of_pack(machine: Machine, spec: RunSpec, members: int, mode: str) -> Mesh:
    """A mesh whose axis `run` shares `members`; what devices are left over share a batch (`vmap` only: `map` runs a member on one device)."""
    found = machines.devices(machine)
    given = asked(machine.mesh)
    if "run" in given:
        sizes = _given(machine, given, len(found))
        if members % sizes.run:
            raise UserError(f"machine.mesh={machine.mesh!r}: run={sizes.run} does not divide the {members} runs of a pack; use a divisor")
    else:
        shared = given.get("fsdp", 1) * given.get("tensor", 1)
        runs = max(k for k in range(1, len(found) // shared + 1) if members % k == 0)
        rest = len(found) // shared // runs if mode == "vmap" else 1
        fsdp, tensor = given.get("fsdp", 1), given.get("tensor", 1)
        sizes = Sizes(runs, given.get("data") or _most(rest, spec.batch_size // _micro(machine), fsdp), fsdp, tensor)
    if mode == "map" and sizes.rows * sizes.tensor > 1:
        raise UserError(f"machine.mesh={machine.mesh!r}: a pack in mode map runs a member on one device; use machine.pack_mode=vmap")
    check(machine, spec, sizes)
    return make(sizes, found)


def pack_size(machine: Machine, members: int) -> int:
    """`members` with padding, so that the axis `run` leaves no device out: a multiple of the devices, or a divisor of their number."""
    given = asked(machine.mesh)
    if "run" in given:
        return -(-members // given["run"]) * given["run"]
    count = len(machines.devices(machine)) // (given.get("fsdp", 1) * given.get("tensor", 1)) or 1
    return -(-members // count) * count if members > count else next(k for k in range(members, count + 1) if count % k == 0)


def check(machine: Machine, spec: RunSpec, sizes: Sizes) -> None:
    """Raise UserError when the run cannot be cut into such pieces."""
    model, name = spec.model, f"machine.mesh={machine.mesh!r}"
    parts = sizes.rows * _micro(machine)
    if spec.batch_size % parts:
        said = f"data x fsdp = {sizes.rows}" + (f" times {machine.accumulation} micro-batches" if machine.accumulation > 1 else "")
        raise UserError(
            f"run.batch_size={spec.batch_size}: not divisible by {said}; use machine.mesh=auto, or a batch of {-(-spec.batch_size // parts) * parts}"
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
            raise UserError(f"{name}: {axes} = {size} does not divide the {what} of {model.size}; use a divisor")


def make(sizes: Sizes, found: list[jax.Device]) -> Mesh:
    """Placed by the wiring of the devices when all take part (jax knows no wiring of, say, three chips of four); slices meet along `data`."""
    count, kinds = math.prod(sizes.shape), (AxisType.Auto,) * len(AXES)
    slices, hosts = _slices(found), {device.process_index for device in found}
    if count < len(found) and len(hosts) > 1:
        raise UserError(
            f"run.batch_size: keeps {count} of {len(found)} devices on {len(hosts)} hosts busy, and every host must take part; use a batch that "
            f"{len(found)} divides, or fewer hosts"
        )
    if count == len(found) and slices > 1 and sizes.data % slices == 0:
        within = (sizes.run, sizes.data // slices, sizes.fsdp, sizes.tensor)
        return Mesh(mesh_utils.create_hybrid_device_mesh(within, (1, slices, 1, 1), found), AXES, axis_types=kinds)
    if count == len(found) and slices == 1:
        return jax.make_mesh(sizes.shape, AXES, devices=found, axis_types=kinds)
    return Mesh(np.array(found[:count]).reshape(sizes.shape), AXES, axis_types=kinds)


def _given(machine: Machine, given: dict[str, int], count: int) -> Sizes:
    """Sizes asked for; `data`, when it is not among them, takes the devices that are left."""
    product = math.prod(given.values())
    rest = 1 if "data" in given else count // product
    if product * rest != count:
        raise UserError(
            f"machine.mesh={machine.mesh!r}: {product} devices, and there are {count}; change a size, or set machine.devices={product}"
        )
    return Sizes(**{"data": rest, **given})


def _chosen(machine: Machine, spec: RunSpec, count: int) -> Sizes:
    """Data-parallel over as many devices as divide a micro-batch; the state is cut when it is large; tensor takes what a batch leaves idle."""
    rows = _most(count, spec.batch_size // _micro(machine))
    tensor = _tensor(spec, count // rows)
    limit = machines.memory(machine)
    if machines.platform(machine) == "cpu" or memory.state(spec, tensor) <= REPLICATED * limit:
        return Sizes(data=rows, tensor=tensor)
    slices = _slices(machines.devices(machine))
    group = rows // slices if rows % slices == 0 else rows
    fsdp = max(k for k in range(1, group + 1) if group % k == 0 and spec.model.d_model % (k * tensor) == 0)
    return Sizes(data=rows // fsdp, fsdp=fsdp, tensor=tensor)


def _tensor(spec: RunSpec, idle: int) -> int:
    model = spec.model
    numbers = (model.n_kv_heads, model.d_ff, spec.data.seq_len, model.d_model)
    fits = lambda k: all(n % k == 0 for n in numbers) and model.d_ff // k >= WIDE  # noqa: E731
    return max([k for k in range(2, min(idle, TENSOR) + 1) if idle % k == 0 and fits(k)], default=1)


def _most(count: int, batch: int, times: int = 1) -> int:
    """The largest number up to `count` by which, times `times`, a batch can be divided."""
    return max((k for k in range(1, count + 1) if batch % (k * times) == 0), default=1)


def _micro(machine: Machine) -> int:
    return machine.accumulation or 1


def _slices(found: list[jax.Device]) -> int:
    return len({getattr(device, "slice_index", 0) or 0 for device in found})


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def by_batch(mesh: Mesh, batch_axis: int = 0) -> NamedSharding:
    """Tokens, whose dimension `batch_axis` is the batch."""
    return NamedSharding(mesh, PartitionSpec(*(None,) * batch_axis, parallel.RULES["batch"]))


def by_state(mesh: Mesh, state: dict, *leading: str) -> dict:
    """The sharding of every leaf of a training state; with `leading` axes in front of each."""
    return jax.tree.map(lambda spec: NamedSharding(mesh, PartitionSpec(*leading, *spec)), parallel.specs(state))
