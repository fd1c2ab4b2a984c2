"""How good the demo's forecast is: the whole demo from several seeds.

`python benchmarks/demo_seeds.py ROOT [--seeds 5] [--json]`.

ROOT/seed-K are ordinary workdirs, made when missing (about five minutes each on two cores); seed K
means config.seed = 10 K, which moves the initialisations and the order of the data of proxies and
target.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

DEMO = Path(__file__).resolve().parent.parent / "configs" / "demo.py"


def run(root: Path, seed: int, variant: str) -> dict:
    """Forecast, truth and baselines of one demo."""
    workdir = root / f"seed-{seed}"
    words = [
        "demo",
        f"--workdir={workdir}",
        f"--config={DEMO}:{variant}",
        f"--config.seed={10 * seed}",
        f"--config.machine.store={root / 'data'}",
    ]
    subprocess.run(
        [sys.executable, "-m", "stepladder.train", *words], check=True, stdout=subprocess.DEVNULL
    )
    results = json.loads((workdir / "report" / "results.json").read_text())
    (entry,) = results["forecasts"]
    seconds = json.loads((workdir / "timing.json").read_text())["seconds"]
    return {
        "seed": seed,
        "forecast": entry["prediction"],
        "low": entry["low"],
        "high": entry["high"],
        "truth": entry["truth"],
        "error": entry["error"],
        "covered": entry["covered"],
        "width": (entry["high"] - entry["low"]) / entry["truth"],
        "baselines": {b["name"]: b["error"] for b in entry["baselines"]},
        "steps_share": seconds["steps"] / sum(seconds.values()),
        "seconds": sum(seconds.values()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="one seed of the tiny demo")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    seeds, variant = (1, "tiny") if args.tiny else (args.seeds, "cpu")
    rows = [run(args.root, seed, variant) for seed in range(seeds)]
    if args.json:
        print(json.dumps(rows))
        return
    names = list(rows[0]["baselines"])
    print(
        "| seed | forecast | 90 % interval | truth | error | inside | "
        + " | ".join(names)
        + " | run phase | compiled steps |"
    )
    print("|---" * (8 + len(names)) + "|")
    for r in rows:
        base = " | ".join(f"{r['baselines'][n]:+.2%}" for n in names)
        print(
            f"| {r['seed']} | {r['forecast']:.4f} | {r['low']:.4f} to {r['high']:.4f} | "
            f"{r['truth']:.4f} | {r['error']:+.2%} | {'yes' if r['covered'] else 'no'} | {base} | "
            f"{r['seconds']:.0f} s | {r['steps_share']:.0%} |"
        )
    errors = np.array([r["error"] for r in rows])
    print(
        f"\nmean absolute error {np.abs(errors).mean():.2%}, bias {errors.mean():+.2%}, mean width "
        f"{np.mean([r['width'] for r in rows]):.2%}, coverage "
        f"{sum(r['covered'] for r in rows)}/{len(rows)}; "
        + ", ".join(f"{n} {np.mean([abs(r['baselines'][n]) for r in rows]):.2%}" for n in names)
    )


if __name__ == "__main__":
    main()
