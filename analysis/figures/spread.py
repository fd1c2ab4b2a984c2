"""Figures of what the points leave open: pairs of parameters over refits, a profile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from stepladder.analysis.figures.style import INK, MUTED, TARGET, single_axes, styled
from stepladder.analysis.fit.bootstrap import Bootstrap
from stepladder.analysis.fit.interval import Profile
from stepladder.analysis.fit.levels import check_level, percent
from stepladder.analysis.tables.numbers import human
from stepladder.configs.core.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = 4  # of a profile's rise, in rises to the limit


def no_pair(bootstrap: Bootstrap) -> str:
    """Why `ellipses` cannot draw the bootstrap, or nothing."""
    return (
        ""
        if len(_varying(bootstrap)) > 1
        else "fewer than two parameters vary between the refits; free another"
    )


def _varying(bootstrap: Bootstrap) -> list[str]:
    return [
        str(name)
        for name in bootstrap.params
        if name not in bootstrap.fit.fixed and np.ptp(bootstrap.params[name]) > 0
    ]


@styled
def ellipses(bootstrap: Bootstrap, level: float = 0.9) -> Figure:
    """The refits in every pair of free parameters, the fit in red.

    Each pair has its correlation r and the ellipse that holds `level` of the refits. A positive
    parameter is drawn, and its ellipse made, in logs.

    Raises:
        UserError: with fewer than two parameters that vary.
    """
    from matplotlib.figure import Figure

    names, fit = _varying(bootstrap), bootstrap.fit
    if no_pair(bootstrap):
        raise UserError(f"bootstrap={names}: {no_pair(bootstrap)}")
    check_level(level)
    values = {name: bootstrap.params[name].to_numpy(float) for name in names}
    logs = {
        p.name
        for p in fit.problem.law.params
        if p.name in names and p.positive and (values[p.name] > 0).all()
    }
    side = len(names) - 1
    figure = Figure(figsize=(2.2 * side + 1.2, 2.0 * side + 1.0), layout="constrained")
    grid: Any = figure.subplots(side, side, squeeze=False)
    for i, j in np.ndindex(side, side):
        axes, x, y = grid[i, j], names[j], names[i + 1]
        if j > i:
            axes.set_axis_off()
            continue
        cloud = np.stack([np.log(values[k]) if k in logs else values[k] for k in (x, y)], 1)
        outline = [np.exp(v) if k in logs else v for k, v in zip((x, y), _ellipse(cloud, level).T)]
        axes.plot(
            values[x], values[y], ".", ms=2.5, mec="none", color=MUTED, alpha=0.35, rasterized=True
        )
        axes.plot(*outline, color=INK, lw=1.2)
        axes.plot(
            fit.params[x], fit.params[y], "D", ms=5, mfc="white", mec=TARGET, mew=1.4, zorder=4
        )
        axes.set_title(f"r = {np.corrcoef(cloud.T)[0, 1]:.2f}", fontsize=9, fontweight="normal")
        axes.set_xscale("log" if x in logs else "linear")
        axes.set_yscale("log" if y in logs else "linear")
        _few_ticks(axes.xaxis)
        _few_ticks(axes.yaxis)
        axes.set_xlabel(x if i == side - 1 else "")
        axes.set_ylabel(y if j == 0 else "")
    figure.suptitle(
        f"{fit.law}: {len(bootstrap.theta)} refits, ellipses with {percent(level)} of them",
        fontsize=11,
        fontweight="bold",
    )
    return figure


def _ellipse(cloud: np.ndarray, level: float) -> np.ndarray:
    """[181, 2]: an ellipse shaped as the covariance of the cloud [K, 2] that holds `level` of it.

    Its size is counted, as the tails of refits are rarely Gaussian.
    """
    middle, spread = cloud.mean(0), np.cov(cloud.T)
    away = cloud - middle
    distance = np.sqrt(np.einsum("ki,ij,kj->k", away, np.linalg.pinv(spread, hermitian=True), away))
    variance, axes = np.linalg.eigh(spread)
    turn = np.linspace(0, 2 * np.pi, 181)
    circle = np.stack([np.cos(turn), np.sin(turn)], 1)
    return (
        middle + np.quantile(distance, level) * circle * np.sqrt(np.maximum(variance, 0)) @ axes.T
    )


@styled
def profile(found: Profile) -> Figure:
    """The objective over its least value against the held parameter, with the profile interval.

    An interval without an end is shaded up to the end of the grid.
    """
    figure, axes = single_axes(5.8, 4.0)
    value, ratio = (found.frame[name].to_numpy() for name in ("value", "ratio"))
    low = value[0] if found.low is None else found.low
    high = value[-1] if found.high is None else found.high
    label = f"{percent(found.level)} interval"
    axes.axvspan(low, high, color=TARGET, alpha=0.13, lw=0, label=label)
    axes.plot(value, ratio, color=INK, lw=1.4)
    axes.plot(
        value[ratio.argmin()],
        ratio.min(),
        "D",
        ms=6,
        mfc="white",
        mec=TARGET,
        mew=1.6,
        ls="none",
        label="least",
    )
    ends = [end for end in (found.low, found.high) if end is not None]
    limit = found.limit
    axes.axhline(limit, color=TARGET, lw=1, ls="--", label="limit")
    if ends:
        top = 1 + _SHOWN * (limit - 1)
        axes.set_ylim(1 - 0.3 * (limit - 1), top)
        near = np.flatnonzero(ratio < top)
        value = value[max(near[0] - 1, 0) : near[-1] + 2]  # the rest of the grid is above the frame
    axes.set_xlim(value[0], value[-1])
    even_in_logs = value[0] > 0 and np.isclose(value[1] / value[0], value[-1] / value[-2])
    axes.set_xscale("log" if even_in_logs else "linear")
    _few_ticks(axes.xaxis)
    axes.set_xlabel(found.parameter)
    axes.set_ylabel("objective over its least")
    axes.set_title(str(found))
    axes.legend(loc="best")
    return figure


def _few_ticks(axis: Any) -> None:
    """Three ticks or so, which a small panel has room for."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    low, high = axis.get_view_interval()
    axis.set_major_locator(
        LogLocator(numticks=4) if axis.get_scale() == "log" and high > 20 * low else MaxNLocator(3)
    )
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(
        FuncFormatter(lambda v, _: human(v) if 1e3 <= abs(v) < 1e15 else f"{v:.3g}")
    )
    axis.set_tick_params(labelsize=8)
