"""The map of forecast errors as a figure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stepladder.analysis.decide.backtest.error_map import LEVELS, ErrorMap
from stepladder.analysis.figures.style import INK, MUTED, single_axes, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = ("#0b3c5d", "#328cc1", "#8cc7d8", "#e4e7eb")  # below each level, and above all


@styled
def draw(found: ErrorMap, title: str) -> Figure:
    """The map in four shades, with the average relative error (ARE) in per cent if it fits.

    The cheapest cell below each level has a ring.
    """
    from matplotlib.colors import BoundaryNorm, ListedColormap
    from matplotlib.patches import Patch, Rectangle

    rows, columns = found.are.shape
    figure, axes = single_axes(8.6, min(5.4, 1.6 + 0.36 * rows))
    shown = ListedColormap(_COLOURS).with_extremes(bad="white")
    edges = np.arange(columns + 1) - 0.5, np.arange(rows + 1) - 0.5
    axes.pcolormesh(
        *edges,
        found.are,
        cmap=shown,
        norm=BoundaryNorm([0, *LEVELS, np.inf], len(_COLOURS)),
        edgecolor="white",
        lw=0.8,
        rasterized=rows > 12,
    )
    if rows <= 12:
        for (i, j), are in np.ndenumerate(found.are):
            colour = MUTED if not np.isfinite(are) else "white" if are < LEVELS[1] else INK
            text = "–" if not np.isfinite(are) else f"{100 * are:.1f}" if are < 1 else ">100"
            axes.text(j, i, text, ha="center", va="center", fontsize=8.5, color=colour)
    grid = found.cells.reset_index(drop=True)
    for best in found.cheapest.dropna().itertuples():
        at = int(np.flatnonzero((grid["flops"] == best.flops) & (grid["are"] == best.are))[0])
        axes.add_patch(
            Rectangle(
                (at % columns - 0.5, at // columns - 0.5),
                1,
                1,
                fill=False,
                ec="#c8384f",
                lw=2,
                zorder=3,
            )
        )
    axes.set_xticks(range(columns), [f"{p:.0%}" for p in found.fractions])
    step = max(1, rows // 12)
    axes.set_yticks(range(0, rows, step), found.rows[::step])
    axes.grid(False)
    axes.set_xlabel("share of the selected models' longest training that is used")
    names = ["< 4 %", "4 to 10 %", "10 to 20 %", "> 20 %"]
    handles = [Patch(fc=c, label=n) for c, n in zip(_COLOURS, names)]
    handles += [
        Patch(fc="white", ec=MUTED, label="refused"),
        Patch(fc="white", ec="#c8384f", lw=2, label="cheapest below a level"),
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=6, handlelength=1.2, columnspacing=1.2
    )
    axes.set_title(title)
    return figure
