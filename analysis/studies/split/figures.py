"""The figures: loss against split fraction, held-out errors of the laws, best split by budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from stepladder.analysis.decide.split import FLAT
from stepladder.analysis.figures.style import (
    INK,
    MUTED,
    TARGET,
    Svg,
    log_axes,
    panels,
    single_axes,
    size_colours,
    styled,
    svg,
)
from stepladder.analysis.studies.split.measures import Row
from stepladder.analysis.studies.split.measures.best_split import ALL
from stepladder.analysis.studies.split.measures.held_out import NEAREST, SHARE, SIZE, TOTAL
from stepladder.analysis.studies.split.result import Found, Result
from stepladder.analysis.tables.numbers import human

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANELS = 6
_FINE = 121  # points of a law's curve
_ASIDE = 1.05  # factor between the marks of two sizes


def draw(result: Result) -> dict[str, Svg]:
    """Name -> drawing, of every figure there is data for."""
    found = result.found
    drawn = {
        "loss": svg(loss(found), "loss against split fraction, by size and total"),
        "best": svg(best(found), "best split against the total, observed and predicted"),
    }
    if found.law_held_out:
        drawn["held_out"] = svg(held_out(found), "held-out errors of the laws with intervals")
    return drawn


@styled
def loss(found: Found) -> Figure:
    """Mean loss against s: a panel a size, a colour a total; the curve is the chosen law's.

    A filled triangle is the observed best, a hollow one the law's.
    """
    sizes = sorted({r["N"] for r in found.cells})[-_PANELS:]
    figure, grid = panels(len(sizes), 2, 5.2)
    colours = size_colours([r["T"] for r in found.cells])
    for axes, n in zip(grid, sizes):
        totals = sorted({r["T"] for r in found.cells if r["N"] == n})
        for t in totals:
            mine = [r for r in found.cells if (r["N"], r["T"]) == (n, t)]
            _bars(axes, mine, "s", "loss", colours[t], f"T = {human(t)}", line=False)
            _law_curve(axes, found, n, t, colours[t])
            top = next(r for r in found.observed if (r["N"], r["T"]) == (n, t))
            axes.plot(top["s"], top["loss"], "v", ms=8, mfc=TARGET, mec="white", zorder=5)
        axes.set_title(f"N = {human(n)}")
        axes.set_xlabel("split fraction s = D / T")
        axes.set_ylabel("loss on the own domain, nats" if axes is grid[0] else "")
        axes.legend(loc="best", fontsize=8)
    return figure


def _law_curve(axes: Axes, found: Found, n: float, t: float, colour: str) -> None:
    if found.chosen is None:
        return
    one = found.fits.pooled[found.chosen]
    s = np.linspace(0, 1, _FINE)
    values = one.loss(np.full(_FINE, n), s * t, (1 - s) * t)
    high = max(r["loss"] for r in found.cells if (r["N"], r["T"]) == (n, t))
    good = np.isfinite(values) & (values < high + 0.5)  # some laws rise without end at the ends
    axes.plot(s[good], values[good], color=colour, lw=1.1, ls="--")
    row = next(
        r
        for r in found.predicted
        if (r["law"], r["fit"], r["N"], r["T"]) == (found.chosen, ALL, n, t)
    )
    if row["state"] != FLAT:
        at = np.interp(row["s"], s[good], values[good])
        axes.plot(row["s"], at, "v", ms=8, mfc="none", mec=INK, zorder=6)


def _bars(
    axes: Axes,
    rows: Sequence[Row],
    x: str,
    name: str,
    colour: str,
    label: str | None,
    *,
    line: bool = True,
) -> None:
    """Marks with their intervals; one without an interval is hollow."""
    rows = sorted(rows, key=lambda r: r[x])
    place, value, low, high = (
        np.array([r[k] for r in rows], float) for k in (x, name, f"{name}_low", f"{name}_high")
    )
    axes.plot(place, value, color=colour, lw=1.2 if line else 0, marker="o", ms=4, label=label)
    known = np.isfinite(low) & np.isfinite(high)
    reach = np.maximum(np.stack([value - low, high - value]), 0)[:, known]
    axes.errorbar(
        place[known], value[known], yerr=reach, fmt="o", ms=4.5, lw=1, capsize=2, color=colour
    )
    axes.plot(place[~known], value[~known], "o", ms=4.5, mfc="white", mec=colour)


@styled
def held_out(found: Found) -> Figure:
    """Root mean square errors with intervals: a panel what is hidden, a row a law."""
    splits = [s for s in (SIZE, TOTAL, SHARE) if any(_of(found, s))]
    figure, grid = panels(len(splits), 3)
    for axes, split in zip(grid, splits):
        rows = sorted(_of(found, split), key=lambda r: -r["rank"])
        for k, row in enumerate(rows):
            colour = MUTED if row["law"] == NEAREST else INK
            colour = TARGET if row["law"] == found.chosen else colour
            ends = [row["rmse_low"], row["rmse_high"]]
            if np.isfinite(ends).all():
                axes.plot(ends, [k, k], color=colour, lw=2)
            axes.plot(row["rmse"], k, "o", ms=6, color=colour)
        if all(r["rmse"] > 0 for r in rows):
            axes.set_xscale("log")
        axes.set_yticks(range(len(rows)), [r["law"] for r in rows])
        axes.set_xlabel("error, nats (root mean square)")
        axes.set_title(f"hidden: {split}")
    return figure


def _of(found: Found, split: str) -> list[Row]:
    return [r for r in found.law_held_out if r["held_out"] == split]


@styled
def best(found: Found) -> Figure:
    """Best split against T: observed with intervals, and by the chosen law (dashed)."""
    figure, axes = single_axes(7.4, 4.0)
    colours = size_colours([r["N"] for r in found.observed])
    for n, colour in colours.items():
        # Equal totals of two sizes stand beside each other.
        aside = _ASIDE ** (list(colours).index(n) - (len(colours) - 1) / 2)
        mine = [r | {"T": r["T"] * aside} for r in found.observed if r["N"] == n]
        _bars(axes, mine, "T", "s", colour, f"N = {human(n)}", line=False)
        law = [
            r
            for r in found.predicted
            if (r["law"], r["fit"], r["N"]) == (found.chosen, ALL, n) and r["state"] != FLAT
        ]
        if law:
            axes.plot([r["T"] for r in law], [r["s"] for r in law], color=colour, lw=1.2, ls="--")
    axes.set_ylim(-0.05, 1.05)
    log_axes(axes, "T, tokens", "best split fraction s")
    axes.set_title(f"Best split against the total; dashed: {found.chosen or 'no law'}")
    axes.legend(loc="best", fontsize=8)
    return figure
