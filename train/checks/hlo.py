"""A compiled program's text, read: what runs how often a step, which collectives move how many
bytes, which kernels are called.

XLA's own cost analysis counts a loop's body once. Here a loop counts as often as it turns:
`known_trip_count` where the backend writes it (CPU, GPU), else its condition's comparison with a
constant (TPU). A loop whose end is not constant is the loop over the steps of a dispatch: it counts
once, so all numbers are of ONE step.
"""

import functools
import math
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field

import numpy as np

# Bytes that a device sends (and receives) over the wire for an operand of one byte in a group of g,
# by the bandwidth-optimal algorithms.
WIRE = {
    "all-gather": lambda g: g - 1,
    "reduce-scatter": lambda g: (g - 1) / g,
    "all-reduce": lambda g: 2 * (g - 1) / g,
    "all-to-all": lambda g: (g - 1) / g,
    "collective-permute": lambda g: 1,
    "collective-broadcast": lambda g: 1,
}
# targets of custom calls
PALLAS = "tpu_custom_call", "mosaic_gpu", "mosaic_gpu_v2", "__gpu$xla.gpu.triton"
ATTENTION = re.compile(r"splash|flash|attention|fmha", re.I)  # in the name of a kernel: it attends
_HEADER = re.compile(r"^(ENTRY )?%([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^  (ROOT )?%([\w.\-]+) = (.*)$")
_OPCODE = re.compile(r" ([a-z][\w\-]*)\(")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")
# what a scalar passes through unchanged
_FLAT = "bitcast", "bitcast-convert", "copy", "convert", "reshape"


@dataclass(frozen=True)
class Array:
    """One array of an instruction's result.

    near: in a memory beside the device's main one (VMEM, scalar memory), `S(n)` in its layout.
    """

    dtype: str
    shape: tuple[int, ...]
    near: bool

    @property
    def bytes(self) -> float:
        # f32, bf16, f8e4m3fn, s4; pred is a byte; a token has none
        bits = re.search(r"\d+", self.dtype)
        return math.prod(self.shape) * (int(bits[0]) / 8 if bits else 1.0 * (self.dtype == "pred"))


@dataclass(frozen=True)
class Instruction:
    name: str
    opcode: str
    result: str  # its type, as text
    inside: str  # what stands in the parentheses
    attributes: str

    @functools.cached_property
    def operands(self) -> list[str]:
        return re.findall(r"%([\w.\-]+)", self.inside)

    @functools.cached_property
    def arrays(self) -> list[Array]:
        """Arrays of the result, tuples flattened."""
        return [
            Array(dtype, tuple(int(n) for n in shape.split(",") if n), "S(" in layout)
            for dtype, shape, layout in _ARRAY.findall(self.result)
        ]

    def called(self, attribute: str) -> str:
        found = re.search(rf"\b{attribute}=%([\w.\-]+)", self.attributes)
        return found[1] if found else ""


@dataclass
class Computation:
    name: str
    instructions: dict[str, Instruction] = field(default_factory=dict)
    root: str = ""


@dataclass
class Module:
    """A parsed program. times: computation -> how often it runs in a step."""

    computations: dict[str, Computation]
    entry: str
    devices: int
    times: Counter


@dataclass(frozen=True)
class Collective:
    """One collective.

    bytes: what a device sends over the wire each time (`WIRE`); groups: partitions that talk, ()
    over slices.
    """

    kind: str
    bytes: float
    dtype: str
    size: int  # devices (or slices) in a group
    groups: tuple[tuple[int, ...], ...]
    times: int  # a step
    network: str  # "ici": within a slice or host; "dcn": between slices
    operands: tuple[tuple[int, ...], ...]  # shapes


def parse(text: str) -> Module:
    """Read `executable.as_text()`."""
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
    counts = [
        int(n)
        for n in re.findall(r"\b(?:num_partitions|replica_count)=(\d+)", text.split("\n", 1)[0])
    ]
    module = Module(computations, entry, math.prod(counts), Counter())
    _visit(module, entry, 1, ())
    return module


def _instruction(name: str, text: str) -> Instruction:
    opcode = _OPCODE.search(text)
    depth, end = 1, opcode.end()
    while depth:
        depth += {"(": 1, ")": -1}.get(text[end], 0)
        end += 1
    return Instruction(
        name, opcode[1], text[: opcode.start()], text[opcode.end() : end - 1], text[end:]
    )


def _visit(module: Module, name: str, times: int, loops: tuple) -> None:
    """Add `times` to a computation and to what it calls.

    loops: the (computation, while) around it, outermost first.
    """
    module.times[name] += times
    here = module.computations[name]
    for instruction in here.instructions.values():
        if instruction.opcode == "while":
            inner = (*loops, (here, instruction))
            _visit(
                module,
                instruction.called("body"),
                times * _trips(module, instruction, inner),
                inner,
            )
        elif instruction.opcode in ("fusion", "async-start"):
            _visit(module, instruction.called("calls"), times, loops)
        elif instruction.opcode == "call":
            _visit(module, instruction.called("to_apply"), times, loops)
        elif instruction.opcode == "conditional":
            # every branch: our programs have no collective in one
            for branch in re.findall(
                r"(?:branch_computations=\{|(?:true|false)_computation=)([^}]*?)[},]",
                instruction.attributes + ",",
            ):
                for child in re.findall(r"%([\w.\-]+)", branch):
                    _visit(module, child, times, loops)


def _trips(module: Module, loop: Instruction, loops: tuple) -> int:
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
    if test.opcode != "compare" or len(values) != 2 or None in values:
        return 1
    return max(
        0,
        abs(values[1] - values[0])
        + ("direction=LE" in test.attributes or "direction=GE" in test.attributes),
    )


def _value(here: Computation, name: str | Instruction, loops: tuple) -> int | None:
    """A scalar that does not change, or a loop's counter as it begins; None when it is no
    constant.
    """
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
        index = int(re.search(r"index=(\d+)", instruction.attributes)[1])
        return _value(outer, start.operands[index], loops[:-1]) if start.opcode == "tuple" else None
    return None


def collectives(module: Module) -> list[Collective]:
    """Every collective of a step: synchronous, a -start of a pair, in a fusion, in TPU's fused
    forms, and between slices (DCN).
    """
    found = []
    for name, times in module.times.items():
        here = module.computations[name]
        for instruction in here.instructions.values():
            made = _between_slices(here, instruction, times) or _within(
                module, here, instruction, times
            )
            found += [made] if made else []
    return found


def _within(
    module: Module, here: Computation, instruction: Instruction, times: int
) -> Collective | None:
    kind = instruction.opcode.removesuffix("-start")
    if kind not in WIRE:
        return None
    # TPU writes an asynchronous collective once where it starts and again in every fusion that
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
        pairs = re.search(r"source_target_pairs=\{\{(.*?)\}\}", instruction.attributes)
        groups = tuple(tuple(int(n) for n in pair.split(",")) for pair in pairs[1].split("},{"))
    size = len(groups[0])
    return _collective(kind, here, instruction, size, groups, times, "ici")


def _between_slices(here: Computation, instruction: Instruction, times: int) -> Collective | None:
    """The TPU program hands what goes to other slices to its host: a send whose attributes name the
    collective.
    """
    kind = (
        re.search(r'_xla_megascale_transfer_type="(\w+)"', instruction.attributes)
        if instruction.opcode == "send"
        else None
    )
    if not kind:
        return None
    slices = re.search(r'_xla_megascale_target="\{([^}]*)\}', instruction.attributes)
    ends = [[int(n) for n in part.split(":")] for part in slices[1].split(",")]
    size = sum(part[-1] - part[0] + 1 for part in ends)
    kind = {"ONE_TO_ONE": "collective-permute"}.get(kind[1], kind[1].lower().replace("_", "-"))
    return _collective(kind, here, instruction, size, (), times, "dcn")


def _collective(
    kind,
    here: Computation,
    instruction: Instruction,
    size: int,
    groups: tuple,
    times: int,
    network: str,
) -> Collective | None:
    operands = [
        a
        for name in instruction.operands
        for a in here.instructions[name].arrays
        if a.dtype != "token"
    ]
    wire = WIRE[kind](size) * sum(a.bytes for a in operands)
    dtype = "+".join(dict.fromkeys(a.dtype for a in operands))
    shapes = tuple(a.shape for a in operands)
    return Collective(kind, wire, dtype, size, groups, times, network, shapes) if size > 1 else None


def replica_groups(attributes: str, devices: int) -> tuple[tuple[int, ...], ...]:
    """The groups of a collective, from any of the forms XLA writes: {{0,1},{2,3}}, [2,2]<=[4],
    [2,4]<=[4,2]T(1,0), mesh['a'=2,'b'=2] {'b'}.
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
    """Device ids of a mesh as (group, member), the members along the `named` axes: 'b', or a part
    of one, 'b':(2)4.
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


def kernels(module: Module) -> Counter:
    """Custom kernels and how often a step calls them: Pallas kernels by their names, else the
    call's target (`__cudnn$fmhaSoftmax`).
    """
    found: Counter = Counter()
    for name, times in module.times.items():
        for instruction in module.computations[name].instructions.values():
            target = (
                re.search(r'custom_call_target="([^"]+)"', instruction.attributes)
                if instruction.opcode == "custom-call"
                else None
            )
            if target and target[1] in PALLAS:
                found[re.sub(r"\.\d+$", "", instruction.name)] += times
            elif target and target[1].startswith("__"):
                found[target[1]] += times
    return found
