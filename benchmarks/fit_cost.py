"""Draw docs/fit-cost.svg from fit_cost.csv, the table that `fit_vs_scipy.py --only scaling`
printed: `python benchmarks/fit_cost.py`.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from stepladder.analysis.figures.style import svg

HERE = Path(__file__).resolve().parent


def main() -> None:
    """One panel a kind: compiled seconds (dots) and a line of slope 1 through their middle."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="draw it, write nothing")
    args = parser.parse_args()
    table = pd.read_csv(HERE / "fit_cost.csv")
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    for axes, (kind, rows) in zip(figure.subplots(1, 2), table.groupby("kind", sort=False)):
        count, seconds = rows["count"].to_numpy(float), rows["compiled_s"].to_numpy()
        level = np.exp(np.mean(np.log(seconds / count)))
        axes.loglog(count, level * count, "--", color="0.6", label="slope 1")
        axes.loglog(
            count,
            seconds,
            "o",
            color="#0b3c5d",
            label=f"measured, slope {np.polyfit(np.log(count), np.log(seconds), 1)[0]:.2f}",
        )
        axes.set_xlabel(f"{kind}" if kind == "points" else f"{kind} of 240 points")
        axes.set_ylabel("seconds, compiled")
        axes.legend()
    text = svg(figure, "seconds of a fit against points and of a bootstrap against resamples")
    path = HERE.parent / "docs" / "fit-cost.svg"
    if not args.tiny:
        path.write_text(text)
    print(f"{path.name}: {len(text)} bytes{' (not written)' if args.tiny else ''}")


if __name__ == "__main__":
    main()
