"""Which runs train together: runs of one program, as many as memory allows, where that is faster.

A pack is a set of runs that train at the same time in one executable. It is not sequence packing,
the packing of documents into sequences.

Packs depend on the whole ladder and the machine, never on what is done already, so a resumed ladder
executes as the unbroken one.
"""

import bisect
import functools
from collections.abc import Sequence
from dataclasses import dataclass

from stepladder.configs.core import counting
from stepladder.configs.core.spec import RunSpec
from stepladder.model.execution import Execution, micro_batch_within
from stepladder.train.hardware import memory_model, micro_batch
from stepladder.train.hardware.machine import (
    Machine,
    attention_of,
    defaults_of,
    devices_of,
    layers_of,
    memory_of,
    pack_mode_of,
    platform_of,
)
from stepladder.train.hardware.mesh import padded_members
from stepladder.train.loop.member import timeline

# Members that a device takes in mode `map`, at most. More gain nothing (what they save is one
# dispatch in ten steps), and a crash loses more with more of them.
MAP_MEMBERS = 8
# FLOPs of a step in mode `vmap`, for each device: enough to keep every accelerator busy (about
# 10 ms at 40 % of an H100), so that more members gain nothing.
BUSY_FLOPS = 4e12
# float32 values in memory a parameter, in mode `map`: the state (3), the gradient, the update, and
# the old state, which XLA could not overwrite.
LIVE = 8
# How many times faster `map` is than one run after another, data-parallel, when all devices have
# as much to do. Measured on 2 cores: 1.12 (6k parameters), 1.20, 1.15 and 1.25 (84k).
MAP_GAIN = 1.15
# Seconds that one executable more costs. A program whose runs train partly in packs and partly
# alone has two.
COMPILE_SECONDS = 3.0


@dataclass(frozen=True)
class Pack:
    """Runs that train together.

    `members` and `streams` are the size of the executable, which all packs of a program share: a
    pack of fewer runs is padded.
    """

    specs: tuple[RunSpec, ...]
    members: int  # runs in the executable; 1: alone, data-parallel over all devices
    streams: int  # different data streams that they read, at most


@dataclass(frozen=True)
class Packing:
    """The packs of a ladder in the order in which they run, and what the user should know."""

    packs: tuple[Pack, ...]
    warnings: tuple[str, ...] = ()  # one line each


def pack_ladder(specs: Sequence[RunSpec], machine: Machine) -> Packing:
    """Divide the runs of a ladder into packs.

    Parents come before their branches. A target that is forecast comes after all runs that stand
    before it in `specs`, and before all that follow.
    """
    groups = _groups(specs)
    by_program: dict[str, list[list[RunSpec]]] = {}
    for group in groups:
        by_program.setdefault(group[0].program_key, []).append(group)
    most = {key: members_worth_it(found, machine) for key, found in by_program.items()}
    size = {key: pack_size(found, most[key], machine) for key, found in by_program.items()}
    packs = []
    for group in _parents_first(groups):
        key = group[0].program_key
        if packs_at_all(group, most[key]):
            packs += [Pack(tuple(part), *size[key]) for part in _divide(group, most[key])]
        else:
            packs += [Pack(tuple(part), members=1, streams=1) for part in _divide(group, 1)]
    said = (_warning(found, most[key], machine) for key, found in by_program.items())
    return Packing(tuple(packs), tuple(warning for warning in said if warning))


def forecast_first(spec: RunSpec) -> bool:
    """Whether a forecast is written before the run starts.

    It is, when the run is the target of a ladder that extrapolates.
    """
    study = spec.tag.get("study", "extrapolate")
    return spec.tag.get("role") == "target" and study == "extrapolate"


def _groups(specs: Sequence[RunSpec]) -> list[list[RunSpec]]:
    """Runs that could train together: of one program, at one depth of the ladder (trunks, their
    branches, ...) and in one segment.
    """
    depth: dict[str, int] = {}
    groups: dict[tuple[int, str, int], list[RunSpec]] = {}
    # A target that is forecast has a segment of its own, between a barrier before it and one after
    # it: it starts when all runs before it are done, and no later run trains with those.
    segment = 0
    for spec in specs:
        depth[spec.run_id] = depth[spec.parent.run_id] + 1 if spec.parent else 0
        barrier = forecast_first(spec)
        if barrier:
            segment += 1
        groups.setdefault((segment, spec.program_key, depth[spec.run_id]), []).append(spec)
        if barrier:
            segment += 1
    return list(groups.values())


def _parents_first(groups: list[list[RunSpec]]) -> list[list[RunSpec]]:
    waiting = list(groups)
    done: set[str] = set()
    ordered = []
    while waiting:
        ready = next(
            g for g in waiting if all(s.parent is None or s.parent.run_id in done for s in g)
        )
        waiting.remove(ready)
        ordered.append(ready)
        done |= {spec.run_id for spec in ready}
    return ordered


def packs_at_all(group: list[RunSpec], most: int) -> bool:
    """Whether the runs of a group train in packs, when a pack has at most `most` members."""
    return min(len(group), most) > 1


def pack_size(groups: list[list[RunSpec]], most: int, machine: Machine) -> tuple[int, int]:
    """(members, streams) of all packs of a program, whose groups these are.

    One size for all: padding the smaller packs costs less than an executable of their own.
    """
    parts = [part for group in groups if packs_at_all(group, most) for part in _divide(group, most)]
    streams = max((len({timeline(spec) for spec in part}) for part in parts), default=1)
    largest = max(map(len, parts), default=1)
    return padded_members(machine, largest, groups[0][0].batch_size), streams


def _divide(group: list[RunSpec], most: int) -> list[list[RunSpec]]:
    """Divide a group into as few parts as `most` runs a part allow, of about one size.

    A part has runs of similar length, and runs that read the same batches come together.
    """
    parts = -(-len(group) // most)
    size = -(-len(group) // parts)
    ordered = sorted(group, key=lambda s: (s.start_step - s.steps, timeline(s)))
    return [ordered[i : i + size] for i in range(0, len(ordered), size)]


def members_worth_it(groups: list[list[RunSpec]], machine: Machine) -> int:
    """How many runs of a program train at once, at most.

    1 where its groups are estimated to be done sooner one run after another.
    """
    if machine.pack == "off" or max(map(len, groups)) == 1:
        return 1
    most = members_that_fit(groups[0][0], machine)
    if machine.pack != "auto" or pack_mode_of(machine) != "map":
        return most
    alone = packed = 0.0  # seconds
    count = len(devices_of(machine))
    for group in groups:
        step = _step_flops(group[0]) / defaults_of(machine).achieved
        in_turn = step * sum(_lengths(group))
        alone += in_turn
        if packs_at_all(group, most):
            rounds = sum(steps_of_busiest(_lengths(p), count) for p in _divide(group, most))
            packed += step * rounds * count / MAP_GAIN
        else:
            packed += in_turn
    # Runs that are not packed need one more executable.
    packed += 0.0 if all(packs_at_all(group, most) for group in groups) else COMPILE_SECONDS
    return most if packed < alone else 1


def _lengths(specs: Sequence[RunSpec]) -> list[int]:
    return [spec.steps - spec.start_step for spec in specs]


def _step_flops(spec: RunSpec) -> float:
    counted = counting.count(spec.model, spec.data.seq_len).flops_per_token_train
    return counted * spec.tokens_per_step


def steps_of_busiest(lengths: list[int], devices: int) -> int:
    """Steps that the busiest device takes, in a pack of runs of these lengths in steps.

    The runs are dealt to the devices in turn.
    """
    total = at = 0
    for end in sorted(set(lengths)):
        active = [sum(length >= end for length in lengths[d::devices]) for d in range(devices)]
        total, at = total + (end - at) * max(active), end
    return total


def members_that_fit(spec: RunSpec, machine: Machine) -> int:
    """How many runs of the program of `spec` train at once, as far as they fit the memory.

    At most as many as `machine.pack` asks for; when that is "auto", as keep the devices busy.
    """
    devices, mode = len(devices_of(machine)), pack_mode_of(machine)
    if machine.pack != "auto":
        wanted = int(machine.pack)
    elif mode == "map":
        wanted = MAP_MEMBERS * devices
    else:
        wanted = max(1, round(devices * BUSY_FLOPS / _step_flops(spec)))
    fitting = FITTING[mode](spec, machine, -(-wanted // devices))
    return min(wanted, devices * max(1, fitting))


def _warning(groups: list[list[RunSpec]], most: int, machine: Machine) -> str:
    """What to say when packs are smaller than `machine.pack` asks for; "" when they are not."""
    if machine.pack in ("auto", "off") or max(map(len, groups)) == 1 or most >= int(machine.pack):
        return ""
    size = groups[0][0].model.size
    return (
        f"machine.pack={machine.pack}: so many runs of {size} do not fit the memory; {most} train "
        "at once"
    )


def _fitting_map(spec: RunSpec, machine: Machine, most: int) -> int:
    """Members whose states fit a device, up to `most`, where one at a time has activations."""
    platform = platform_of(machine)
    sharing = len(devices_of(machine)) if platform == "cpu" else 1  # of one memory
    budget = memory_model.FILL * memory_of(machine) / sharing
    length, floats = spec.data.seq_len, defaults_of(machine).micro_batch_floats
    rows = micro_batch_within(spec.model, spec.batch_size, length, floats) or spec.batch_size
    kept = defaults_of(machine).kept(layers_of(machine, spec))
    work = rows * memory_model.activations(spec, "none", kept) + memory_model.logits(spec, rows)
    state = LIVE * 4.0 * counting.count(spec.model, length).params_total
    return min(most, int((budget - work) / state))


def _fitting_vmap(spec: RunSpec, machine: Machine, most: int) -> int:
    """Members that fit a device, up to `most`, all in one step.

    As many as fit without recomputation; where not even one does, as many as fit with it.
    """
    rows = micro_batch.wanted(spec, machine, spec.batch_size)
    row = defaults_of(machine)
    floats = row.loss_floats
    layers, attention = layers_of(machine, spec), attention_of(machine, spec, mapped=True)

    kept = row.kept(layers)

    def needed(members: int, remat: str) -> float:
        forward = Execution(layers, attention=attention, loss_floats=-(-floats // members))
        return members * memory_model.step(spec, rows, remat, forward, kept)

    budget, sizes = memory_model.FILL * memory_of(machine), range(1, most + 1)
    for remat in ("none", "full"):
        fitting = bisect.bisect_right(sizes, budget, key=functools.partial(needed, remat=remat))
        if fitting:
            return fitting
    return 0


FITTING = {"map": _fitting_map, "vmap": _fitting_vmap}
