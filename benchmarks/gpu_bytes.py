"""Bytes that training steps move through a card's memory, by the compiled program; no card needed.

    # a pack of 32 runs of 1M parameters, and 100M alone, on an H100; about a minute
    python benchmarks/gpu_bytes.py
    # SIZE:RUNS:BATCH:LENGTH:TOKENIZER, may be repeated; the 20 largest kinds of instruction each
    python benchmarks/gpu_bytes.py --topology=a100 --case 57m:1:32:2048:bpe:8192 --top 20
    python benchmarks/gpu_bytes.py --tiny --json

Instructions are counted together that have the same opcode and result: the layers of a model. No
kernel is tried without a card, so another may run there; elementwise passes, of which most bytes
are, do not depend on that.
"""

import argparse
import json
from collections import defaultdict
from typing import Any

import jax

from stepladder.train.bench.case import TINY, Case
from stepladder.train.checks import hbm_bytes, hlo
from stepladder.train.checks.memory import compiled
from stepladder.train.hardware import topology
from stepladder.train.hardware.machine import Machine
from stepladder.train.ladder import executables

CASES = Case("1m", 32, 32, 256, "bytes"), Case("100m", 1, 64, 2048, "bpe:32768")


def measure(case: Case, topo: str, layers: str, top: int) -> dict:
    machine = Machine(topology=topo, compilation_cache="off", layers=layers)
    with topology.compiling(topo):
        pack = executables.unshared_executable(case.spec("bfloat16"), machine, case.runs, 1)
        executable, used, _ = compiled(pack, machine)
    if executable is None:
        raise SystemExit(f"{case}: does not fit; it needs {used / 2**30:.1f} GiB")
    kinds: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0, 0.0])
    for moved in hbm_bytes.by_instruction(hlo.parse(executable.as_text())):
        i = moved.instruction
        results = " ".join(f"{a.dtype}[{','.join(map(str, a.shape))}]" for a in i.arrays)
        found = kinds[i.opcode, results]
        found[0] += moved.times
        found[1] += moved.bytes
    largest = sorted(kinds.items(), key=lambda kind: -kind[1][1])[:top]
    total = sum(size for _, size in kinds.values())
    return {
        "case": str(case),
        "topology": topo,
        "jax": jax.__version__,
        "layers": pack.execution.layers,
        "gib": total / 2**30,
        "bytes_a_token": total / (case.runs * case.batch * case.seq_len),
        "memory_gib": used / 2**30,
        "largest": [
            {"opcode": opcode, "result": result, "times": times, "gib": size / 2**30}
            for (opcode, result), (times, size) in largest
        ],
    }


def row(found: dict[str, Any]) -> str:
    lines = [
        f"{found['case']} on {found['topology']}, layers {found['layers']}: {found['gib']:.2f} GiB "
        f"a step, {found['bytes_a_token']:,.0f} bytes a token; {found['memory_gib']:.2f} GiB held"
    ]
    for kind in found["largest"]:
        lines.append(
            f"{kind['gib']:8.2f} GiB  {kind['times']:5.0f} x {kind['opcode']:12} "
            f"{kind['result'][:90]}"
        )
    return "\n    ".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--case", action="append", default=[], metavar="SIZE:RUNS:BATCH:LENGTH:TOKENIZER"
    )
    parser.add_argument("--topology", default="h100")
    parser.add_argument("--layers", default="auto", choices=("auto", "scan", "unroll"))
    parser.add_argument("--top", type=int, default=10, help="kinds of instruction to list")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    topology.hush()
    usual = TINY if args.tiny else CASES
    found = []
    for case in [Case.parse(text) for text in args.case] or usual:
        found.append(measure(case, args.topology, args.layers, args.top))
        if not args.json:
            print(row(found[-1]), flush=True)
    if args.json:
        print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
