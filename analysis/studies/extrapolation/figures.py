"""The figures of the extrapolation: loss curves, the law with its forecast, learning rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from stepladder.analysis.figures.extrapolation import Band, draw_forecast, law_through
from stepladder.analysis.figures.fit import contours, residuals, scale_axis
from stepladder.analysis.figures.style import (
    MUTED,
    TARGET,
    Svg,
    log_axes,
    single_axes,
    size_colours,
    styled,
    svg,
)
from stepladder.analysis.fit.levels import percent
from stepladder.analysis.fit.result import Fit
from stepladder.analysis.studies.extrapolation.study import Extrapolation, ends, law_of
from stepladder.analysis.studies.learning_rate.curves import Curve
from stepladder.analysis.studies.learning_rate.figures import curve_with_optimum
from stepladder.analysis.tables.numbers import human

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(found: Extrapolation) -> dict[str, Svg]:
    """Name -> drawing, of every figure there is data for."""
    results, runs, proxies = found.results, found.runs, found.proxies
    entry = results["forecasts"][-1] if results["forecasts"] else None
    law, drawn = law_of(results), {}
    targets = runs.runs[runs.runs["role"] == "target"]["run_id"].tolist()
    if len(runs.train[runs.train["role"] != "sweep"]):
        shown = entry["target_run_id"] if entry else (targets[-1] if targets else None)
        drawn["loss_curves"] = svg(
            loss_curves(runs.train, runs.points, shown), "loss against tokens for every run"
        )
    if law is not None and len(proxies):
        drawn["extrapolation"] = svg(
            extrapolation(law, proxies, entry), "the law and its extrapolation to the target"
        )
        drawn["contours"] = svg(
            contours(law, entry and entry["target"], points=proxies, size=(5.2, 4.2)),
            "lines of equal loss over parameters and tokens",
        )
        drawn["residuals"] = svg(
            residuals(law, points=proxies, against=["N"]),
            "residuals of the fit against parameters",
        )
    if drawable := [Curve(**c) for c in ends([c for c in results["learning_rate"] if c["rates"]])]:
        label = "final loss against learning rate at the smallest and the largest size"
        drawn["learning_rate"] = svg(learning_rates(drawable), label)
    return drawn


@styled
def loss_curves(train: pd.DataFrame, points: pd.DataFrame, target_run: str | None = None) -> Figure:
    """Training loss (lines) and final decayed evaluations (dots) against tokens, without sweeps.

    Each size has a colour, the target is red.
    """
    figure, axes = single_axes(8.6, 4.6)
    shown = train[train["role"] != "sweep"]
    colours = size_colours([n for r, n in zip(shown["run_id"], shown["N"]) if r != target_run])
    labelled: set[float] = set()
    for _, rows in shown.groupby(["N", "run_id"], sort=True):
        n, size = float(rows["N"].iloc[0]), rows["size"].iloc[0]
        look: dict[str, Any] = {"color": colours.get(n), "lw": 1.0, "alpha": 0.85}
        if n not in labelled:
            look["label"] = f"{size}  N = {human(n)}"
        if rows["run_id"].iloc[0] == target_run:
            look = {"color": TARGET, "lw": 1.6, "label": f"target  N = {human(n)}", "zorder": 3}
        else:
            labelled.add(n)
        rows = rows[np.isfinite(rows["loss"].astype(float)) & (rows["tokens"] > 0)]
        axes.plot(rows["tokens"], rows["loss"], **look)
    ends = points[(points["domain"] == "all") & points["decayed"] & (points["role"] != "sweep")]
    for run, n, d, loss in zip(ends["run_id"], ends["N"], ends["D"], ends["loss"]):
        look = {"ms": 4.5, "mfc": colours.get(n, MUTED), "mec": "white", "mew": 0.8, "zorder": 4}
        if run == target_run:
            look |= {"ms": 6, "mfc": TARGET}
        axes.plot(d, loss, "o", **look)
    if len(ends):
        axes.set_ylim(top=min(axes.get_ylim()[1], ends["loss"].max() * 1.9))
    log_axes(axes, "D, tokens seen", "loss, nats per token", y=True)
    axes.set_title("Training loss (lines) and final evaluation (dots)")
    axes.legend(loc="upper right")
    return figure


@styled
def extrapolation(law: Fit, proxies: pd.DataFrame, entry: Mapping[str, Any] | None) -> Figure:
    """Final losses against D, with the law through each size.

    Where there is a forecast (`entry`): its interval, the band of the parameters along D at the
    target's N, and the truth where it is known.
    """
    figure, axes = single_axes(8.6, 4.6)
    law_through(axes, law, proxies, "D", most=len(proxies))
    if entry:
        target, along = entry["target"], entry["band"]
        draw_forecast(
            axes,
            Band(
                *(np.array(along[name]) for name in ("D", "prediction", "low", "high")),
                label="parameter error at the target's N",
            ),
            target["D"],
            float(law.predict(N=target["N"], D=target["D"])),
            (entry["low"], entry["high"]),
            f"forecast, N = {human(target['N'])}",
        )
        if entry["truth"] is not None:
            star = {"ms": 14, "mfc": TARGET, "mec": "white", "mew": 0.8, "ls": "none", "zorder": 6}
            axes.plot(target["D"], entry["truth"], "*", label="truth", **star)
    scale_axis(axes, law.problem.law, "D", "final loss, nats per token")
    axes.set_title("The law through the proxies, and its extrapolation")
    axes.legend(loc="upper right", ncols=2)
    return figure


@styled
def learning_rates(curves: Sequence[Curve]) -> Figure:
    """Final loss against learning rate for each curve, with its optimum and interval."""
    figure, axes = single_axes(8.6, 4.0)
    colours = size_colours([c.N for c in curves])
    lines = dict(zip(sorted({c.D for c in curves}), ("-", "--", ":", "-.")))
    for c in curves:
        curve_with_optimum(axes, c, colours[c.N], lines.get(c.D, "-"))
    log_axes(axes, "peak learning rate", "final loss above the best, nats per token")
    interval = f"{percent(curves[0].level)} interval"
    axes.set_title(f"Learning-rate curves; optimum with its {interval} in red")
    axes.legend(loc="upper center")
    return figure
