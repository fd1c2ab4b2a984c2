"""MFU of a 100M and a 1B model in bfloat16 at sequence length 2048 on the accelerator at hand,
through the program and loop of `run`.

    # a table, about ten minutes on one GPU
    python benchmarks/gpu_mfu.py
    # SIZE:BATCH:MICRO-BATCHES:REMAT, may be repeated; 0 and auto: what fits
    python benchmarks/gpu_mfu.py --case 1b:32:4:none
    # the same path in small, anywhere
    python benchmarks/gpu_mfu.py --tiny --json

MFU is counted FLOPs (causal attention halved, recomputation not counted) over the dense bfloat16
peak of train/hardware/defaults.py; on CPU over what a float32 GEMM reaches. The same steps run
twice, once with a checkpoint after each third of them: what the loop takes longer is what the saves
cost (it stands still for the copy, and shares the machine with the writing), and --every seconds
between them make it a share of wall time.
"""

import argparse
import functools
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from stepladder.configs import base
from stepladder.configs.core import record
from stepladder.configs.core.build import rung
from stepladder.configs.core.spec import RunSpec
from stepladder.model.gradient import loss_and_gradient
from stepladder.train.data.read.corpora import stores
from stepladder.train.data.read.store import Store
from stepladder.train.hardware import chips, topology
from stepladder.train.hardware.machine import Machine, start_jax
from stepladder.train.ladder import executables
from stepladder.train.loop.run import run
from stepladder.train.step.program import Program
from stepladder.train.step.step import traced_hypers

CASES = ("100m:64:0:auto", "1b:32:0:auto")
WINDOWS = 3


def spec_of(
    size: str, batch: int, seq_len: int, tokenizer: str, steps: int, save_every: int
) -> RunSpec:
    c = base.get_config()
    c.name, c.model.size, c.model.compute_dtype = f"mfu-{size}", size, "bfloat16"
    c.data.domains, c.data.seq_len, c.data.tokenizer, c.data.max_epochs = (
        ("python_numeric", "docstrings"),
        seq_len,
        tokenizer,
        1e9,
    )
    c.data.max_mb_per_domain, c.data.dedup = (
        (0.3, "none") if tokenizer == "bytes" else (8.0, "none")
    )
    c.run.duration, c.run.batch_size, c.run.eval_windows, c.run.evals = (
        f"{steps} steps",
        batch,
        2,
        (),
    )
    c.run.checkpoints = (
        tuple(f"{at} steps" for at in range(save_every, steps, save_every)) if save_every else ()
    )
    c.schedule.warmup = "2 steps"
    return rung(c)


def seconds_of(call: Callable, repeats: int = 3) -> float:
    """The fastest of a few calls, the first left out."""
    jax.block_until_ready(call())
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - began)
    return min(times)


def parts_of(spec: RunSpec, machine: Machine, step: float) -> dict[str, float]:
    """Seconds of a step: forward (as in evaluation), backward, and what is left: optimizer,
    gradient norm, metrics.
    """
    own = Program(spec, machine)
    params = own.init(own.put(traced_hypers(spec)))["params"]
    windows = own.put_windows(np.zeros((1, own.eval_batch, spec.data.seq_len + 1), np.int32))
    forward = (
        seconds_of(lambda: own.compile_window_losses(1)(params, windows))
        * spec.batch_size
        / own.eval_batch
    )
    tokens = own.put_windows(np.zeros((1, spec.batch_size, spec.data.seq_len + 1), np.int32))[0]
    gradient = jax.jit(
        lambda params, tokens: loss_and_gradient(
            spec.model, params, tokens, 0.0, execution=own.execution
        )
    )
    both = seconds_of(lambda: gradient(params, tokens))
    return {"forward": forward, "backward": both - forward, "optimizer and rest": step - both}


def timed(spec: RunSpec, store: Store, machine: Machine) -> list[dict]:
    """Run it; the timing rows of its record."""
    with tempfile.TemporaryDirectory() as folder:
        run(spec, Path(folder), store, machine)
        parts = sorted((Path(folder) / record.RUNS / spec.run_id / record.METRICS).glob("*.jsonl"))
        rows = [row for part in parts for row in map(json.loads, part.read_text().splitlines())]
    return [row for row in rows if row["kind"] == record.TIMING]


def measure(
    case: str, seq_len: int, window: int, tokenizer: str, every: float, workdir: Path
) -> dict:
    size, batch, micro, remat = case.split(":")
    of = functools.partial(spec_of, size, int(batch), seq_len, tokenizer)
    machine = Machine(accumulation=int(micro), remat=remat, tensorboard=False, temporary_every=1e9)
    plain, saving = of(WINDOWS * window, 0), of(WINDOWS * window, window)
    (plan,) = executables.compile_all([plain], machine)
    store = next(iter(stores([plain], workdir, show=False).values()))
    timed(of(10, 0), store, machine)  # compiles, and warms up
    (row,) = (row for row in timed(plain, store, machine) if row["phase"] == record.WINDOW)
    spent = sum(
        row["seconds"]
        for row in timed(saving, store, machine)
        if row["phase"] in (record.WINDOW, "checkpoint")
    )
    cost = (spent - row["seconds"]) / (WINDOWS - 1)
    step = row["seconds"] / row["steps"]
    found = chips.device_sheet(Program(plain, machine).mesh.devices.flat)
    return {
        "case": case,
        "seq_len": seq_len,
        "device": jax.devices()[0].device_kind,
        "devices": plan.devices,
        "step_seconds": step,
        "tokens_per_second": row["tokens_per_second"],
        "mfu": row["mfu"],
        "executed_over_counted": plan.executed / plan.counted,
        "attention": plan.attention,
        "kernels": plan.kernels,
        "memory_planned_gib": plan.bytes / 2**30,
        "memory_peak_gib": row["memory_bytes"] / 2**30,
        "host_wait": row["wait"] / row["seconds"],
        "parts": parts_of(plain, machine, step),
        "roofline": plan.roofline.terms if plan.roofline else None,
        "peak_flops": found.flops if found else chips.gemm_rate(),
        "compile_seconds": plan.seconds,
        "save_seconds": cost,
        "save_overhead": cost / every,
    }


def table(results: list[dict]) -> str:
    lines = []
    for r in results:
        parts = ", ".join(f"{name} {1e3 * seconds:.1f} ms" for name, seconds in r["parts"].items())
        lines += [
            f"{r['case']:20} {1e3 * r['step_seconds']:9.1f} ms/step "
            f"{r['tokens_per_second']:12,.0f} tokens/s   MFU {r['mfu']:.1%}   memory "
            f"{r['memory_peak_gib']:.1f} GiB (planned {r['memory_planned_gib']:.1f})",
            (
                f"    {parts}; executed {r['executed_over_counted']:.2f}x the counted FLOPs; "
                f"attention {r['attention']} {r['kernels'] or ''}"
            ),
            f"    host waits for the device {r['host_wait']:.0%} of the time; a checkpoint costs "
            f"{r['save_seconds']:.2f} s, {r['save_overhead']:.2%} of the wall time; compiled in "
            f"{r['compile_seconds']:.0f} s",
        ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--case",
        action="append",
        metavar="SIZE:BATCH:MICRO:REMAT",
        help=f"default: {' '.join(CASES)}",
    )
    parser.add_argument("--seq-len", type=int, default=2048)
    parser.add_argument(
        "--window",
        type=int,
        default=40,
        help="steps between two checkpoints, of three times as many",
    )
    parser.add_argument("--tokenizer", default="bpe:32768")
    parser.add_argument(
        "--every",
        type=float,
        default=300.0,
        help="seconds between checkpoints, for their share of the wall time",
    )
    parser.add_argument(
        "--tiny", action="store_true", help="tiny shapes: for a machine without a GPU"
    )
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    if args.tiny:
        args.case, args.seq_len, args.window, args.tokenizer = (
            args.case or ["14k:8:2:full"],
            64,
            10,
            "bytes",
        )
    topology.hush()
    start_jax(Machine())
    results = []
    for case in args.case or CASES:
        with tempfile.TemporaryDirectory() as folder:
            results.append(
                measure(case, args.seq_len, args.window, args.tokenizer, args.every, Path(folder))
            )
        if not args.json:
            print(table(results[-1:]), flush=True)
    if args.json:
        print(json.dumps([{**r, "jax": jax.__version__} for r in results], indent=1))
    return results


if __name__ == "__main__":
    main()
