"""The batched fit against SciPy: 4,500 starts and 4,000 bootstrap refits of the Chinchilla law, and
what more points and refits cost.

    # the folder with chinchilla/svg_extracted_data.csv
    export STEPLADDER_DATA=...
    # the table of docs/benchmarks/fitting.md (minutes: the references run in full)
    python benchmarks/fit_vs_scipy.py
    # references reduced and scaled linearly, said in the table
    python benchmarks/fit_vs_scipy.py --quick
    python benchmarks/fit_vs_scipy.py --only ours scaling --json

Ours is timed from outside: a fresh process from its start to its end, so interpreter, imports,
compilation (persistent cache off), all starts and all refits count, and it is never scaled. The
references (`scipy_fit.py`) are timed inside of their processes, without imports, on one BLAS thread
and `--processes` processes. Which of them is the fair one is the reader's choice: all are printed.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import scipy_fit
from chinchilla_points import chinchilla_points

HERE = Path(__file__).resolve().parent
PARTS = ("ours", "references", "scaling")
# What a whole analysis costs with SciPy: a fit of all points and 4,000 refits.
PAIRS = {
    "as published (finite differences in the grid)": ("grid_finite", "bootstrap_analytic"),
    "exact gradients throughout": ("grid_analytic", "bootstrap_analytic"),
    "finite differences throughout": ("grid_finite", "bootstrap_finite"),
    "well started (36 centred starts, refits from the optimum)": (
        "well_started",
        "well_started_bootstrap",
    ),
}
SIZES, COUNTS = (240, 1_000, 10_000, 100_000, 1_000_000), (500, 1000, 2000, 4000, 8000)
QUICK = {"starts": 100, "resamples": 80}
# of one process; a share of the memory that was free when it began
LIMIT_SECONDS, LIMIT_MEMORY = 900, 0.8


def ours(points: pd.DataFrame, *words: str) -> dict:
    """What `fit_once.py` said, and the wall seconds of its whole process; {"failed": why} when it
    did not end well.
    """
    # No cache from an earlier process: compilation is part of the time.
    env = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"} | {
        "JAX_ENABLE_COMPILATION_CACHE": "false"
    }
    with tempfile.TemporaryDirectory() as folder:
        points.to_csv(Path(folder) / "points.csv", index=False)
        command = [
            sys.executable,
            str(HERE / "fit_once.py"),
            str(Path(folder) / "points.csv"),
            *words,
        ]
        out, errors = Path(folder) / "out", Path(folder) / "errors"
        memory = LIMIT_MEMORY * _kib("/proc/meminfo", "MemAvailable")
        with out.open("w") as to, errors.open("w") as trouble:
            begin = time.perf_counter()
            child = subprocess.Popen(command, stdout=to, stderr=trouble, env=env)
            while child.poll() is None:
                elapsed = time.perf_counter() - begin
                if elapsed > LIMIT_SECONDS or _kib(f"/proc/{child.pid}/status", "VmRSS") > memory:
                    child.kill()
                    child.wait()
                    return {
                        "failed": (
                            f"stopped after {elapsed:.0f} s: over {LIMIT_SECONDS} s or "
                            f"{memory / 2**20:.1f} GiB"
                        )
                    }
                time.sleep(0.01)
            wall = time.perf_counter() - begin
        if child.returncode:
            return {
                "failed": (
                    errors.read_text().strip().splitlines() or [f"exit status {child.returncode}"]
                )[-1][:200]
            }
        return json.loads(out.read_text().splitlines()[-1]) | {"wall_seconds": wall}


def _kib(path: str, field: str) -> int:
    """A field of a /proc file, 0 when the process has ended or there is no /proc (then without a
    limit).
    """
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        lines = []
    found = [int(line.split()[1]) for line in lines if line.startswith(f"{field}:")]
    return found[0] if found else (2**40 if field == "MemAvailable" else 0)


def references(quick: bool, processes: int) -> list[dict]:
    """The rows of `scipy_fit.measure`, scaled linearly to the full size where they ran less of
    it.
    """
    counts = (
        ["--starts", str(QUICK["starts"]), "--resamples", str(QUICK["resamples"])]
        if quick
        else ["--full"]
    )
    command = [
        sys.executable,
        str(HERE / "scipy_fit.py"),
        "--json",
        "--processes",
        str(processes),
        *counts,
    ]
    threads = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env=os.environ | threads
    )
    rows = json.loads(done.stdout)["rows"]
    return [
        r | {f"full_{k}": r[k] / r["share"] for k in ("wall_seconds", "cpu_seconds")} for r in rows
    ]


def replicated(points: pd.DataFrame, count: int, params: dict, noise: float) -> pd.DataFrame:
    """`count` points near the given ones: N and D moved by 1 %, the loss from the law with the
    points' own noise.
    """
    rng = np.random.default_rng(count)
    base = points.iloc[rng.integers(0, len(points), count)]
    n, d = (
        base[name].to_numpy() * np.exp(0.01 * rng.standard_normal(count)) for name in ("N", "D")
    )
    law = params["E"] + params["A"] / n ** params["alpha"] + params["B"] / d ** params["beta"]
    return pd.DataFrame({"N": n, "D": d, "loss": law * np.exp(noise * rng.standard_normal(count))})


def slope(x: list[float], y: list[float]) -> float | None:
    """The exponent of y ~ x^slope, by least squares in log-log."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0]) if len(x) > 1 else None


def scaling(points: pd.DataFrame, sizes: tuple[int, ...], counts: tuple[int, ...]) -> dict:
    """Wall seconds of a fit (default starts) by points, and of a bootstrap of the 240 by resamples;
    first call and compiled.
    """
    well = scipy_fit.well_started(points)
    law = (
        well.params["E"]
        + well.params["A"] / points["N"] ** well.params["alpha"]
        + well.params["B"] / points["D"] ** well.params["beta"]
    )
    noise = float(np.std(np.log(points["loss"] / law)))
    by_points = []
    for size in sizes:
        table = points if size == len(points) else replicated(points, size, well.params, noise)
        by_points.append({"points": size} | ours(table, "--warm"))
    by_resamples = ours(points, "--warm", "--resamples", *map(str, counts))
    ran, refits = [r for r in by_points if "failed" not in r], by_resamples.get("refits", [])
    return {
        "by_points": by_points,
        "by_resamples": refits or by_resamples,
        "slope_points": slope([r["points"] for r in ran], [r["fit_warm_seconds"] for r in ran]),
        "slope_resamples": slope(
            [r["resamples"] for r in refits], [r["warm_seconds"] for r in refits]
        ),
    }


def compare(runs: list[dict], rows: list[dict]) -> list[dict]:
    """Each way to do a whole analysis with SciPy over ours: ratios of wall and of CPU seconds."""
    by_name = {r["reference"]: r for r in rows}
    good = [r for r in runs if "failed" not in r]
    mine = {
        k: statistics.median(r[k] for r in good) if good else None
        for k in ("wall_seconds", "cpu_seconds")
    }
    table = []
    for label, names in PAIRS.items() if rows else ():
        parts = [by_name[n] for n in names]
        wall, cpu = (sum(p[f"full_{k}"] for p in parts) for k in ("wall_seconds", "cpu_seconds"))
        ratios = [
            v / mine[k] if mine[k] else None
            for k, v in (("wall_seconds", wall), ("cpu_seconds", cpu))
        ]
        table.append(
            {
                "reference": label,
                "wall_seconds": wall,
                "cpu_seconds": cpu,
                "wall_ratio": ratios[0],
                "cpu_ratio": ratios[1],
                "short": max(p["short"] for p in parts),
                "scaled": any(p["share"] < 1 for p in parts),
            }
        )
    return table


def show(body: dict) -> None:
    """The tables, in Markdown."""
    print(", ".join(f"{k} {v}" for k, v in body["machine"].items()))
    if body["machine"]["load"] > 0.5:
        print(
            "other work was running on this machine: CPU seconds stand, wall seconds are upper "
            "bounds"
        )
    for run in body["ours"]:
        if "failed" in run:
            print(f"ours: failed: {run['failed']}")
            continue
        refit = run["refits"][0]
        print(
            f"ours, fresh process: {run['wall_seconds']:.2f} s wall, {run['cpu_seconds']:.2f} s "
            f"CPU (imports {run['import_seconds']:.2f}, fit from {run['starts']} starts "
            f"{run['fit_seconds']:.2f}, {refit['rows']} refits {refit['seconds']:.2f}; first "
            f"calls, compilation included), {run['peak_gib']:.2f} GiB; objective "
            f"{run['value']:.11g}; s.e. "
            + ", ".join(f"{k} {v:.4g}" for k, v in refit["se"].items())
        )
    if body["references"]:
        print(
            (
                "\n| SciPy reference | fits run | wall s | CPU s | short | objective | s.e. A, B, "
                "E, alpha, beta |\n|---"
            )
            + "|---" * 6
            + "|"
        )
        for r in body["references"]:
            scaled = (
                f" (measured {r['wall_seconds']:.2f} for {r['share']:.1%}, scaled linearly)"
                if r["share"] < 1
                else ""
            )
            se = (
                ", ".join(f"{v:.4g}" for v in r["se"].values())
                if "bootstrap" in r["reference"]
                else ""
            )
            print(
                f"| {r['reference']} | {r['fits']} | {r['full_wall_seconds']:.2f}{scaled} | "
                f"{r['full_cpu_seconds']:.2f} | {r['short']:.1%} | "
                f"{'' if 'bootstrap' in r['reference'] else format(r['value'], '.11g')} | {se} |"
            )
        print(
            "\n| a fit and 4,000 refits | wall s | CPU s | wall over ours | CPU over ours |\n"
            "|---|---|---|---|---|"
        )
        for r in body["compare"]:
            ratios = " | ".join(
                "-" if r[k] is None else f"{r[k]:.1f}" for k in ("wall_ratio", "cpu_ratio")
            )
            print(
                f"| {r['reference']}{', SCALED' if r['scaled'] else ''} | {r['wall_seconds']:.2f} "
                f"| {r['cpu_seconds']:.2f} | {ratios} |"
            )
        print(
            "short: refits above the lowest objective found for the same resample by more than "
            "1e-6 of it; starts that miss the best fit by so much"
        )
    if body["scaling"]:
        s = body["scaling"]
        print("\n| points | first fit s | compiled s | GiB |\n|---|---|---|---|")
        for r in s["by_points"]:
            cells = (
                r["failed"]
                if "failed" in r
                else f"{r['fit_seconds']:.2f} | {r['fit_warm_seconds']:.3f} | {r['peak_gib']:.2f}"
            )
            print(f"| {r['points']} | {cells} |")
        print(f"slope of log seconds (compiled) on log points: {_number(s['slope_points'])}")
        print("\n| resamples | first call s | compiled s |\n|---|---|---|")
        for r in s["by_resamples"] if isinstance(s["by_resamples"], list) else ():
            print(f"| {r['resamples']} | {r['seconds']:.2f} | {r['warm_seconds']:.3f} |")
        if not isinstance(s["by_resamples"], list):
            print(f"| failed: {s['by_resamples'].get('failed')} |")
        print(f"slope of log seconds (compiled) on log resamples: {_number(s['slope_resamples'])}")


def _number(value: float | None) -> str:
    return "not enough sizes ran" if value is None else f"{value:.2f}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="references reduced and scaled; fewer sizes"
    )
    parser.add_argument(
        "--tiny", action="store_true", help="our fit from the default starts, 50 resamples, once"
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument(
        "--repeats", type=int, default=3, help="fresh processes of ours; ratios are to the median"
    )
    parser.add_argument(
        "--processes",
        type=int,
        default=os.cpu_count(),
        help="of the references (default: a process a core)",
    )
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    points = chinchilla_points()
    body: dict = {
        "machine": {
            "cores": os.cpu_count(),
            "load": round(os.getloadavg()[0], 2),
            "reference processes": args.processes,
            "python": platform.python_version(),
        }
        | {n: version(n) for n in ("jax", "numpy", "scipy")},
        "ours": [],
        "references": [],
        "scaling": {},
    }
    if args.tiny:
        args.only = []
        body["ours"] = [ours(points, "--resamples", "50")]
    if "ours" in args.only:
        body["ours"] = [
            ours(points, "--starts", "hoffmann", "--resamples", "4000")
            for _ in range(1 if args.quick else args.repeats)
        ]
    if "references" in args.only:
        body["references"] = references(args.quick, args.processes)
    body["compare"] = compare(body["ours"], body["references"])
    if "scaling" in args.only:
        body["scaling"] = scaling(
            points, SIZES[:3] if args.quick else SIZES, COUNTS[:3] if args.quick else COUNTS
        )
    if args.json:
        print(json.dumps(body))
    else:
        show(body)
    parts = [
        *body["ours"],
        *body["scaling"].get("by_points", []),
        body["scaling"].get("by_resamples", []),
    ]
    return int(any("failed" in p for p in parts if isinstance(p, dict)))


if __name__ == "__main__":
    sys.exit(main())
