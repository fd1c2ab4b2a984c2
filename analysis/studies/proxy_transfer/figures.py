"""Figures of the rankings: rho, accuracy and regret against the learning rate, and ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stepladder.analysis.figures.style import (
    INK,
    MUTED,
    TARGET,
    log_axes,
    single_axes,
    size_colours,
    styled,
)
from stepladder.analysis.studies.proxy_transfer.measures import Row
from stepladder.analysis.studies.proxy_transfer.measures.rank_agreement import TUNED_TARGET
from stepladder.analysis.studies.proxy_transfer.read_table import MAIN, MEAN, PROXY

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from stepladder.analysis.studies.proxy_transfer.result import Result

_TITLES = {
    "rho": ("rank correlation with the tuned target", "Spearman's rho"),
    "accuracy": ("pairs ordered as by the tuned target", "decision accuracy"),
}


@styled
def ranking(result: Result, what: str = "rho", domain: str = MEAN) -> Figure:
    """rho or accuracy (`what`) against the learning rate, a line and a band a proxy, and the n-gram
    rankings as dashed lines.

    A hollow mark is no evidence: the runs did not train, or the spread of the recipes is noise.
    """
    figure, axes = single_axes(8.6, 4.4)
    rejected = _no_evidence(result, domain)
    rates = result.ranking.rates
    colours = size_colours([r["N"] for r in rates])
    rows = _of_tuned_target(result)
    for proxy in rates:
        mine = [r for r in rows if (r["size"], r["domain"]) == (proxy["size"], domain)]
        hollow = [(r["size"], r["learning_rate"]) in rejected for r in mine]
        _proxy_line(axes, mine, what, proxy, hollow, colours[proxy["N"]])
    for null, style in (("bigram", "--"), ("unigram", "-.")):
        found = next(
            (r for r in result.ranking.nulls if (r["null"], r["domain"]) == (null, domain)), None
        )
        if found and np.isfinite(found[what]):
            label = f"{null} counts, {found[what]:.2f}"
            axes.axhline(found[what], color=TARGET, lw=1.1, ls=style, label=label)
    axes.axhline(0.5 if what == "accuracy" else 0, color=MUTED, lw=1)
    title, label = _TITLES[what]
    log_axes(axes, "proxy's peak learning rate", label)
    axes.set_title(
        f"{title.capitalize()}, {domain} domain"
        + ("; hollow: not trained, or noise" if rejected else "")
    )
    axes.legend(loc="best")
    return figure


def _of_tuned_target(result: Result) -> list[Row]:
    """The rows of A4."""
    return [r for r in result.ranking.agreement if r["against"] == TUNED_TARGET]


def _no_evidence(result: Result, domain: str) -> set[tuple[str, float]]:
    """(size, learning rate) of the proxies that fail G1 or G6."""
    trained = [r | {"domain": domain, "passes": r["trained"]} for r in result.validity.trained]
    return {
        (r["size"], r["learning_rate"])
        for r in [*trained, *result.validity.snr]
        if (r["role"], r["domain"]) == (PROXY, domain) and r["passes"] is False
    }


def _proxy_line(
    axes: Axes,
    rows: Sequence[Row],
    what: str,
    proxy: Mapping[str, Any],
    hollow: Sequence[bool],
    colour: Any,
) -> None:
    """One proxy of `ranking`: line, band, marks, and its standard rate."""
    x, y, low, high = (
        np.array([r[k] for r in rows], float)
        for k in ("learning_rate", what, f"{what}_low", f"{what}_high")
    )
    axes.fill_between(x, low, high, color=colour, alpha=0.14, lw=0)
    axes.plot(x, y, color=colour, lw=1.6, label=f"proxy {proxy['size']}")
    for rate, value, empty in zip(x, y, hollow):
        face = "white" if empty else colour
        axes.plot(rate, value, "o", ms=6, mfc=face, mec=colour, mew=1.3)
    if np.isfinite(proxy["eta_std"]):
        axes.axvline(proxy["eta_std"], color=colour, lw=1, ls=":")
        axes.annotate(
            "standard",
            (proxy["eta_std"], 0.01),
            xycoords=("data", "axes fraction"),
            fontsize=8,
            color=colour,
            rotation=90,
            ha="right",
        )


@styled
def domains(result: Result, size: str) -> Figure:
    """rho of one proxy against the learning rate: a line a domain, the mean in black."""
    figure, axes = single_axes(8.6, 4.0)
    from matplotlib import colormaps

    rows = [r for r in _of_tuned_target(result) if r["size"] == size]
    names = [d for d in result.domains if d != MEAN]
    colours = dict(zip(names, colormaps["tab20"](np.linspace(0, 0.95, max(1, len(names))))))
    for name in (*names, MEAN):
        mine = [r for r in rows if r["domain"] == name]
        axes.plot(
            [r["learning_rate"] for r in mine],
            [r["rho"] for r in mine],
            color=colours.get(name, INK),
            lw=2.2 if name == MEAN else 1.1,
            label=name,
        )
    log_axes(axes, "proxy's peak learning rate", "Spearman's rho")
    axes.set_title(f"Rank correlation by validation domain, proxy {size}")
    axes.legend(loc="best", ncols=2, fontsize=8)
    return figure


@styled
def regret(result: Result, reading: str = "best") -> Figure:
    """regret@k against the learning rate: a panel a proxy, a shade a k, a band for k = 1."""
    from matplotlib.figure import Figure

    sizes = [r["size"] for r in result.ranking.rates]
    found = [r for r in result.ranking.regret if r["reading"] == reading]
    figure = Figure(figsize=(max(5.0, 4.3 * len(sizes)), 3.8), layout="constrained")
    panels = figure.subplots(1, len(sizes), sharey=True, squeeze=False)[0]
    ks = sorted({r["k"] for r in result.ranking.regret})
    colours = size_colours([float(k) for k in ks])
    for axes, size in zip(panels, sizes):
        for k in ks:
            mine = [r for r in found if (r["size"], r["k"]) == (size, k)]
            x = [r["learning_rate"] for r in mine]
            # Light is many kept, dark is one: the choice that hurts most stands out.
            colour = colours[float(ks[-1] + ks[0] - k)] if ks[-1] + ks[0] - k in ks else MUTED
            axes.plot(
                x,
                _finite([r["regret"] for r in mine]),
                "o-",
                ms=4,
                color=colour,
                lw=1.3,
                label=f"k = {k}",
            )
            if k == 1:
                axes.fill_between(
                    x,
                    _finite([r["regret_low"] for r in mine]),
                    _finite([r["regret_high"] for r in mine]),
                    color=colour,
                    alpha=0.12,
                    lw=0,
                )
        log_axes(
            axes,
            "proxy's peak learning rate",
            "regret@k, nats per token" if size == sizes[0] else "",
        )
        axes.set_title(f"proxy {size}")
    panels[0].legend(loc="best")
    return figure


@styled
def slopes(result: Result) -> Figure:
    """Ranks of the recipes by each proxy at its standard and tiny rate, and by the tuned target.

    Lines that cross are wrong decisions.
    """
    from matplotlib.figure import Figure

    truth = result.ground_truth.loss[:, 0]
    shown = [p for p in result.ranking.rates if np.isfinite(p["eta_std"])]
    figure = Figure(
        figsize=(max(5.0, 4.3 * max(1, len(shown))), 0.26 * len(truth) + 1.8), layout="constrained"
    )
    panels = figure.subplots(1, max(1, len(shown)), squeeze=False)[0]
    colours = recipe_colours(truth)
    for axes, proxy in zip(panels, shown):
        grid = next(
            g for g in result.grids if (g.size, g.role, g.arm) == (proxy["size"], PROXY, MAIN)
        )
        columns = [
            ("standard", grid.mean()[0, :, grid.at(proxy["eta_std"])]),
            ("tuned target", truth),
        ]
        if proxy["eta_tiny"]:
            columns.append(("tiny", grid.mean()[0, :, grid.at(proxy["eta_tiny"])]))
        places = np.array([_places(values) for _, values in columns])
        for r in range(len(truth)):
            axes.plot(range(len(columns)), places[:, r], "o-", color=colours[r], lw=1.4, ms=4)
            axes.annotate(
                result.recipes[r],
                (1, places[1, r]),
                xytext=(4, 3),
                textcoords="offset points",
                fontsize=7,
                color=INK,
            )
        axes.set_xticks(range(len(columns)), [name for name, _ in columns])
        axes.invert_yaxis()
        axes.set_ylabel("rank, 1 is best")
        axes.set_title(f"proxy {proxy['size']}")
        axes.grid(False)
    return figure


def best_first(truth: np.ndarray) -> np.ndarray:
    """Indices of the recipes by the tuned target's loss [R]; those without one last."""
    return np.argsort(np.where(np.isnan(truth), np.inf, truth))


def recipe_colours(truth: np.ndarray) -> dict[int, tuple[float, ...]]:
    """Index of a recipe -> its colour, by the order of the tuned target's loss [R]."""
    from matplotlib import colormaps

    order = best_first(truth)
    last = max(1, len(order) - 1)
    return {int(r): colormaps["viridis"](i / last * 0.9) for i, r in enumerate(order)}


def _places(values: np.ndarray) -> np.ndarray:
    """Rank from 1, ties by their place in the table; NaN where there is no loss."""
    order = (
        np.argsort(
            np.argsort(np.where(np.isnan(values), np.inf, values), kind="stable"), kind="stable"
        )
        + 1.0
    )
    return np.where(np.isnan(values), np.nan, order)


def _finite(values: list[float]) -> np.ndarray:
    array = np.array(values, float)
    return np.where(np.isfinite(array), array, np.nan)
