"""The figure of a fit's extrapolation: the law through its points, and a forecast with its band."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from stepladder.analysis.figures.fit import (
    COUNTS,
    farthest,
    label,
    named,
    no_points,
    points_of,
    scale_axis,
)
from stepladder.analysis.figures.style import TARGET, single_axes, size_colours, styled
from stepladder.analysis.fit import simulate
from stepladder.analysis.fit.bootstrap import Bootstrap
from stepladder.analysis.fit.levels import check_level, percent, percentile_interval
from stepladder.analysis.fit.result import Fit
from stepladder.configs.core.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# sizes that the law is drawn through: every one where there are few, else spread over the range
_MOST_CURVES = 6
_SIMULATED, _GRID = 400, 40  # simulated tables of a band; values along its curve


@dataclass(frozen=True)
class Band:
    """A curve with its band along one input, all arrays of one length; label: what the band is."""

    x: np.ndarray
    middle: np.ndarray
    low: np.ndarray
    high: np.ndarray
    label: str


def no_line(fit: Fit) -> str:
    """Why `extrapolation` cannot draw the fit, or nothing."""
    if any(a.kind in COUNTS for a in fit.problem.law.axes):
        return no_points(fit)
    return "no logarithmic input to extrapolate along; plot the residuals"


@styled
def extrapolation(
    fit: Fit,
    bootstrap: Bootstrap | None = None,
    at: Mapping[str, float] | None = None,
    level: float = 0.9,
    seed: int = 0,
) -> Figure:
    """Output against the law's last logarithmic input, and in red a forecast with its band.

    The points are drawn, and the law through some of their sizes.

    Args:
        fit: the law.
        bootstrap: its refits; the band is then the error of the parameters over them. Without, it
            is where a new run falls (tables simulated from the fit).
        at: the inputs to forecast, by default those of the largest point with ten times the last.
        level: of the band.
        seed: of the simulated tables.

    Raises:
        UserError: for a fit that cannot be drawn so, a bootstrap of another law, a bad level.
    """
    if no_line(fit):
        raise UserError(f"law={fit.law!r}: {no_line(fit)}")
    if bootstrap is not None and bootstrap.fit.law != fit.law:
        raise UserError(
            f"bootstrap.fit.law={bootstrap.fit.law!r}: the fit is of {fit.law!r}; bootstrap this "
            "fit"
        )
    check_level(level)
    law, points = fit.problem.law, points_of(fit)
    along = [a.name for a in law.axes if a.kind in COUNTS][-1]
    others = [name for name in law.inputs if name != along]
    if at is None:
        largest = points.loc[farthest(law, points)]
        at = {name: float(largest[name]) for name in others} | {along: 10 * points[along].max()}
    best = float(fit.predict(**at))  # first, as it names a missing input
    figure, axes = single_axes(8.6, 4.6)
    law_through(axes, fit, points, along)
    least, most = points[along].min() / 1.2, 1.2 * max(points[along].max(), at[along])
    x = np.unique([*np.geomspace(least, most, _GRID), at[along]])
    grid = {name: np.full(len(x), float(at[name])) for name in others} | {along: x}
    middle, said = fit.predict(**grid), f"{best:.4g} at {named({k: at[k] for k in law.inputs})}"
    ends, what = _band(fit, bootstrap, grid, level, seed)
    if ends is None:
        axes.plot(x, middle, color=TARGET, lw=1.2, ls="--")
        _mark(axes, at[along], best, said)
    else:
        here = int(np.searchsorted(x, at[along]))
        interval = float(ends[0, here]), float(ends[1, here])
        draw_forecast(
            axes, Band(x, middle, ends[0], ends[1], what), at[along], best, interval, said
        )
    scale_axis(axes, law, along, label(law, law.output))
    axes.set_title(f"{fit.law} through the points, and its extrapolation")
    axes.legend(loc="best", ncols=2)
    return figure


def law_through(
    axes: Axes, fit: Fit, points: pd.DataFrame, along: str, most: int = _MOST_CURVES
) -> None:
    """Draw the points, and the law through `most` settings of the inputs other than `along`.

    Each different setting (up to 1 %) has a shade of its own.
    """
    others = [name for name in fit.problem.law.inputs if name != along]
    with np.errstate(divide="ignore"):
        settings = [tuple(np.round(np.log(row), 2)) for row in points[others].to_numpy(float)]
    ranked = sorted(set(settings))
    chosen = np.linspace(0, len(ranked) - 1, min(len(ranked), most)).round()
    colours = size_colours(list(range(len(ranked))))
    dots = {"ms": 5, "mec": "white", "mew": 0.8}
    for rank, setting in enumerate(ranked):
        rows = points[[s == setting for s in settings]]
        same, colour = rows[others].iloc[0], colours[rank]
        name = (named(same) or "points") if rank in chosen else None
        axes.plot(rows[along], rows[fit.problem.law.output], "o", mfc=colour, label=name, **dots)
        if others and rank in chosen:
            x = np.geomspace(rows[along].min() / 1.2, rows[along].max() * 1.2, _GRID)
            axes.plot(x, fit.predict(**{along: x, **same}), color=colour, lw=1.2)


def draw_forecast(
    axes: Axes, band: Band, x: float, best: float, interval: tuple[float, float], said: str
) -> None:
    """Draw the band and its curve in red, and at `x` the forecast `best` with its interval."""
    axes.fill_between(band.x, band.low, band.high, color=TARGET, alpha=0.13, lw=0, label=band.label)
    axes.vlines(x, *interval, color=TARGET, lw=1.6, zorder=4)
    axes.plot(band.x, band.middle, color=TARGET, lw=1.2, ls="--")
    _mark(axes, x, best, said)


def _mark(axes: Axes, x: float, best: float, said: str) -> None:
    diamond = {"ms": 6, "mfc": "white", "mec": TARGET, "mew": 1.6, "ls": "none", "zorder": 5}
    axes.plot(x, best, "D", label=said, **diamond)


def _band(
    fit: Fit, bootstrap: Bootstrap | None, grid: dict[str, np.ndarray], level: float, seed: int
) -> tuple[np.ndarray | None, str]:
    """The ends of the band [2, n], or None without noise, and what the band is."""
    if bootstrap is None:
        return _new_runs(fit, grid, level, seed), f"{percent(level)} of new runs"
    many = np.stack([fit.problem.predict(theta, **grid) for theta in bootstrap.theta])
    ends = np.array(percentile_interval(many, level, axis=0))
    return ends, f"{percent(level)} of {len(bootstrap.theta)} refits"


def _new_runs(fit: Fit, grid: dict[str, np.ndarray], level: float, seed: int) -> np.ndarray | None:
    """[2, n]: ends of the intervals of `prediction_interval` at every point; None without noise.

    All points share one set of draws, so that the band is smooth.
    """
    if fit.points <= fit.rank:
        return None
    p = fit.problem
    draws = simulate.simulate(
        p, fit, np.arange(len(p.y)), resamples=_SIMULATED, rng=np.random.default_rng(seed)
    )
    out = []
    for values in zip(*grid.values()):
        row = dict(zip(grid, map(float, values)))
        errors, _ = simulate.errors_at(p, fit, draws, row, np.random.default_rng(seed + 1))
        out.append(float(fit.predict(**row)) * np.exp(percentile_interval(errors, level)))
    return np.array(out).T
