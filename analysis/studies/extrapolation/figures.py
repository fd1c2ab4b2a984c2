"""The report's figures, as functions that return a matplotlib Figure.

One colour for the target, one scale from light to dark for sizes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from stepladder.analysis.figures.style import (
    INK,
    MUTED,
    TARGET,
    Svg,
    log_axes,
    single_axes,
    size_colours,
    styled,
    svg,
)
from stepladder.analysis.studies.extrapolation.study import Extrapolation, ends, law_of
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

        def predict(n, d):
            return law.predict(N=n, D=np.asarray(d, float))

        target, band = (entry["target"], entry["band"]) if entry else (None, None)
        more = (entry["truth"], entry["low"], entry["high"]) if entry else (None, None, None)
        drawn["extrapolation"] = svg(
            extrapolation(proxies, predict, band, target, *more),
            "the law and its extrapolation to the target",
        )
        drawn["contours"] = svg(
            contours(proxies, predict, target),
            "lines of equal loss over parameters and tokens",
        )
        drawn["residuals"] = svg(
            residuals(proxies, predict), "residuals of the fit against parameters"
        )
    if results["learning_rate"]:
        label = "final loss against learning rate at the smallest and the largest size"
        drawn["learning_rate"] = svg(learning_rates(ends(results["learning_rate"])), label)
    return drawn


@styled
def loss_curves(train: pd.DataFrame, points: pd.DataFrame, target_run: str | None = None) -> Figure:
    """Training loss (lines) and final decayed evaluations (dots) against tokens, a colour a size;
    the target in red.

    No sweeps.
    """
    figure, axes = single_axes(8.6, 4.6)
    shown = train[~train["role"].isin(["sweep"])]
    colours = size_colours([n for r, n in zip(shown["run_id"], shown["N"]) if r != target_run])
    labelled: set[float] = set()
    for (n, run), rows in shown.groupby(["N", "run_id"], sort=True):
        rows = rows[np.isfinite(rows["loss"].astype(float)) & (rows["tokens"] > 0)]
        mine = run == target_run
        label = (
            None
            if mine or n in labelled
            else f"{rows['size'].iloc[0] if len(rows) else ''}  N = {human(n)}"
        )
        labelled.add(n)
        axes.plot(
            rows["tokens"],
            rows["loss"],
            color=TARGET if mine else colours[n],
            lw=1.6 if mine else 1.0,
            alpha=1 if mine else 0.85,
            label=f"target  N = {human(n)}" if mine else label,
            zorder=3 if mine else 2,
        )
    ends = points[(points["domain"] == "all") & points["decayed"] & ~points["role"].isin(["sweep"])]
    for point in ends.itertuples():
        mine = point.run_id == target_run
        axes.plot(
            point.D,
            point.loss,
            "o",
            ms=6 if mine else 4.5,
            mfc=TARGET if mine else colours.get(point.N, MUTED),
            mec="white",
            mew=0.8,
            zorder=4,
        )
    if len(ends):
        axes.set_ylim(top=min(axes.get_ylim()[1], ends["loss"].max() * 1.9))
    log_axes(axes, "D, tokens seen", "loss, nats per token", y=True)
    axes.set_title("Training loss (lines) and final evaluation (dots)")
    axes.legend(loc="upper right")
    return figure


@styled
def extrapolation(
    points: pd.DataFrame,
    predict,
    band: dict | None,
    target: dict | None,
    truth: float | None,
    low: float | None = None,
    high: float | None = None,
) -> Figure:
    """Final losses against D with the law through each size, and the band of the parameters along D
    at the target's N.
    """
    figure, axes = single_axes(8.6, 4.6)
    colours = size_colours(list(points["N"]))
    for n, rows in points.groupby("N", sort=True):
        tokens = np.geomspace(rows["D"].min() / 1.2, rows["D"].max() * 1.2, 50)
        axes.plot(tokens, predict(n, tokens), color=colours[n], lw=1.2)
        axes.plot(
            rows["D"],
            rows["loss"],
            "o",
            ms=5,
            mfc=colours[n],
            mec="white",
            mew=0.8,
            label=f"N = {human(n)}",
        )
    if band and target:
        axes.fill_between(
            band["D"],
            band["low"],
            band["high"],
            color=TARGET,
            alpha=0.13,
            lw=0,
            label="parameter error at the target's N",
        )
        axes.plot(band["D"], band["prediction"], color=TARGET, lw=1.2, ls="--")
        middle = float(predict(target["N"], np.array([target["D"]]))[0])
        if low is not None:
            axes.errorbar(
                target["D"],
                middle,
                yerr=[[middle - low], [high - middle]],
                color=TARGET,
                capsize=4,
                lw=1.6,
                zorder=4,
            )
        axes.plot(
            target["D"],
            middle,
            "D",
            ms=6,
            mfc="white",
            mec=TARGET,
            mew=1.6,
            label=f"forecast, N = {human(target['N'])}",
            zorder=5,
        )
        if truth is not None:
            axes.plot(
                target["D"],
                truth,
                "*",
                ms=14,
                mfc=TARGET,
                mec="white",
                mew=0.8,
                label="truth",
                zorder=6,
            )
    log_axes(axes, "D, tokens", "final loss, nats per token")
    axes.set_title("The law through the proxies, and its extrapolation")
    axes.legend(loc="upper right", ncols=2)
    return figure


@styled
def contours(points: pd.DataFrame, predict, target: dict | None = None) -> Figure:
    """Lines of equal forecast loss over N and D, with the proxies and the target: how far out it
    lies.
    """
    figure, axes = single_axes(5.2, 4.0)
    high_n, high_d = (max([points[k].max(), *([target[k]] if target else [])]) for k in ("N", "D"))
    n = np.geomspace(points["N"].min() / 1.6, high_n * 1.6, 80)
    d = np.geomspace(points["D"].min() / 1.6, high_d * 1.6, 80)
    loss = predict(n[None, :], d[:, None])
    levels = np.linspace(loss.min(), np.quantile(loss, 0.97), 12)[1:]
    drawn = axes.contour(n, d, loss, levels=levels, colors=[MUTED], linewidths=0.9)
    axes.clabel(drawn, fmt="%.2f", fontsize=8, colors=[MUTED])
    colours = size_colours(list(points["N"]))
    axes.scatter(
        points["N"],
        points["D"],
        c=[colours[v] for v in points["N"]],
        s=42,
        edgecolor="white",
        linewidth=0.9,
        zorder=3,
        label="proxies",
    )
    if target:
        axes.plot(
            target["N"], target["D"], "*", ms=16, mfc=TARGET, mec="white", label="target", zorder=4
        )
    axes.set_xlim(n[0], n[-1])
    axes.set_ylim(d[0], d[-1])
    log_axes(axes, "N, parameters", "D, tokens", y=True)
    axes.set_title("Equal loss (nats per token) over N and D")
    axes.legend(loc="lower right")
    return figure


@styled
def residuals(points: pd.DataFrame, predict) -> Figure:
    """100 ln(loss / law) against N, a shade a duration: structure here is what the law does not
    describe.
    """
    figure, axes = single_axes(5.2, 4.0)
    miss = 100 * np.log(
        points["loss"].to_numpy(float)
        / predict(points["N"].to_numpy(float), points["D"].to_numpy(float))
    )
    ranks = points["D"].rank(method="dense").to_numpy() - 1
    colours = size_colours(list(points["D"]))
    shift = 1 + 0.05 * (ranks - ranks.mean())  # durations side by side, else they cover each other
    shown = sorted(set(points["D"]))
    for d in shown:
        mine = (points["D"] == d).to_numpy()
        label = f"D = {human(d)}" if len(shown) <= 8 or d in (shown[0], shown[-1]) else None
        axes.plot(
            points["N"].to_numpy()[mine] * shift[mine],
            miss[mine],
            "o",
            ms=6,
            mfc=colours[d],
            mec="white",
            mew=0.8,
            label=label,
        )
    axes.axhline(0, color=INK, lw=1)
    reach = max(0.1, 1.25 * np.abs(miss).max())
    axes.set_ylim(-reach, reach)
    log_axes(axes, "N, parameters", "loss above the law, %")
    axes.set_title("Residuals of the fit")
    axes.legend(loc="best")
    return figure


@styled
def learning_rates(curves: list[dict]) -> Figure:
    """Final loss against learning rate for each curve (dicts of learning_rate.Curve), each with its
    optimum and interval.
    """
    figure, axes = single_axes(8.6, 4.0)
    colours = size_colours([c["N"] for c in curves])
    styles = {d: s for d, s in zip(sorted({c["D"] for c in curves}), ("-", "--", ":", "-."))}
    for c in curves:
        above = np.array(c["losses"]) - min(c["losses"])
        label = f"{c['size']}, D = {human(c['D'])}"
        axes.plot(
            c["rates"],
            above,
            marker="o",
            ms=4.5,
            color=colours[c["N"]],
            ls=styles.get(c["D"], "-"),
            lw=1.3,
            mec="white",
            mew=0.7,
            label=label,
        )
        if c["optimum"] is not None:
            bottom = c["loss_at_optimum"] - min(c["losses"])
            if c["low"] is not None:
                axes.plot(
                    [c["low"], c["high"]],
                    [bottom, bottom],
                    color=TARGET,
                    lw=3,
                    alpha=0.5,
                    solid_capstyle="butt",
                )
            axes.plot(c["optimum"], bottom, "v", ms=8, mfc=TARGET, mec="white", mew=0.8, zorder=4)
    log_axes(axes, "peak learning rate", "final loss above the best, nats per token")
    axes.set_title("Learning-rate curves; optimum with its 90 % interval in red")
    axes.legend(loc="upper center")
    return figure
