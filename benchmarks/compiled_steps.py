"""Training steps compiled for a device: bytes moved, memory held, time by its data sheet.

No device is needed.

    # a pack of 32 runs of 1M parameters, and 100M alone, for an H100; about a minute
    python benchmarks/compiled_steps.py
    # SIZE:RUNS:BATCH:LENGTH:TOKENIZER, may be repeated; the 20 largest kinds of instruction each
    python benchmarks/compiled_steps.py --topology=a100 --case 57m:1:32:2048:bpe:8192 --top 20
    # layers as a loop, and one after another
    python benchmarks/compiled_steps.py --topology=v5e:2x2 --layers scan unroll
    python benchmarks/compiled_steps.py --tiny --json

Beside the memory that the compiler reports stands the estimate of train/hardware/memory_model.py.
Instructions are counted together that have the same opcode and result: the layers of a model. No
kernel is tried without a card, so another may run there; elementwise passes, of which most bytes
are, do not depend on that.
"""

import json
from collections import defaultdict
from typing import Any

import jax
from case_arguments import chosen, parser

from stepladder.train.bench.case import TINY, Case
from stepladder.train.checks import hbm_bytes, hlo
from stepladder.train.hardware import memory_model, topology
from stepladder.train.hardware.machine import Machine, defaults_of
from stepladder.train.ladder import executables

CASES = Case("1m", 32, 32, 256, "bytes"), Case("100m", 1, 64, 2048, "bpe:32768")
LAYERS = ("auto", "scan", "unroll")


def measure(case: Case, topo: str, layers: str, top: int) -> dict:
    """One compiled step, as JSON."""
    machine = Machine(topology=topo, compilation_cache="off", layers=layers)
    with topology.compiling(topo):
        pack = executables.unshared_executable(case.spec("bfloat16"), machine, case.runs, 1)
        found = executables.compile_one(pack, machine, case.runs)
        moved = instructions(pack.compile().as_text()) if found.fits else []
    mesh, total = found.mesh, sum(kind["gib"] for kind in moved)
    estimate = memory_model.step(
        found.spec,
        found.micro_batch,
        found.remat,
        pack.execution,
        defaults_of(machine).kept(pack.execution.layers, mesh["fsdp"]),
        mesh["fsdp"],
        mesh["tensor"],
    )
    return {
        "case": str(case),
        "topology": topo,
        "jax": jax.__version__,
        "layers": pack.execution.layers,
        "mesh": {axis: size for axis, size in mesh.items() if size > 1},
        "micro_batch": found.micro_batch,
        "remat": found.remat,
        "fits": found.fits,
        "memory_gib": found.bytes / 2**30,
        "estimated_gib": estimate * max(1, case.runs // mesh["run"]) / 2**30,
        "compile_seconds": found.seconds,
        "gib": total,
        "bytes_a_token": total * 2**30 * found.devices / found.tokens,
        "in_turn_ms": 1e3 * found.roofline.in_turn if found.roofline else None,
        "largest": moved[:top],
    }


def instructions(text: str) -> list[dict]:
    """Kinds of instruction of a compiled program by the bytes they move, the largest first."""
    kinds: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0, 0.0])
    for moved in hbm_bytes.by_instruction(hlo.parse(text)):
        i = moved.instruction
        results = " ".join(f"{a.dtype}[{','.join(map(str, a.shape))}]" for a in i.arrays)
        found = kinds[i.opcode, results]
        found[0] += moved.times
        found[1] += moved.bytes
    largest = sorted(kinds.items(), key=lambda kind: -kind[1][1])
    return [
        {"opcode": opcode, "result": result, "times": times, "gib": size / 2**30}
        for (opcode, result), (times, size) in largest
    ]


def row(found: dict[str, Any]) -> str:
    """A headline, and a line for each of the largest kinds of instruction."""
    mesh = " x ".join(f"{axis} {size}" for axis, size in found["mesh"].items()) or "one device"
    said = (
        f"{found['case']} on {found['topology']} ({mesh}), layers {found['layers']}, micro-batches "
        f"of {found['micro_batch']}, remat {found['remat']}: {found['memory_gib']:.2f} GiB held "
        f"(estimated {found['estimated_gib']:.2f}), compiled in {found['compile_seconds']:.0f} s"
    )
    if not found["fits"]:
        return f"{said}: DOES NOT FIT"
    moved = f"{found['gib']:.2f} GiB a step moved, {found['bytes_a_token']:,.0f} bytes a token"
    time = f"; {found['in_turn_ms']:.4g} ms by the data sheet" if found["in_turn_ms"] else ""
    lines = [said, f"{moved}{time}"]
    for kind in found["largest"]:
        lines.append(
            f"{kind['gib']:8.2f} GiB  {kind['times']:5.0f} x {kind['opcode']:12} "
            f"{kind['result'][:90]}"
        )
    return "\n    ".join(lines)


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--topology", default="h100")
    arguments.add_argument("--layers", nargs="+", default=["auto"], choices=LAYERS)
    arguments.add_argument("--top", type=int, default=10, help="kinds of instruction to list")
    args = arguments.parse_args()
    topology.hush()
    found = []
    for case in chosen(args, CASES, TINY):
        for layers in args.layers:
            found.append(measure(case, args.topology, layers, args.top))
            if not args.json:
                print(row(found[-1]), flush=True)
    if args.json:
        print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
