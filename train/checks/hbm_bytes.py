"""Bytes that a step moves between a device's main memory and its cores, by the compiled program.

Every instruction that runs reads its operands and writes its result, as often as its loops turn.
What stays inside a fusion, and what lies in near memory (VMEM), moves nothing. A slice reads only
the part that it takes, and an update in place writes only what it replaces. It is an estimate: a
kernel may read an operand twice, or find it in a cache.

Decides nothing. It is the memory term of the estimate of time that `plan --topology` prints
(checks/roofline.py).
"""

from collections.abc import Iterator
from typing import NamedTuple

from stepladder.train.checks.hlo import Computation, Instruction, Module

# Opcodes that move nothing themselves: names for values, and second halves of pairs.
_FREE = frozenset(
    (
        "parameter constant tuple get-tuple-element bitcast while conditional call after-all iota "
        "partition-id replica-id copy-done slice-done async-done async-update all-gather-done "
        "all-reduce-done collective-permute-done send-done recv-done opt-barrier "
        "custom-call:AllocateBuffer custom-call:ConcatBitcast"
    ).split()
)
_TAKES = ("dynamic-slice", "slice", "gather")  # opcodes that read a part of their operand


class Moved(NamedTuple):
    """An instruction of a compiled step, and what it moves."""

    instruction: Instruction
    times: int  # a step
    bytes: float  # a step, all times together


def bytes_accessed(module: Module) -> float:
    """Bytes that a device reads and writes in its main memory in one step."""
    return sum(moved.bytes for moved in by_instruction(module))


def by_instruction(module: Module) -> Iterator[Moved]:
    """The instructions that run, each with the bytes that it reads and writes."""
    fused = {
        i.called("calls")
        for c in module.computations.values()
        for i in c.instructions.values()
        if i.opcode == "fusion"
    }
    for name, times in module.times.items():
        if name in fused:
            continue
        here = module.computations[name]
        for instruction in here.instructions.values():
            if found := _moved(module, here, instruction):
                yield Moved(instruction, times, times * found)


def _moved(module: Module, here: Computation, instruction: Instruction) -> float:
    opcode = instruction.opcode
    if opcode == "custom-call":
        opcode += (
            ":" + instruction.attributes.partition('custom_call_target="')[2].partition('"')[0]
        )
    if opcode in _FREE:
        return 0.0
    if opcode in _TAKES:
        return 2 * _far(instruction)
    if opcode == "slice-start":  # its result names the whole operand beside the piece
        return instruction.arrays[-2].bytes if len(instruction.arrays) > 1 else 0.0
    if opcode == "dynamic-update-slice":
        return 2 * _far(here.instructions[instruction.operands[1]])
    if opcode == "fusion":
        return _fusion(here, instruction, module.computations[instruction.called("calls")])
    result = _far(instruction)
    if opcode == "copy-start":  # its result names the operand beside the copy
        copy = instruction.arrays[0]
        result = 0.0 if copy.near else copy.bytes
    return result + sum(_far(here.instructions[name]) for name in instruction.operands)


def _fusion(here: Computation, instruction: Instruction, inside: Computation) -> float:
    """Bytes that a fusion reads of its operands and writes of its results."""
    users: dict[str, list[Instruction]] = {}
    for inner in inside.instructions.values():
        for name in inner.operands:
            users.setdefault(name, []).append(inner)
    total = 0.0
    for inner in inside.instructions.values():
        if inner.opcode == "parameter" and int(inner.inside) < len(instruction.operands):
            operand = here.instructions[instruction.operands[int(inner.inside)]]
            total += min(_far(operand), _read(inner, users))
    root = inside.instructions[inside.root]
    results = (
        [inside.instructions[name] for name in root.operands] if root.opcode == "tuple" else [root]
    )
    near = [a.near for a in instruction.arrays]
    for result, beside in zip(results, near):
        total += 0.0 if beside else _written(inside, result)
    return total


def _read(parameter: Instruction, users: dict[str, list[Instruction]]) -> float:
    """Bytes that a fusion reads of one of its parameters."""
    total = 0.0
    for user in users.get(parameter.name, []):
        if user.opcode == "bitcast":
            total += _read(user, users)
        elif user.opcode in _TAKES:
            total += sum(a.bytes for a in user.arrays)
        elif user.opcode == "tuple" or (
            user.opcode == "dynamic-update-slice" and user.operands[0] == parameter.name
        ):
            continue  # it is passed on, or updated in place
        else:
            return sum(a.bytes for a in parameter.arrays)
    return total


def _written(inside: Computation, result: Instruction) -> float:
    """Bytes that a fusion writes of one of its results."""
    while result.opcode == "bitcast":
        result = inside.instructions[result.operands[0]]
    if result.opcode == "parameter":
        return 0.0
    if result.opcode == "dynamic-update-slice":
        result = inside.instructions[result.operands[1]]
    return sum(a.bytes for a in result.arrays)


def _far(instruction: Instruction) -> float:
    """Bytes of an instruction's result that lie in main memory."""
    return sum(a.bytes for a in instruction.arrays if not a.near)
