"""Which runs train together: equal programs at one depth of the ladder, as many as memory allows,
where that is estimated to be faster.

The plan depends on the whole ladder and the machine, never on what is done already, so a resumed
ladder executes as the unbroken one.
"""

import bisect
import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from stepladder.configs.core import counting
from stepladder.configs.core.spec import RunSpec
from stepladder.model import execution
from stepladder.model.execution import Execution
from stepladder.train.hardware import machine as machines
from stepladder.train.hardware import memory_model, micro_batch
from stepladder.train.hardware import mesh as meshes
from stepladder.train.hardware.machine import Machine
from stepladder.train.ladder.cost import ACHIEVED
from stepladder.train.loop.member import timeline

# Members a device takes, at most, whatever the memory. `map` gains nothing from more than a few (it
# saves one dispatch in ten steps), and a crash loses less with fewer. `vmap` stops where a step's
# FLOPs keep every accelerator busy: 4e12 on each are about 10 ms at 40 % of an H100.
MAP_MEMBERS = 8
BUSY_FLOPS = 4e12
# Values alive a parameter in `map`: the state (3), gradient, update and the old state that XLA
# could not overwrite.
LIVE = 8
# `map` against one run after another, data-parallel, when all devices have as much to do: 1.12
# (6k), 1.20, 1.15 and 1.25 (84k) on 2 cores; and what one executable more costs, for a program
# whose groups do not all train the same way.
MAP_GAIN, COMPILE_SECONDS = 1.15, 3.0


@dataclass(frozen=True)
class Pack:
    """Runs that train together; `members` and `streams` size the executable, the same for all packs
    of a rung.
    """

    specs: tuple[RunSpec, ...]
    members: int  # 1: alone, data-parallel over all devices
    streams: int  # different data streams, at most


def plan(specs: Sequence[RunSpec], machine: Machine) -> list[Pack]:
    """Packs in the order in which they run: parents before branches; a target that is forecast
    waits for all runs before it.
    """
    depth: dict[str, int] = {}
    groups: dict[tuple, list[RunSpec]] = {}  # (segment, program, depth) -> runs
    segment = 0
    for spec in specs:
        depth[spec.run_id] = depth[spec.parent.run_id] + 1 if spec.parent else 0
        segment += forecast_first(spec)
        groups.setdefault((segment, spec.program_key, depth[spec.run_id]), []).append(spec)
        segment += forecast_first(spec)
    by_program: dict[str, list[list[RunSpec]]] = {}
    for (_, program_key, _), group in groups.items():
        by_program.setdefault(program_key, []).append(group)
    packs = []
    most = {key: _at_once(found, machine) for key, found in by_program.items()}
    size = {key: _size(found, most[key], machine) for key, found in by_program.items()}
    for group in _parents_first(list(groups.values())):
        key = group[0].program_key
        together = _packed(group, most[key])
        packs += [
            Pack(tuple(part), *(size[key] if together else (1, 1)))
            for part in _divide(group, most[key] if together else 1)
        ]
    return packs


def forecast_first(spec: RunSpec) -> bool:
    """Whether a forecast is written before the run's first step: it is the target of a ladder that
    extrapolates.
    """
    return (
        spec.tag.get("role") == "target" and spec.tag.get("study", "extrapolate") == "extrapolate"
    )


def _parents_first(groups: list[list[RunSpec]]) -> list[list[RunSpec]]:
    done: set[str] = set()
    ordered = []
    while groups:
        ready = next(
            g for g in groups if all(s.parent is None or s.parent.run_id in done for s in g)
        )
        groups.remove(ready)
        ordered.append(ready)
        done |= {spec.run_id for spec in ready}
    return ordered


def _packed(group: list[RunSpec], most: int) -> bool:
    return min(len(group), most) > 1


def _size(groups: list[list[RunSpec]], most: int, machine: Machine) -> tuple[int, int]:
    """(members, streams) of all packs of a program: what pads a smaller one costs less than an
    executable of its own.
    """
    parts = [part for group in groups if _packed(group, most) for part in _divide(group, most)]
    streams = max((len({timeline(spec) for spec in part}) for part in parts), default=1)
    return meshes.pack_size(
        machine, max(map(len, parts), default=1), groups[0][0].batch_size
    ), streams


def _divide(group: list[RunSpec], most: int) -> list[list[RunSpec]]:
    """As few parts of like size as `most` allows, of runs of like length; runs that read the same
    batches come together.
    """
    parts = -(-len(group) // most)
    size = -(-len(group) // parts)
    ordered = sorted(group, key=lambda s: (s.start_step - s.steps, timeline(s)))
    return [ordered[i : i + size] for i in range(0, len(ordered), size)]


def _at_once(groups: list[list[RunSpec]], machine: Machine) -> int:
    """Runs of one program that train at once, at most: 1 where its groups are estimated to be done
    sooner one run after another.
    """
    if machine.pack == "off" or max(map(len, groups)) == 1:
        return 1
    most = limit(groups[0][0], machine)
    if machine.pack != "auto" or machines.pack_mode(machine) != "map":
        return most
    alone = packed = 0.0  # seconds
    count = len(machines.devices(machine))
    for group in groups:
        spec = group[0]
        step = (
            counting.count(spec.model, spec.data.seq_len).flops_per_token_train
            * spec.tokens_per_step
            / ACHIEVED[machines.platform(machine)]
        )
        lengths = [s.steps - s.start_step for s in group]
        alone += step * sum(lengths)
        if _packed(group, most):
            parts = [[s.steps - s.start_step for s in part] for part in _divide(group, most)]
            packed += step * sum(_rounds(part, count) for part in parts) * count / MAP_GAIN
        else:
            packed += step * sum(lengths)
    # Whatever is left alone shares one executable, beside the packs'.
    packed += 0.0 if all(_packed(group, most) for group in groups) else COMPILE_SECONDS
    return most if packed < alone else 1


def _rounds(lengths: list[int], devices: int) -> int:
    """Steps that the busiest device takes in a pack of runs of these lengths, which are dealt to
    the devices in turn.
    """
    total = at = 0
    for end in sorted(set(lengths)):
        going = [sum(length >= end for length in lengths[d::devices]) for d in range(devices)]
        total, at = total + (end - at) * max(going), end
    return total


def limit(spec: RunSpec, machine: Machine) -> int:
    """Members of `spec`'s program that fit the memory of the machine, and that are worth it when
    machine.pack is "auto".
    """
    devices, mode = len(machines.devices(machine)), machines.pack_mode(machine)
    if machine.pack != "auto":
        wanted = int(machine.pack)
    elif mode == "map":
        wanted = MAP_MEMBERS * devices
    else:
        step = (
            counting.count(spec.model, spec.data.seq_len).flops_per_token_train
            * spec.tokens_per_step
        )
        wanted = max(1, round(devices * BUSY_FLOPS / step))
    fitting = devices * max(1, FITTING[mode](spec, machine, -(-wanted // devices)))
    if machine.pack != "auto" and wanted > fitting:
        print(
            f"pack of {wanted} runs of {spec.model.size}: does not fit the memory, {fitting} do",
            file=sys.stderr,
        )
    return min(wanted, fitting)


def _mapped(spec: RunSpec, machine: Machine, most: int) -> int:
    """Members that a device can hold, up to `most`, where one at a time has activations."""
    platform = machines.platform(machine)
    budget = (
        memory_model.FILL
        * machines.memory(machine)
        / (len(machines.devices(machine)) if platform == "cpu" else 1)
    )
    rows = (
        execution.micro_batch(spec.model, spec.batch_size, spec.data.seq_len, platform)
        or spec.batch_size
    )
    work = rows * memory_model.activations(spec, "none") + memory_model.logits(spec, rows)
    return min(
        most,
        int(
            (budget - work)
            / (LIVE * 4.0 * counting.count(spec.model, spec.data.seq_len).params_total)
        ),
    )


def _vmapped(spec: RunSpec, machine: Machine, most: int) -> int:
    """Members that a device can hold, up to `most`, all in one step: as many as fit without
    recomputation, else with it.
    """
    rows, floats = (
        micro_batch.wanted(spec, machine, spec.batch_size),
        execution.DEFAULTS[machines.platform(machine)].loss_floats,
    )
    attention = machines.attention(machine, spec, mapped=True)

    def needed(members: int, remat: str) -> float:
        forward = Execution(attention=attention, loss_floats=-(-floats // members))
        return members * memory_model.step(spec, rows, remat, forward)

    budget, sizes = memory_model.FILL * machines.memory(machine), range(1, most + 1)
    found = (
        bisect.bisect_right(sizes, budget, key=functools.partial(needed, remat=remat))
        for remat in ("none", "full")
    )
    return next((k for k in found if k), 0)


FITTING = {"map": _mapped, "vmap": _vmapped}
