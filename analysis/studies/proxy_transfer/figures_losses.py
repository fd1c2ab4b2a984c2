"""Figures of the losses themselves: a curve a recipe, flips, crossovers, and arms."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

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
from stepladder.analysis.studies.proxy_transfer.figures import best_first, recipe_colours
from stepladder.analysis.studies.proxy_transfer.measures.flips import crossings
from stepladder.analysis.studies.proxy_transfer.read_table import MAIN, MEAN

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from stepladder.analysis.studies.proxy_transfer.result import Result


@styled
def curves(result: Result) -> Figure:
    """Loss against the learning rate: a panel a size, a line a recipe, coloured by the order of the
    tuned target.
    """
    from matplotlib.figure import Figure

    whole = [g for g in result.grids if g.arm == MAIN]
    columns = min(3, len(whole))
    lines = -(-len(whole) // columns)
    figure = Figure(figsize=(max(5.0, 3.7 * columns), 3.4 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    truth = result.ground_truth.loss[:, 0]
    colour = recipe_colours(truth)
    for axes in panels[len(whole) :]:
        axes.set_axis_off()
    for axes, grid in zip(panels, whole):
        loss = np.where(np.isfinite(grid.mean()[0]), grid.mean()[0], np.nan)
        for r, row in enumerate(loss):
            axes.plot(
                grid.rates, row, "o-", color=colour[r], lw=1.1, ms=2.5, label=result.recipes[r]
            )
        log_axes(
            axes, "peak learning rate", "mean loss, nats per token" if grid is whole[0] else ""
        )
        axes.set_title(f"{grid.role} {grid.size}")
    if len(truth) <= 16:
        panels[0].legend(fontsize=6, ncols=2)
    return figure


@styled
def flip_rates(result: Result) -> Figure:
    """Share of pairs that flip between neighbouring rates: a line a size, dotted what noise alone
    would make.
    """
    figure, axes = single_axes(8.6, 3.8)
    rows = [r for r in result.flips.rates if r["domain"] == MEAN and r["pairs"]]
    colours = size_colours([r["N"] for r in rows])
    for size in dict.fromkeys(r["size"] for r in rows):
        mine = [r for r in rows if r["size"] == size]
        x = [np.sqrt(r["rate_low"] * r["rate_high"]) for r in mine]
        y, low, high = (
            np.array([r[k] for r in mine]) for k in ("flip_rate", "flip_rate_low", "flip_rate_high")
        )
        target = mine[0]["role"] == "target"
        colour = TARGET if target else colours[mine[0]["N"]]
        axes.errorbar(
            x,
            y,
            yerr=[np.maximum(0, y - low), np.maximum(0, high - y)],
            fmt="o-",
            ms=5,
            lw=1.3,
            capsize=3,
            color=colour,
            label=f"{mine[0]['role']} {size}",
        )
        axes.plot(x, [r["by_chance"] / r["pairs"] for r in mine], color=colour, lw=1, ls=":")
    log_axes(axes, "between neighbouring learning rates", "share of pairs that flip")
    axes.set_title("Flips beyond 2 seed SDs of the gap; dots: what noise alone makes")
    axes.legend(loc="best")
    return figure


@styled
def flip_matrix(result: Result) -> Figure:
    """Learning rate at which each pair first crosses beyond noise: a panel a size, recipes in the
    order of the tuned target; blank: no crossing.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    whole = [g for g in result.grids if g.arm == MAIN]
    order = best_first(result.ground_truth.loss[:, 0])
    rates = np.log10([r for g in whole for r in g.rates])
    figure = Figure(figsize=(max(5.0, 3.9 * len(whole)), 4.2), layout="constrained")
    panels = figure.subplots(1, len(whole), squeeze=False)[0]
    for axes, grid in zip(panels, whole):
        cells = np.full((len(order), len(order)), np.nan)
        for (a, b), rate in crossings(grid).items():
            cells[a, b] = cells[b, a] = np.log10(rate)
        image = axes.imshow(
            cells[np.ix_(order, order)],
            cmap="viridis",
            vmin=rates.min(),
            vmax=rates.max(),
            rasterized=False,
        )
        axes.set_xticks(
            range(len(order)), [result.recipes[r] for r in order], rotation=90, fontsize=6
        )
        axes.set_yticks(range(len(order)), [result.recipes[r] for r in order], fontsize=6)
        axes.grid(False)
        axes.set_title(f"{grid.role} {grid.size}")
    bar = figure.colorbar(
        image,
        ax=list(panels),
        shrink=0.8,
        format=FuncFormatter(lambda v, _: f"{10**v:.0e}".replace("e-0", "e-")),
    )
    bar.set_label("learning rate of the first crossing")
    return figure


@styled
def crossovers(result: Result) -> Figure:
    """Predicted against observed crossover rate of each pair that has both: a panel a direction of
    the step, a colour a size, a mark a fraction of training.
    """
    from matplotlib.figure import Figure

    pairs = [
        p
        for p in result.alignment.crossover_pairs
        if np.isfinite(p["predicted"]) and np.isfinite(p["observed"])
    ]
    directions = list(dict.fromkeys(p["along"] for p in pairs))
    figure = Figure(figsize=(max(5.6, 4.6 * len(directions)), 4.6), layout="constrained")
    ns = {g.size: g.N for g in result.grids}
    colours = size_colours([ns[s] for s in dict.fromkeys(p["size"] for p in pairs)])
    marks = dict(zip(sorted({p["fraction"] for p in pairs}), itertools.cycle("os^Dv<>")))
    for axes, along in zip(figure.subplots(1, len(directions), squeeze=False)[0], directions):
        mine = [p for p in pairs if p["along"] == along]
        for size, fraction in dict.fromkeys((p["size"], p["fraction"]) for p in mine):
            x, y = zip(
                *(
                    (p["predicted"], p["observed"])
                    for p in mine
                    if (p["size"], p["fraction"]) == (size, fraction)
                )
            )
            look = {"ms": 4, "mfc": colours[ns[size]], "mec": "white", "mew": 0.4, "ls": "none"}
            axes.plot(x, y, marks[fraction], label=f"{size} at {fraction:.0%}", **look)
        ends = [f(v for p in mine for v in (p["predicted"], p["observed"])) for f in (min, max)]
        axes.plot(ends, ends, color=INK, lw=1, ls="--")
        log_axes(
            axes,
            f"predicted along the {along}",
            "observed" if along == directions[0] else "",
            y=True,
        )
        axes.set_title("Learning rate at which a pair crosses" if along == directions[0] else "")
        axes.legend(fontsize=8)
    return figure


@styled
def arms(result: Result) -> Figure:
    """rho of every arm against the main arm's at the same learning rate; on the line, the setting
    changes nothing.
    """
    figure, axes = single_axes(5.6, 4.6)
    rows = [r for r in result.ranking.arms if np.isfinite([r["rho"], r["main_rho"]]).all()]
    families = list(dict.fromkeys(r["family"] for r in rows))
    colours = itertools.cycle(("#0b3c5d", "#e0a100", "#1b7f5c", TARGET, MUTED, "#7048a8"))
    for family, colour in zip(families, colours):
        mine = [r for r in rows if r["family"] == family]
        y = np.array([r["rho"] for r in mine])
        ends = [
            np.maximum(0, y - [r["rho_low"] for r in mine]),
            np.maximum(0, np.array([r["rho_high"] for r in mine]) - y),
        ]
        axes.errorbar(
            [r["main_rho"] for r in mine],
            y,
            yerr=ends,
            fmt="o",
            ms=5,
            color=colour,
            lw=0.9,
            label=family,
        )
    low = min([r[k] for r in rows for k in ("rho", "main_rho")])
    axes.plot([low, 1], [low, 1], color=INK, lw=1, ls="--")
    axes.set_xlabel("rho of the main arm at the same rate")
    axes.set_ylabel("rho of the arm")
    axes.set_title("What batch, weight decay, tokens and steps change")
    axes.legend(fontsize=8)
    return figure
