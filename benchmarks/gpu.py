"""Training steps on the card at hand beside those of torch.compile, interleaved in one process.

    # 57m and 100m at 2048 tokens, in bfloat16; about five minutes on an H100
    python benchmarks/gpu.py
    # SIZE:RUNS:BATCH:LENGTH:TOKENIZER, may be repeated; packs have no torch beside them
    python benchmarks/gpu.py --case 1b:1:32:2048:bpe:32768 --json
    # the same path in small, anywhere
    python benchmarks/gpu.py --tiny

Both sides have the same shapes, the same parameters and the same micro-batches. Ours is the step as
`run` executes it, the table's `stepladder bench` row; torch's is `torch.compile` of forward, loss
and backward with autocast, fused AdamW and clipping (benchmarks/torch_step.py). Rounds alternate;
the ratio is of the medians. Where torch is not installed, ours is timed alone.
"""

import importlib.util
import json
import os
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version

# two processes share the card: neither may claim it
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

from case_arguments import chosen, parser

from stepladder.train.bench.case import CASES, TINY, Case
from stepladder.train.bench.steps import Bench
from stepladder.train.bench.table import here, machine_here
from stepladder.train.hardware import chips, topology
from stepladder.train.hardware.machine import Machine, platform_of
from stepladder.train.step.program import dispatched

TORCH = version("torch") if importlib.util.find_spec("torch") else None  # no dependency of ours


def interleaved(
    contestants: dict[str, Callable[[], int]], rounds: int, seconds: float
) -> dict[str, list[float]]:
    """Seconds a step of each contestant in each round; a contestant takes steps, waits for them and
    returns how many they were.
    """
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for take in contestants.values():  # compiles, and warms up
        take()
    for i in range(rounds):
        for name in list(contestants)[:: 1 if i % 2 else -1]:
            began, steps = time.perf_counter(), 0
            while time.perf_counter() - began < seconds:
                steps += contestants[name]()
            times[name].append((time.perf_counter() - began) / steps)
    return times


def measure(case: Case, machine: Machine, rounds: int, seconds: float) -> dict:
    """One row of the table."""
    on_cpu = platform_of(machine) == "cpu"
    spec = case.spec("float32" if on_cpu else "bfloat16")
    ours = Bench(spec, case.runs, machine)
    ours.prepare()
    steps = dispatched(spec)

    def take() -> int:
        ours(1)
        return steps

    contestants: dict[str, Callable[[], int]] = {"jax": take}
    other = None
    if TORCH and case.runs == 1:
        from torch_step import TorchProcess

        other = TorchProcess(
            spec.model,
            spec.batch_size,
            spec.data.seq_len,
            "fused",
            os.cpu_count() or 1,
            device="cpu" if on_cpu else "cuda",
            compiled=True,
            micro_batches=spec.batch_size // ours.cost.micro_batch,
        )
        contestants["torch.compile"] = lambda: (other(steps), steps)[1]
    times = interleaved(contestants, rounds, seconds)
    if other:
        other.close()
    median = {name: statistics.median(found) for name, found in times.items()}
    peak = chips.peak_flops(ours.pack.mesh.devices.flat)
    return {
        "case": str(case),
        "micro_batch": ours.cost.micro_batch,
        "layers": ours.pack.execution.layers,
        "step_seconds": median,
        "spread": {name: max(found) / min(found) for name, found in times.items()},
        "tokens_per_second": {name: ours.cost.tokens / s for name, s in median.items()},
        "mfu": {name: ours.cost.counted / s / peak for name, s in median.items()} if peak else {},
        "ratio": median["torch.compile"] / median["jax"] if other else None,
    }


def row(found: dict) -> str:
    lines = [f"{found['case']}: micro-batches of {found['micro_batch']}, {found['layers']}"]
    for name, step in found["step_seconds"].items():
        mfu = f", MFU {found['mfu'][name]:.1%}" if found["mfu"] else ""
        lines.append(
            f"{name:14} {1e3 * step:9.2f} ms a step, {found['tokens_per_second'][name]:12,.0f} "
            f"tokens/s{mfu} (slowest round over fastest {found['spread'][name]:.2f})"
        )
    if found["ratio"] is not None:
        lines.append(f"ours is {found['ratio']:.2f} times as fast")
    return "\n    ".join(lines)


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument(
        "--seconds", type=float, default=3.0, help="of one contestant in a round"
    )
    args = arguments.parse_args()
    if args.tiny:
        args.rounds, args.seconds = 2, 0.05
    topology.hush()
    machine = machine_here()
    usual = [case for case in CASES["gpu"] if case.size in ("57m", "100m")]
    body = {**here(machine), "torch": TORCH, "rows": []}
    if not args.json:
        print(f"{body['device_kind']}, jax {body['jax']}, torch {TORCH or 'not installed'}")
    for case in chosen(args, usual, TINY):
        body["rows"].append(measure(case, machine, args.rounds, args.seconds))
        if not args.json:
            print(row(body["rows"][-1]), flush=True)
    if args.json:
        print(json.dumps(body, indent=1))


if __name__ == "__main__":
    main()
