"""The figure of a coordinate check: one panel an activation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stepladder.analysis.figures.style import INK, MUTED, TARGET, styled, svg
from stepladder.analysis.studies.coordinates.study import Check
from stepladder.configs.core import record
from stepladder.configs.core.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# colour, marker and line of each parametrisation
_LOOKS = {
    "standard": (TARGET, "o", "-"),
    "mup": ("#328cc1", "s", "-"),
    "completep": ("#2f855a", "^", "--"),
}


@styled
def draw(check: Check) -> Figure:
    """A panel for each activation: its mean |change| after the last step against the axis.

    Each parametrisation has a line.
    """
    from matplotlib.figure import Figure

    rows = check.rows[check.rows["step"] == check.rows["step"].max()]
    names = list(dict.fromkeys(rows["name"]))
    sizes = sorted(rows[check.axis].unique())
    figure = Figure(figsize=(10.5, 5.0), layout="constrained")
    grid = figure.subplots(2, -(-len(names) // 2), sharex=True).ravel()
    for axes, activation in zip(grid, names):
        shown = rows[rows["name"] == activation]
        for name, group in shown.groupby("parametrization", sort=False):
            line = group.groupby(check.axis)["change"].mean()
            colour, marker, style = _LOOKS.get(name, (MUTED, "o", "-"))
            axes.plot(
                line.index,
                line.to_numpy(),
                color=colour,
                marker=marker,
                ls=style,
                ms=4,
                mec="white",
                mew=0.5,
                label=name,
            )
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
        axes.set_title(activation, color=INK)
    for axes in grid[len(names) :]:
        axes.set_axis_off()
    grid[len(names) - 1].legend(loc="best")
    figure.supxlabel(check.axis)
    figure.supylabel(f"mean |change| after {rows['step'].max()} steps")
    return figure


def write(check: Check, workdir: str | Path) -> Path:
    """Draw the check next to its numbers; returns the figure's path."""
    path = Path(workdir) / record.STUDIES / f"coordinates-{check.axis}.svg"
    drawn = svg(draw(check), f"change of activations against {check.axis}")
    write_atomic(path, drawn + "\n", sync=False)
    return path
