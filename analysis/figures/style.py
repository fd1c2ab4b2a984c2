"""The style of every figure: colours, ticks, and axes to draw on.

One colour stands for the target, one scale from light to dark for sizes.
"""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np

from stepladder.analysis.tables.numbers import human

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TARGET, INK, MUTED, GRID = "#c8384f", "#1f2933", "#7b8794", "#e4e7eb"
_SMALL, _LARGE = "#8cc7d8", "#0b3c5d"
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "stepladder",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": True,
    "legend.edgecolor": "none",
    "legend.framealpha": 0.85,
    "legend.fontsize": 9,
    "lines.solid_capstyle": "round",
}


P = ParamSpec("P")
T = TypeVar("T")


class Svg(str):
    """One <svg> element that `svg` made: the only text that a page's template does not escape."""

    def __html__(self) -> str:
        return str(self)


def styled(draw: Callable[P, T]) -> Callable[P, T]:
    """Draw under the report's style: matplotlib reads it when an artist is made."""

    @functools.wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> T:
        import matplotlib

        with matplotlib.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return styled


@styled
def svg(figure: Figure, label: str) -> Svg:
    """A figure as one inline <svg> element; `label` is its accessible name.

    It has no prolog, no metadata and no fixed size.
    """
    buffer = io.StringIO()
    figure.savefig(
        buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
    )
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.S)
    head, rest = text.split(">", 1)
    head = re.sub(r'\s(width|height)="[^"]*"', "", head)
    return Svg(f'{head} role="img" aria-label="{escape(label, quote=True)}">{rest}')


def size_colours(ns: list[float]) -> dict[float, str]:
    """From light (smallest N) to dark (largest N), by rank."""
    from matplotlib.colors import LinearSegmentedColormap, to_hex

    ranked = sorted(set(ns))
    scale = LinearSegmentedColormap.from_list("sizes", [_SMALL, "#328cc1", _LARGE])
    return {n: to_hex(scale(i / max(1, len(ranked) - 1))) for i, n in enumerate(ranked)}


def single_axes(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of one pair of axes; width and height in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def small(value: float, digits: int = 0) -> str:
    """A number below 1 by its power of ten: 3e-4."""
    return f"{value:.{digits}e}".replace("e-0", "e-")


def log_axes(axes: Axes, x: str, y_label: str, y: bool = False) -> None:
    """Logarithmic axes with ticks a person reads (20k, 1M), few enough not to touch."""
    from matplotlib.ticker import (
        FuncFormatter,
        LogLocator,
        MaxNLocator,
        NullFormatter,
        ScalarFormatter,
    )

    def ticks(axis: Any, low: float, high: float) -> None:
        decades = np.log10(high / low)
        if decades < 0.7:
            axis.set_major_locator(MaxNLocator(6))
            axis.set_major_formatter(
                ScalarFormatter() if high < 1e3 else FuncFormatter(lambda v, _: human(v))
            )
        else:
            axis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 3 else (1,)))
            axis.set_major_formatter(
                FuncFormatter(lambda v, _: human(v) if v >= 0.01 else small(v))
            )
        axis.set_minor_formatter(NullFormatter())

    axes.set_xscale("log")
    ticks(axes.xaxis, *axes.get_xlim())
    if y:
        axes.set_yscale("log")
        ticks(axes.yaxis, *axes.get_ylim())
    axes.set_xlabel(x)
    axes.set_ylabel(y_label)


def flops_ticks(axis: Any) -> None:
    """Ticks such as 1e21 on an axis of numbers too large for k, M, B and T."""
    if axis.get_view_interval()[1] >= 1e15:
        axis.set_major_formatter(lambda v, _: f"{v:.3g}".replace("e+", "e"))


def panels(count: int, most: int, width: float = 4.4) -> tuple[Figure, list[Axes]]:
    """A figure of `count` axes, `most` in a row."""
    from matplotlib.figure import Figure

    columns = min(count, most)
    rows = -(-count // columns)
    figure = Figure(figsize=(width * columns, 3.8 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[count:]:
        axes.set_axis_off()
    return figure, list(grid[:count])
