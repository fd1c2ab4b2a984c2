"""A 24-run rung as a pack against the ways without one: after one another, two processes, vmapped.

One command, ratios of one call.

    python benchmarks/packs.py [--sizes=6k,25k,84k,200k] [--steps=200] [--repeats=3] [--json]
    python benchmarks/packs.py --tiny

Whole commands with a warm compilation cache and a prepared corpus: interpreter, imports, evaluation
and checkpoints are in the wall time. Every round runs all ways once, so that a busy machine slows
them alike; the figures are medians over the rounds.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CONFIG = Path(__file__).with_name("rung24.py")
CORES = os.cpu_count() or 1
# name: (parts run at the same time, overrides)
WAYS = {
    "one after another, data-parallel": (1, {"pack": "off"}),
    "a process a core": (CORES, {"pack": "off", "devices": 1}),
    "pack, vmapped": (1, {"pack": "24", "pack_mode": "vmap"}),
    "what stepladder picks": (1, {}),  # on CPU a pack mapped over one device a core
}


def seconds(size: str, way: str, store: Path, cache: Path, length: str) -> float:
    """Wall time of the rung; raises when a process fails."""
    parts, overrides = WAYS[way]
    root = Path(tempfile.mkdtemp(prefix="packs-"))
    processes = []
    began = time.perf_counter()
    for i in range(parts):
        words = [
            f"--config={CONFIG}:{size}/{i}/{parts}",
            f"--workdir={root / str(i)}",
            "--quiet",
            f"--config.machine.store={store}",
        ]
        words += [length, *(f"--config.machine.{key}={value}" for key, value in overrides.items())]
        command = [sys.executable, "-m", "stepladder.train", "run", *words]
        processes.append(
            subprocess.Popen(
                command,
                env={**os.environ, "STEPLADDER_CACHE": str(cache)},
                stdout=subprocess.DEVNULL,
            )
        )
    codes = [process.wait() for process in processes]
    taken = time.perf_counter() - began
    shutil.rmtree(root)
    if any(codes):
        raise SystemExit(f"{way}: exit status {codes}")
    print(f"{size}, {way}, {length.partition('=')[2]}: {taken:.2f} s", file=sys.stderr, flush=True)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="6k,25k,84k,200k")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200, help="of every run")
    parser.add_argument("--tiny", action="store_true", help="the smallest size, 20 steps, once")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.tiny:
        args.sizes, args.repeats, args.steps = "6k", 1, 20
    with tempfile.TemporaryDirectory(prefix="packs-") as shared:
        store, cache, result = Path(shared) / "store", Path(shared) / "cache", {}
        for size in args.sizes.split(","):
            for way in WAYS:  # compile: the number of steps is no part of a program
                seconds(size, way, store, cache, "--config.run.duration=20 steps")
            length = f"--config.run.duration={args.steps} steps"
            rounds = [
                {way: seconds(size, way, store, cache, length) for way in WAYS}
                for _ in range(args.repeats)
            ]
            result[size] = {
                way: round(statistics.median(r[way] for r in rounds), 2) for way in WAYS
            }
    if args.json:
        print(
            json.dumps(
                {"cores": CORES, "repeats": args.repeats, "steps": args.steps, "seconds": result},
                indent=1,
            )
        )
        return
    for size, by_way in result.items():
        best = min(by_way, key=by_way.get)
        print(f"{size}: 24 runs of {args.steps} steps, seconds (times the fastest, '{best}')")
        for way, taken in by_way.items():
            print(f"  {way:34} {taken:7.2f}  {taken / by_way[best]:5.2f}x")


if __name__ == "__main__":
    main()
