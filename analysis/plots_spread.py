"""Figures of what the points leave open: the refits of a bootstrap in pairs of parameters, the profile of one parameter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stepladder.analysis.bootstrap import Bootstrap
from stepladder.analysis.figures import INK, MUTED, TARGET, _axes, _styled, human
from stepladder.analysis.interval import Profile
from stepladder.configs.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

@_styled
def ellipses(bootstrap: Bootstrap, level: float = 0.9) -> Figure:
    """The refits in every pair of free parameters, the fit in red, the ellipse that holds `level` of them, and their correlation r.

    A positive parameter is drawn, and its ellipse made, in logs. Raises UserError with fewer than two parameters that vary.
    """
    _refuse(_pair(bootstrap), "ellipses")
    fit, names = bootstrap.fit, _varying(bootstrap)
    values = {name: bootstrap.params[name].to_numpy() for name in names}
    logs = {p.name for p in fit.problem.law.params if p.name in names and p.positive and (values[p.name] > 0).all()}
    side = len(names) - 1
    figure = _figure(2.2 * side + 1.2, 2.0 * side + 1.0)
    grid = figure.subplots(side, side, squeeze=False)
    for i, j in np.ndindex(side, side):
        axes, (x, y) = grid[i, j], (names[j], names[i + 1])
        if j > i:
            axes.set_axis_off()
            continue
        cloud = np.stack([np.log(values[k]) if k in logs else values[k] for k in (x, y)], 1)
        outline, r = _ellipse(cloud, level), np.corrcoef(cloud.T)[0, 1]
        axes.plot(values[x], values[y], ".", ms=2.5, mec="none", color=MUTED, alpha=0.35, rasterized=True)
        axes.plot(*(np.exp(v) if k in logs else v for k, v in zip((x, y), outline.T)), color=INK, lw=1.2)
        axes.plot(fit.params[x], fit.params[y], "D", ms=5, mfc="white", mec=TARGET, mew=1.4, zorder=4)
        axes.set_title(f"r = {r:.2f}", fontsize=9, fontweight="normal")
        for axis, name in ((axes.xaxis, x), (axes.yaxis, y)):
            _few(axes, axis, name in logs)
        axes.set_xlabel(x if i == side - 1 else "")
        axes.set_ylabel(y if j == 0 else "")
    figure.suptitle(f"{fit.law}: {len(bootstrap.theta)} refits, ellipses with {level:.0%} of them", fontsize=11, fontweight="bold")
    return figure


def _ellipse(cloud: np.ndarray, level: float) -> np.ndarray:
    """[181, 2]: shaped as the covariance of the cloud [K, 2], of the size that holds `level` of it, as tails of refits are rarely Gaussian."""
    middle, spread = cloud.mean(0), np.cov(cloud.T)
    away = cloud - middle
    distance = np.sqrt(np.einsum("ki,ij,kj->k", away, np.linalg.pinv(spread, hermitian=True), away))
    variance, axes = np.linalg.eigh(spread)
    turn = np.linspace(0, 2 * np.pi, 181)
    circle = np.stack([np.cos(turn), np.sin(turn)], 1)
    return middle + np.quantile(distance, level) * circle * np.sqrt(np.maximum(variance, 0)) @ axes.T


def _few(axes: Axes, axis, log: bool) -> None:
    """Three ticks or so, which a small panel has room for."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    if log:
        axis._set_axes_scale("log") if False else (axes.set_xscale if axis is axes.xaxis else axes.set_yscale)("log")
    low, high = axis.get_view_interval()
    wide = log and high > 10 * low
    axis.set_major_locator(LogLocator(numticks=4) if wide else MaxNLocator(3))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda v, _: human(v) if abs(v) >= 1e3 else f"{v:.3g}"))
    axis.set_tick_params(labelsize=8)


@_styled
def profile(found: Profile) -> Figure:
    """The objective over its least value against the held parameter, with the profile interval shaded; an open side has no end."""
    figure, axes = _axes(5.8, 4.0)
    value, ratio = (found.frame[k].to_numpy() for k in ("value", "ratio"))
    ends = [e for e in (found.low, found.high) if e is not None]
    limit = float(np.interp(ends[0], value, ratio)) if ends else None
    axes.axvspan(found.low if found.low is not None else value[0], found.high if found.high is not None else value[-1], color=TARGET,
                 alpha=0.13, lw=0, label=f"{found.level:.0%} interval")  # fmt: skip
    axes.plot(value, ratio, color=INK, lw=1.4)
    axes.plot(value[ratio.argmin()], ratio.min(), "D", ms=6, mfc="white", mec=TARGET, mew=1.6, ls="none", label="least")
    if limit is not None:
        axes.axhline(limit, color=TARGET, lw=1, ls="--", label="limit")
        axes.set_ylim(1 - 0.15 * (limit - 1), 1 + 4 * (limit - 1))
    axes.set_xlim(value[0], value[-1])
    _few(axes, axes.xaxis, log=bool(value[0] > 0) and bool(np.isclose(value[1] / value[0], value[-1] / value[-2])))
    axes.set_xlabel(found.parameter)
    axes.set_ylabel("objective over its least")
    axes.set_title(str(found))
    axes.legend(loc="best")
    return figure


