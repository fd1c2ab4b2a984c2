"""Figures of Chinchilla's Approach 2: isoFLOP profiles, and the growth of the optimal size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from stepladder.analysis.decide.isoflop import Isoflop
from stepladder.analysis.decide.minimum import Minimum
from stepladder.analysis.figures.style import (
    INK,
    MUTED,
    TARGET,
    flops_ticks,
    log_axes,
    panels,
    size_colours,
    styled,
)
from stepladder.configs.core.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# a parabola without its points has no ends: drawn to this factor on either side, about as wide as
# profiles are
_WIDTH = 4.0
_MOST_REASONS = 4
_STAR = {
    "fmt": "D",
    "ms": 5,
    "mfc": "white",
    "mec": TARGET,
    "mew": 1.4,
    "ecolor": TARGET,
    "capsize": 2,
    "zorder": 4,
}


@styled
def isoflop(result: Isoflop, points: pd.DataFrame | None = None) -> Figure:
    """The parabola of each budget with its minimum, and N* against C with the power law.

    Budgets that were refused are marked, with the reason.

    Args:
        result: the minima and their power law.
        points: the table that `decide.isoflop` was given, to be drawn too.

    Raises:
        UserError: when there is nothing to draw.
    """
    good = [m for m in result.minima if not m.refused]
    if not good and points is None:
        raise UserError(
            f"points=None: all {len(result.minima)} budgets were refused, so there is no minimum "
            "to draw; give the points"
        )
    figure, several = panels(2 if good else 1, most=2, width=4.8)
    _profiles(several[0], result, points)
    if good:
        _growth(several[1], result, good)
    reasons = [f"refused, C = {m.C:.3g} FLOPs: {m.refused}" for m in result.minima if m.refused]
    if len(reasons) > _MOST_REASONS:
        reasons = [*reasons[: _MOST_REASONS - 1], f"and {len(reasons) - _MOST_REASONS + 1} more"]
    if reasons:
        figure.supxlabel("\n".join(reasons), fontsize=8, color=MUTED)
    return figure


def _profiles(axes: Axes, result: Isoflop, points: pd.DataFrame | None) -> None:
    colours = size_colours([m.C for m in result.minima])
    rows = [None] * len(result.minima) if points is None else _by_budget(result, points)
    for m, seen in zip(result.minima, rows):
        colour, name = colours[m.C], f"{m.C:.3g}{' refused' if m.refused else ''}"
        if seen is not None:
            fill, edge = ("none", MUTED) if m.refused else (colour, "white")
            axes.plot(seen["N"], seen["loss"], "o", ms=4.5, mfc=fill, mec=edge, mew=0.8, label=name)
        if m.N is None or m.loss is None:  # refused
            continue
        if m.curvature is not None:
            ends = (
                (m.N / _WIDTH, m.N * _WIDTH) if seen is None else (seen["N"].min(), seen["N"].max())
            )
            n = np.geomspace(*ends, 40)
            axes.plot(
                n,
                m.loss + m.curvature * np.log(n / m.N) ** 2,
                color=colour,
                lw=1.2,
                label=name if seen is None else None,
            )
        elif seen is not None:  # an interpolation, not a parabola
            axes.plot(seen["N"], seen["loss"], color=colour, lw=1.0)
        axes.errorbar(m.N, m.loss, xerr=_away(m.N, [m.N_interval]), **_STAR)
    log_axes(axes, "N, parameters", "loss, nats per token")
    axes.set_title(f"isoFLOP profiles ({result.method})")
    if axes.get_legend_handles_labels()[1]:
        axes.legend(loc="best", title="C, FLOPs", ncols=2 if len(result.minima) > 5 else 1)


def _by_budget(result: Isoflop, points: pd.DataFrame) -> list[pd.DataFrame]:
    """The points of each minimum, by the nearest budget."""
    name = "budget" if "budget" in points else "C"
    for column in (name, "N", "loss"):
        if column not in points:
            raise UserError(
                f"points: has no column {column!r}; give the table that `isoflop` was given"
            )
    far = np.abs(
        np.log(points[name].to_numpy(float))[:, None] - np.log([m.C for m in result.minima])
    )
    return [points[far.argmin(1) == k].sort_values("N") for k in range(len(result.minima))]


def _growth(axes: Axes, result: Isoflop, good: list[Minimum]) -> None:
    c, n = (np.array([getattr(m, name) for m in good]) for name in ("C", "N"))
    axes.errorbar(c, n, yerr=_away(n, [m.N_interval for m in good]), **_STAR, label="minima")
    every = [m.C for m in result.minima]
    if result.N is not None:
        span = result.N.exponent_interval
        name = f"N* ~ C^{result.N.exponent:.3f}" + (
            f" ({span[0]:.3f} to {span[1]:.3f})" if span else ""
        )
        x = np.array([min(every) / 1.3, max(every) * 1.3])
        axes.plot(x, result.N.at(x), color=INK, lw=1.2, label=name)
    refused = [m.C for m in result.minima if m.refused]
    if refused:
        foot = axes.get_xaxis_transform()
        axes.plot(
            refused,
            np.full(len(refused), 0.03),
            "x",
            ms=7,
            mew=1.6,
            color=MUTED,
            transform=foot,
            label=f"refused ({len(refused)})",
        )
    axes.set_xlim(min(every) / 1.5, max(every) * 1.5)
    log_axes(axes, "C, FLOPs", "N*, parameters", y=True)
    flops_ticks(axes.xaxis)
    axes.set_title("Compute-optimal size")
    axes.legend(loc="best")


def _away(
    middle: float | np.ndarray, intervals: Sequence[tuple[float, float] | None]
) -> np.ndarray | None:
    """[2, m]: distances of the ends of intervals from `middle`, for error bars: 0 where there is no
    interval; None where there is none at all.
    """
    if not any(intervals):
        return None
    ends = np.array([i or (np.nan, np.nan) for i in intervals]).T
    return np.nan_to_num(np.abs(ends - middle))
