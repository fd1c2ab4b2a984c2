"""Figures of Approach 2: the profile of each budget with its minimum, and how the compute-optimal size grows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from stepladder.analysis.figures import INK, MUTED, TARGET, _log, _styled, size_colours
from stepladder.analysis.isoflop import Isoflop, Minimum
from stepladder.analysis.plots_fit import exponents, panels
from stepladder.configs.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

@_styled
def isoflop(result: Isoflop, points: pd.DataFrame | None = None) -> Figure:
    """The parabola of each budget with its minimum, and N* against C with the power law; refused budgets are marked and say why.

    points: the table given to `isoflop`, to be drawn too. Raises UserError when there is nothing to draw.
    """
    good = [m for m in result.minima if not m.refused]
    if not good and points is None:
        raise UserError(f"points=None: all {len(result.minima)} budgets were refused, so there is no minimum to draw; give the points")
    figure, panels = _panels(2 if good else 1, most=2, width=4.8)
    _budgets(panels[0], result, points)
    if good:
        _growth(panels[1], result, good)
    refused = [f"refused, C = {human(m.C) if m.C < 1e15 else f'{m.C:.3g}'} FLOPs: {m.refused}" for m in result.minima if m.refused]
    if len(refused) > 4:
        refused = [*refused[:3], f"and {len(refused) - 3} more"]
    if refused:
        figure.supxlabel("\n".join(refused), fontsize=8, color=MUTED)
    return figure


def _budgets(axes: Axes, result: Isoflop, points: pd.DataFrame | None) -> None:
    colours = size_colours([m.C for m in result.minima])
    rows: dict[float, pd.DataFrame] = {}
    if points is not None:
        c = points["budget" if "budget" in points else "C"].to_numpy(float)
        centres = np.array([m.C for m in result.minima])
        nearest_budget = np.abs(np.log(c)[:, None] - np.log(centres)[None, :]).argmin(1)
        rows = {m.C: points[nearest_budget == k].sort_values("N") for k, m in enumerate(result.minima)}
    for m in result.minima:
        seen, colour = rows.get(m.C), MUTED if m.refused else colours[m.C]
        if seen is not None:
            axes.plot(seen["N"], seen["loss"], "o", ms=4.5, mfc="none" if m.refused else colour, mec=MUTED if m.refused else "white", mew=0.8,
                      label=f"C = {m.C:.2g}" + (" refused" if m.refused else ""))  # fmt: skip
        if m.refused:
            continue
        name = f"C = {m.C:.2g}" if seen is None else None
        if m.curvature is not None:
            # Without the points a parabola has no ends: a factor of 4 to either side, about as wide as profiles are.
            n = np.geomspace(*((m.N / 4, m.N * 4) if seen is None else (seen["N"].min(), seen["N"].max())), _GRID)
            axes.plot(n, m.loss + m.curvature * np.log(n / m.N) ** 2, color=colour, lw=1.2, label=name)
        elif seen is not None:
            axes.plot(seen["N"], seen["loss"], color=colour, lw=1.0)
        ends = None if m.N_interval is None else np.abs(np.array(m.N_interval)[:, None] - m.N)
        axes.errorbar(m.N, m.loss, xerr=ends, fmt="D", ms=5, mfc="white", mec=TARGET, mew=1.4, ecolor=TARGET, capsize=2, zorder=4)
    _log(axes, "N, parameters", "loss, nats per token")
    axes.set_title(f"isoFLOP profiles and minima ({result.method})")
    axes.legend(loc="best", title="FLOPs", ncols=2)


def _growth(axes: Axes, result: Isoflop, good: list[Minimum]) -> None:
    c, n = (np.array([getattr(m, name) for m in good]) for name in ("C", "N"))
    ends = None
    if all(m.N_interval for m in good):
        ends = np.abs(np.array([m.N_interval for m in good]).T - n)
    axes.errorbar(c, n, yerr=ends, fmt="D", ms=5, mfc="white", mec=TARGET, mew=1.4, ecolor=TARGET, capsize=2, zorder=4, label="N*")
    every = [m.C for m in result.minima]
    if result.N is not None:
        span = result.N.exponent_interval
        name = f"N* ~ C^{result.N.exponent:.3f}" + (f" ({span[0]:.3f} to {span[1]:.3f})" if span else "")
        x = np.geomspace(min(every) / 1.3, max(every) * 1.3, 2)
        axes.plot(x, result.N.at(x), color=INK, lw=1.2, label=name)
    refused = [m.C for m in result.minima if m.refused]
    if refused:
        axes.plot(refused, np.full(len(refused), 0.03), "x", ms=7, mew=1.6, color=MUTED, transform=axes.get_xaxis_transform(),
                  clip_on=False, ls="none", label=f"refused ({len(refused)})")  # fmt: skip
    if len(every) > 1:
        axes.set_xlim(min(every) / 1.5, max(every) * 1.5)
    _log(axes, "C, FLOPs", "N*, parameters", y=True)
    axes.xaxis.set_major_formatter(lambda v, _: f"{v:.0e}".replace("e+", "e"))
    axes.set_title("Compute-optimal size")
    axes.legend(loc="best")


