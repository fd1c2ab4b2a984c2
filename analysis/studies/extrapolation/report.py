"""Write the report of a working directory: index.html, which needs no other file, results.json with
every number on it, figures/.
"""

import json
from pathlib import Path

import numpy as np

from stepladder.analysis.figures import style
from stepladder.analysis.studies.extrapolation import figures
from stepladder.analysis.studies.extrapolation.page import page
from stepladder.analysis.studies.extrapolation.results import Collected, collect, ends, law_of
from stepladder.configs.core.files import write_atomic


def report(workdir: str | Path, out: str | Path | None = None, *, n: str = "params_total") -> Path:
    """Write `<out>/index.html` and `<out>/results.json` (out: `<workdir>/report`) and return the
    page's path.

    Works with whatever is there: what is missing is named on the page. Raises UserError when
    `workdir` does not exist or `out` is unwritable.
    """
    collected = collect(workdir, n=n)
    folder = Path(out) if out else Path(workdir) / "report"
    drawn = draw(collected)
    text = page(collected.results, drawn)
    for name, svg in drawn.items():
        write_atomic(folder / "figures" / f"{name}.svg", svg, sync=False, field="out")
    write_atomic(
        folder / "results.json",
        json.dumps(collected.results, indent=1, allow_nan=False) + "\n",
        field="out",
    )
    write_atomic(folder / "index.html", text, field="out")
    return folder / "index.html"


def draw(collected: Collected) -> dict[str, str]:
    """Name -> inline SVG of every figure there is data for."""
    results, runs, proxies = collected.results, collected.runs, collected.proxies
    entry = results["forecasts"][-1] if results["forecasts"] else None
    law, drawn = law_of(results), {}
    targets = runs.runs[runs.runs["role"] == "target"]["run_id"].tolist()
    if len(runs.train[runs.train["role"] != "sweep"]):
        shown = entry["target_run_id"] if entry else (targets[-1] if targets else None)
        drawn["loss_curves"] = style.svg(
            figures.loss_curves(runs.train, runs.points, shown), "loss against tokens for every run"
        )
    if law is not None and len(proxies):

        def predict(n, d):
            return law.predict(N=n, D=np.asarray(d, float))

        target, band = (entry["target"], entry["band"]) if entry else (None, None)
        more = (entry["truth"], entry["low"], entry["high"]) if entry else (None, None, None)
        drawn["extrapolation"] = style.svg(
            figures.extrapolation(proxies, predict, band, target, *more),
            "the law and its extrapolation to the target",
        )
        drawn["contours"] = style.svg(
            figures.contours(proxies, predict, target),
            "lines of equal loss over parameters and tokens",
        )
        drawn["residuals"] = style.svg(
            figures.residuals(proxies, predict), "residuals of the fit against parameters"
        )
    if results["learning_rate"]:
        label = "final loss against learning rate at the smallest and the largest size"
        drawn["learning_rate"] = style.svg(
            figures.learning_rates(ends(results["learning_rate"])), label
        )
    return drawn
