"""Read the text of a compiled program: what runs how often in a step, collectives and kernels.

XLA's own cost analysis counts the body of a loop once. Here a loop counts as often as it turns: as
its `known_trip_count` says where the backend writes one (CPU, GPU), else by the constant that its
condition compares with (TPU). A loop whose end is not constant is the loop over the steps of a
dispatch. It counts once, so all numbers are of ONE step.

Decides nothing. `plan --topology` prints the collectives and the attention kernels, and its
estimate of time is made from them (checks/roofline.py).
"""

import functools
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

# Kind of collective -> bytes that a device of a group of g sends (and receives) for each byte of
# its operand, by the bandwidth-optimal algorithms.
SENT: dict[str, Callable[[int], float]] = {
    "all-gather": lambda g: g - 1,
    "reduce-scatter": lambda g: (g - 1) / g,
    "all-reduce": lambda g: 2 * (g - 1) / g,
    "all-to-all": lambda g: (g - 1) / g,
    "collective-permute": lambda g: 1,
    "collective-broadcast": lambda g: 1,
}
# Targets of custom calls that are Pallas kernels.
PALLAS = "tpu_custom_call", "mosaic_gpu", "mosaic_gpu_v2", "__gpu$xla.gpu.triton"
ATTENTION = re.compile(r"splash|flash|attention|fmha", re.I)  # names of attention kernels
_HEADER = re.compile(r"^(ENTRY )?%([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^  (ROOT )?%([\w.\-]+) = (.*)$")
_OPCODE = re.compile(r" ([a-z][\w\-]*)\(")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")
# Opcodes that a scalar passes through unchanged.
_FLAT = "bitcast", "bitcast-convert", "copy", "convert", "reshape"


@dataclass(frozen=True)
class Array:
    """One array of an instruction's result."""

    dtype: str
    shape: tuple[int, ...]
    near: bool  # in a memory beside the main one (VMEM, scalar memory): `S(n)` in its layout

    @property
    def bytes(self) -> float:
        bits = re.search(r"\d+", self.dtype)  # f32, bf16, f8e4m3fn, s4
        if bits:
            return math.prod(self.shape) * int(bits[0]) / 8
        return float(math.prod(self.shape)) if self.dtype == "pred" else 0.0  # a token has none


@dataclass(frozen=True)
class Instruction:
    """One line of the text."""

    name: str
    opcode: str
    result: str  # its type, as text
    inside: str  # the text between the parentheses: operands, or a constant
    attributes: str  # the text behind the parentheses

    @functools.cached_property
    def operands(self) -> list[str]:
        """Names of the instructions whose results it takes."""
        return re.findall(r"%([\w.\-]+)", self.inside)

    @functools.cached_property
    def arrays(self) -> list[Array]:
        """The arrays of the result, tuples flattened."""
        return [
            Array(dtype, tuple(int(n) for n in shape.split(",") if n), "S(" in layout)
            for dtype, shape, layout in _ARRAY.findall(self.result)
        ]

    def called(self, attribute: str) -> str:
        """Name of the computation that an attribute like "body" calls; "" where there is none."""
        found = re.search(rf"\b{attribute}=%([\w.\-]+)", self.attributes)
        return found[1] if found else ""


@dataclass
class Computation:
    """Instructions that run together: the entry, a loop's body, a fusion."""

    name: str
    instructions: dict[str, Instruction] = field(default_factory=dict)
    root: str = ""  # the instruction whose result is returned


@dataclass
class Module:
    """A parsed program."""

    computations: dict[str, Computation]
    entry: str
    devices: int
    times: Counter[str]  # computation -> how often it runs in a step


@dataclass(frozen=True)
class Collective:
    """One collective of a program."""

    kind: str  # key of SENT
    bytes: float  # that a device sends each time
    dtype: str
    size: int  # devices (or slices) in a group
    groups: tuple[tuple[int, ...], ...]  # partitions that exchange; () between slices
    times: int  # that it runs in a step
    network: str  # ici: within a slice or host; dcn: between slices
    operands: tuple[tuple[int, ...], ...]  # their shapes


def parse(text: str) -> Module:
    """Parse the text of a compiled program (`executable.as_text()`)."""
    computations: dict[str, Computation] = {}
    entry, last = "", None
    for line in text.splitlines():
        if header := _HEADER.match(line):
            last = computations[header[2]] = Computation(header[2])
            entry = header[2] if header[1] else entry
        elif last and (found := _INSTRUCTION.match(line)):
            instruction = _instruction(found[2], found[3])
            last.instructions[found[2]] = instruction
            last.root = found[2] if found[1] else last.root
    header = text.split("\n", 1)[0]
    counts = re.findall(r"\b(?:num_partitions|replica_count)=(\d+)", header)
    module = Module(computations, entry, math.prod(map(int, counts)), Counter())
    _visit(module, entry, 1, ())
    return module


def _search(pattern: str | re.Pattern, text: str) -> re.Match:
    """The first match in the text of an instruction, which must have one."""
    found = re.search(pattern, text)
    if not found:
        raise ValueError(
            f"the text of a compiled program has a form that is not known: {text[:200]!r}; "
            "train/checks/hlo.py reads what the versions of jax in constraints/ write"
        )
    return found


def _instruction(name: str, text: str) -> Instruction:
    opcode = _search(_OPCODE, text)
    depth, end = 1, opcode.end()  # `opcode` ends with a parenthesis; at `end` it is closed
    while depth:
        depth += {"(": 1, ")": -1}.get(text[end], 0)
        end += 1
    return Instruction(
        name, opcode[1], text[: opcode.start()], text[opcode.end() : end - 1], text[end:]
    )


def _visit(module: Module, name: str, times: int, loops: tuple) -> None:
    """Add `times` to the count of a computation and of those that it calls.

    loops: the loops around it, outermost first: (computation, its while instruction).
    """
    module.times[name] += times
    here = module.computations[name]
    for instruction in here.instructions.values():
        if instruction.opcode == "while":
            inner = (*loops, (here, instruction))
            trips = _trips(module, instruction, inner)
            _visit(module, instruction.called("body"), times * trips, inner)
        elif instruction.opcode in ("fusion", "async-start"):
            _visit(module, instruction.called("calls"), times, loops)
        elif instruction.opcode == "call":
            _visit(module, instruction.called("to_apply"), times, loops)
        elif instruction.opcode == "conditional":
            # All branches count, although one runs: our programs have no collective in any.
            for branch in re.findall(
                r"(?:branch_computations=\{|(?:true|false)_computation=)([^}]*?)[},]",
                instruction.attributes + ",",
            ):
                for child in re.findall(r"%([\w.\-]+)", branch):
                    _visit(module, child, times, loops)


def _trips(module: Module, loop: Instruction, loops: tuple) -> int:
    """How often a loop turns; 1 where that is not constant."""
    known = re.search(r'known_trip_count"?:\{"n":"(\d+)"', loop.attributes)
    if known:
        return int(known[1])
    condition = module.computations[loop.called("condition")]
    test, names = condition.instructions[condition.root], []
    if test.opcode == "fusion":
        inside = module.computations[test.called("calls")]
        test, outer = inside.instructions[inside.root], test.operands
        for name in test.operands:
            operand = inside.instructions[name]
            names.append(outer[int(operand.inside)] if operand.opcode == "parameter" else operand)
    values = [_value(condition, name, loops) for name in names or test.operands]
    if test.opcode != "compare" or len(values) != 2:
        return 1
    start, end = values
    if start is None or end is None:
        return 1
    inclusive = "direction=LE" in test.attributes or "direction=GE" in test.attributes
    return abs(end - start) + inclusive


def _value(here: Computation, name: str | Instruction, loops: tuple) -> int | None:
    """A constant scalar, or the value with which a loop's counter starts; None for any other."""
    instruction = here.instructions[name] if isinstance(name, str) else name
    if instruction.opcode == "constant":
        return int(instruction.inside) if re.fullmatch(r"-?\d+", instruction.inside) else None
    if instruction.opcode in _FLAT:
        return _value(here, instruction.operands[0], loops)
    if (
        instruction.opcode == "get-tuple-element"
        and here.instructions[instruction.operands[0]].opcode == "parameter"
        and loops
    ):
        outer, loop = loops[-1]
        start = outer.instructions[loop.operands[0]]
        index = int(_search(r"index=(\d+)", instruction.attributes)[1])
        return _value(outer, start.operands[index], loops[:-1]) if start.opcode == "tuple" else None
    return None


def collectives(module: Module) -> list[Collective]:
    """Every collective of a step.

    Synchronous ones, those that are a pair of start and done, those in fusions (also in the fused
    forms of a TPU), and those between slices.
    """
    found = []
    for name, times in module.times.items():
        here = module.computations[name]
        for instruction in here.instructions.values():
            made = _between_slices(here, instruction, times)
            made = made or _within(module, here, instruction, times)
            if made:
                found.append(made)
    return found


def _within(
    module: Module, here: Computation, instruction: Instruction, times: int
) -> Collective | None:
    """The collective that an instruction is, within a slice or host; None where it is none."""
    kind = instruction.opcode.removesuffix("-start")
    if kind not in SENT:
        return None
    # A TPU program names an asynchronous collective where it starts, and again in every fusion that
    # computes meanwhile.
    if (
        '"async_collective_fusion_config"' in instruction.attributes
        and "AsyncCollectiveStart" not in here.instructions[here.root].attributes
    ):
        return None
    if kind == "all-reduce" and here.name.startswith("all-reduce-scatter"):
        kind = "reduce-scatter"
    groups = replica_groups(instruction.attributes, module.devices)
    if kind == "collective-permute":
        found = _search(r"source_target_pairs=\{\{(.*?)\}\}", instruction.attributes)
        pairs = found[1].split("},{")
        groups = tuple(tuple(int(n) for n in pair.split(",")) for pair in pairs)
    size = len(groups[0])
    return _collective(kind, here, instruction, size, groups, times, "ici")


def _between_slices(here: Computation, instruction: Instruction, times: int) -> Collective | None:
    """The collective between slices that an instruction is; None where it is none.

    A TPU program hands its host what goes to other slices, by a send whose attributes name the
    collective.
    """
    transfer = re.search(r'_xla_megascale_transfer_type="(\w+)"', instruction.attributes)
    if instruction.opcode != "send" or not transfer:
        return None
    slices = _search(r'_xla_megascale_target="\{([^}]*)\}', instruction.attributes)
    ends = [[int(n) for n in part.split(":")] for part in slices[1].split(",")]
    size = sum(part[-1] - part[0] + 1 for part in ends)
    kind = transfer[1].lower().replace("_", "-")
    kind = "collective-permute" if kind == "one-to-one" else kind
    return _collective(kind, here, instruction, size, (), times, "dcn")


def _collective(
    kind: str,
    here: Computation,
    instruction: Instruction,
    size: int,
    groups: tuple,
    times: int,
    network: str,
) -> Collective | None:
    if size <= 1:
        return None
    arrays = [a for name in instruction.operands for a in here.instructions[name].arrays]
    operands = [a for a in arrays if a.dtype != "token"]
    return Collective(
        kind=kind,
        bytes=SENT[kind](size) * sum(a.bytes for a in operands),
        dtype="+".join(dict.fromkeys(a.dtype for a in operands)),
        size=size,
        groups=groups,
        times=times,
        network=network,
        operands=tuple(a.shape for a in operands),
    )


def replica_groups(attributes: str, devices: int) -> tuple[tuple[int, ...], ...]:
    """The groups of devices of a collective, from any of the forms that XLA writes.

    They are {{0,1},{2,3}}, [2,2]<=[4], [2,4]<=[4,2]T(1,0) and mesh['a'=2,'b'=2] {'b'}.
    """
    if literal := re.search(r"replica_groups=\{\{(.*?)\}\}", attributes):
        return tuple(tuple(int(n) for n in group.split(",")) for group in literal[1].split("},{"))
    if iota := re.search(r"replica_groups=\[([\d,]+)\]<=(\[[\d,]+\](?:T\([\d,]+\))?)", attributes):
        return _rows(_iota(iota[2]).reshape(_numbers(iota[1])))
    if mesh := re.search(
        r"replica_groups=mesh\[(.*?)\](?:, device_ids=\((.*?\]?(?:T\([\d,]+\))?)\))? \{(.*?)\}",
        attributes,
    ):
        sizes = {axis: int(size) for axis, size in re.findall(r"'([^']+)'=(\d+)", mesh[1])}
        ids = _iota(mesh[2]) if mesh[2] else np.arange(math.prod(sizes.values()))
        return _rows(_along(ids.reshape(tuple(sizes.values())), list(sizes), mesh[3]))
    return (tuple(range(devices)),)


def _along(ids: np.ndarray, axes: list[str], named: str) -> np.ndarray:
    """Device ids of a mesh as (group, member): members lie along the `named` axes.

    A name is that of an axis, 'b', or of a part of one, 'b':(2)4.
    """
    split = defaultdict(list)
    for axis, before, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", named):
        split[axis].append((int(before or 1), int(size or ids.shape[axes.index(axis)])))
    shape, members = [], []
    for axis, length in zip(axes, ids.shape):
        for before, size in split.get(axis, [(1, 1)])[:1]:
            members += [len(shape) + 1] if axis in split else []
            shape += [before, size, length // before // size]
    moved = np.moveaxis(ids.reshape(shape), members, range(-len(members), 0))
    return moved.reshape(-1, math.prod(shape[m] for m in members))


def _iota(text: str) -> np.ndarray:
    dims, _, order = text.partition("T")
    ids = np.arange(math.prod(_numbers(dims))).reshape(_numbers(dims))
    return ids.transpose(_numbers(order)) if order else ids


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", text))


def _rows(ids: np.ndarray) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(int(n) for n in row) for row in ids)


def kernels(module: Module) -> Counter[str]:
    """Custom kernel -> how often a step calls it.

    A Pallas kernel goes by its own name, any other by the target of the call
    (`__cudnn$fmhaSoftmax`).
    """
    found: Counter[str] = Counter()
    for name, times in module.times.items():
        for instruction in module.computations[name].instructions.values():
            target = re.search(r'custom_call_target="([^"]+)"', instruction.attributes)
            if instruction.opcode != "custom-call" or not target:
                continue
            if target[1] in PALLAS:
                found[re.sub(r"\.\d+$", "", instruction.name)] += times
            elif target[1].startswith("__"):
                found[target[1]] += times
    return found


def scatters_that_combine(module: Module) -> Counter[str]:
    """Scatter -> how often a step runs it, of those in which several updates may meet in one place:
    on a GPU they do in whatever order the threads arrive, with other bits every time.
    """
    found: Counter[str] = Counter()
    for name, times in module.times.items():
        for instruction in module.computations[name].instructions.values():
            if instruction.opcode != "scatter" or "unique_indices=true" in instruction.attributes:
                continue
            combine = module.computations[instruction.called("to_apply")]
            if combine.instructions[combine.root].opcode != "parameter":
                found[instruction.name] += times
    return found
