"""Figures of one fit: its residuals, its lines of equal output over N and D, its extrapolation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from stepladder.analysis.decide.allocate import CLOSED
from stepladder.analysis.figures.style import (
    INK,
    MUTED,
    TARGET,
    log_axes,
    single_axes,
    size_colours,
    styled,
)
from stepladder.analysis.fit import simulate
from stepladder.analysis.fit.bootstrap import Bootstrap
from stepladder.analysis.fit.levels import check_level, percentile_interval
from stepladder.analysis.fit.objective import objective_named
from stepladder.analysis.fit.result import Fit
from stepladder.analysis.laws.law import Law
from stepladder.analysis.tables.numbers import human
from stepladder.configs.core.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_UNITS = {
    "N": "parameters",
    "D": "tokens",
    "C": "FLOPs",
    "U": "unique tokens",
    "loss": "nats per token",
    "batch": "tokens",
}
_COUNTS = ("log", "raw")  # kinds of input that are drawn on a logarithmic axis
# of an extrapolation: one for every size where there are few, else sizes spread over the range
_MOST_CURVES = 6
# simulated tables of a band; values along its curve; values along each side of a plane
_SIMULATED, _GRID, _SPREAD = 400, 40, 80
_LEVELS = 11  # lines of equal output


def label(law: Law, name: str) -> str:
    """An input or the output with its unit: "D, tokens"."""
    unit = _UNITS.get(name) or next(
        (a.unit for a in law.axes if a.name == name and a.unit != name), ""
    )
    return f"{name}, {unit}" if unit else name


def points_of(fit: Fit) -> pd.DataFrame:
    """The fitted points in their own units: the law's inputs, its output, and `w`, the weight."""
    p = fit.problem
    leave = {
        "log": lambda v, c: np.exp(v + c),
        "raw": lambda v, c: np.exp(v),
        "linear": lambda v, c: v * np.exp(c),
        "share": lambda v, c: v,
    }
    table = {a.name: leave[a.kind](p.x[:, i], p.centre[i]) for i, a in enumerate(p.law.axes)}
    return pd.DataFrame(table | {p.law.output: p.y * p.scale, "w": p.w})


def no_points(fit: Fit) -> str:
    """Why `residuals` cannot draw the fit, or nothing."""
    return (
        ""
        if len(fit.problem.y)
        else "the points are not in a fit that was read from a file; fit them again"
    )


def no_plane(fit: Fit) -> str:
    """Why `contours` cannot draw the fit, or nothing."""
    lacks = (
        ""
        if {"N", "D"} <= set(fit.problem.law.inputs)
        else "contours are over N and D; plot the residuals, or fit a law of both"
    )
    return lacks or no_points(fit)


def no_line(fit: Fit) -> str:
    """Why `extrapolation` cannot draw the fit, or nothing."""
    has = any(a.kind in _COUNTS for a in fit.problem.law.axes)
    return (
        no_points(fit) if has else "no logarithmic input to extrapolate along; plot the residuals"
    )


@styled
def residuals(fit: Fit) -> Figure:
    """Output above the law against each input, with two residual s.d.: structure here is what the
    law does not describe.

    Per cent (100 ln) where the objective is of logs, else in the unit of the output. Points of
    weight 0 are hollow.
    """
    if no_points(fit):
        raise UserError(f"points=0: {no_points(fit)}")
    law, points = fit.problem.law, points_of(fit)
    logs = objective_named(fit.objective).log
    unit, first = 100.0 if logs else 1.0, law.inputs[0]
    miss = -unit * fit.residuals
    colours = size_colours(list(points[first]))
    figure, several = panels(len(law.inputs), most=3)
    for name, axes in zip(law.inputs, several):
        for x, shade, y, w in zip(points[name], points[first], miss, points["w"]):
            axes.plot(
                x,
                y,
                "o",
                ms=5,
                mfc=colours[shade] if w > 0 else "none",
                mec="white" if w > 0 else MUTED,
                mew=0.8,
            )
        axes.axhspan(
            -2 * unit * fit.residual_sd, 2 * unit * fit.residual_sd, color=MUTED, alpha=0.12, lw=0
        )
        axes.axhline(0, color=INK, lw=1)
        _scale(
            axes,
            law,
            name,
            f"{law.output} above the law, {'%' if logs else _UNITS.get(law.output, 'in its unit')}",
        )
    several[0].set_title(f"Residuals of {fit.law}, ± 2 s.d. in grey")
    for axes in several[1:2]:
        axes.set_title(f"darker is larger {first}", fontweight="normal")
    return figure


@styled
def contours(fit: Fit, target: Mapping[str, float] | None = None, **given: float) -> Figure:
    """Lines of equal output over N and D, the points, and the compute-optimal path where the law
    has it in closed form.

    target: {"N": ..., "D": ...}, marked. given: the law's other inputs, by default those of the
    largest point. Raises UserError for a law without N and D.
    """
    if no_plane(fit):
        raise UserError(f"law={fit.law!r}: {no_plane(fit)}")
    law, points = fit.problem.law, points_of(fit)
    largest = points.loc[_farthest(law, points)]
    given = {
        name: given.get(name, float(largest[name])) for name in law.inputs if name not in ("N", "D")
    }
    figure, axes = single_axes(6.4, 4.8)
    sides = {}
    for name in ("N", "D"):
        seen = [*points[name], *([target[name]] if target else [])]
        sides[name] = np.geomspace(min(seen) / 1.6, max(seen) * 1.6, _SPREAD)
    n, d = sides["N"], sides["D"]
    plane = fit.predict(N=n[None, :], D=d[:, None], **given)
    # the steep corner of small N and D would take most of the lines
    low, high = plane.min(), np.quantile(plane, 0.97)
    space = np.geomspace if low > 0 and high > 10 * low else np.linspace
    levels = space(low, high, _LEVELS + 1)[1:]
    drawn = axes.contour(n, d, plane, levels=levels, colors=[MUTED], linewidths=0.9)
    axes.clabel(drawn, fmt=lambda v: f"{v:.3g}", fontsize=8, colors=[MUTED])
    colours = size_colours(list(points["N"]))
    axes.scatter(
        points["N"],
        points["D"],
        c=[colours[v] for v in points["N"]],
        s=30,
        ec="white",
        lw=0.8,
        zorder=3,
        label="points",
    )
    if fit.law in CLOSED:
        _optimal_path(axes, fit, n, d)
    if target:
        axes.plot(
            target["N"],
            target["D"],
            "*",
            ms=16,
            mfc=TARGET,
            mec="white",
            ls="none",
            label="target",
            zorder=5,
        )
    axes.set_xlim(n[0], n[-1])
    axes.set_ylim(d[0], d[-1])
    log_axes(axes, label(law, "N"), label(law, "D"), y=True)
    axes.set_title(f"Equal {label(law, law.output)}" + (f", at {_named(given)}" if given else ""))
    axes.legend(loc="best")
    return figure


def _optimal_path(axes: Axes, fit: Fit, n: np.ndarray, d: np.ndarray) -> None:
    """N* and D* within the frame, with a dot and its FLOPs at every decade of compute."""
    least, most = 6 * n[0] * d[0], 6 * n[-1] * d[-1]
    decades = 10.0 ** np.arange(np.ceil(np.log10(least)), np.floor(np.log10(most)) + 1)
    found = {}
    for name, c in (("path", np.geomspace(least, most, 400)), ("dots", decades)):
        x, y, *_ = CLOSED[fit.law](fit.params, c)
        keep = (x >= n[0]) & (x <= n[-1]) & (y >= d[0]) & (y <= d[-1])
        found[name] = x[keep], y[keep], c[keep]
    exponent = float(CLOSED[fit.law](fit.params, least)[3])
    axes.plot(
        *found["path"][:2],
        color=INK,
        lw=1.6,
        zorder=2,
        label=f"compute-optimal, N* ~ C^{exponent:.3f}",
    )
    axes.plot(*found["dots"][:2], "o", ms=4, color=INK, zorder=4)
    for x, y, c in zip(*found["dots"]):
        axes.annotate(
            f"1e{np.log10(c):.0f} FLOPs",
            (x, y),
            xytext=(5, -9),
            textcoords="offset points",
            fontsize=8,
            color=INK,
        )


@styled
def extrapolation(
    fit: Fit,
    bootstrap: Bootstrap | None = None,
    at: Mapping[str, float] | None = None,
    level: float = 0.9,
    seed: int = 0,
) -> Figure:
    """Output against the law's last logarithmic input: points, the law through some sizes, and in
    red the forecast with its band.

    The band is the error of the parameters over the refits of `bootstrap`; without one, where a new
    run falls (tables simulated from the fit). at: the inputs to forecast, by default those of the
    largest point with ten times the last. Raises UserError.
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
    along = [a.name for a in law.axes if a.kind in _COUNTS][-1]
    others = [name for name in law.inputs if name != along]
    if at is None:
        at = points.loc[_farthest(law, points), others].to_dict() | {
            along: 10 * points[along].max()
        }
    best = float(fit.predict(**at))  # first, as it names a missing input
    figure, axes = single_axes(8.6, 4.6)
    _sizes(axes, fit, points, along, others)
    x = np.unique(
        [
            *np.geomspace(
                points[along].min() / 1.2, 1.2 * max(points[along].max(), at[along]), _GRID
            ),
            at[along],
        ]
    )
    grid = {name: np.full(len(x), float(at[name])) for name in others} | {along: x}
    band = (
        _refits(fit, bootstrap, grid, level)
        if bootstrap is not None
        else _new_runs(fit, grid, level, seed)
    )
    if band is not None:
        what = (
            f"{level:.0%} of {len(bootstrap.theta)} refits"
            if bootstrap is not None
            else f"{level:.0%} of new runs"
        )
        axes.fill_between(x, *band, color=TARGET, alpha=0.13, lw=0, label=what)
        axes.vlines(
            at[along], *band[:, int(np.searchsorted(x, at[along]))], color=TARGET, lw=1.6, zorder=4
        )
    axes.plot(x, fit.predict(**grid), color=TARGET, lw=1.2, ls="--")
    shown = {name: at[name] for name in law.inputs}
    axes.plot(
        at[along],
        best,
        "D",
        ms=6,
        mfc="white",
        mec=TARGET,
        mew=1.6,
        ls="none",
        label=f"{best:.4g} at {_named(shown)}",
        zorder=5,
    )
    _scale(axes, law, along, label(law, law.output))
    axes.set_title(f"{fit.law} through the points, and its extrapolation")
    axes.legend(loc="best", ncols=2)
    return figure


def _sizes(axes: Axes, fit: Fit, points: pd.DataFrame, along: str, others: list[str]) -> None:
    """The points, a shade for each different setting (up to 1 %) of the other inputs, and the law
    through some of these.
    """
    with np.errstate(divide="ignore"):
        settings = [tuple(np.round(np.log(row), 2)) for row in points[others].to_numpy(float)]
    ranked = sorted(set(settings))
    chosen = np.linspace(0, len(ranked) - 1, min(len(ranked), _MOST_CURVES)).round()
    colours = size_colours(list(range(len(ranked))))
    for rank, setting in enumerate(ranked):
        rows = points[[s == setting for s in settings]]
        same, colour = rows[others].iloc[0], colours[rank]
        name = (_named(same) or "points") if rank in chosen else None
        axes.plot(
            rows[along],
            rows[fit.problem.law.output],
            "o",
            ms=5,
            mfc=colour,
            mec="white",
            mew=0.8,
            label=name,
        )
        if others and rank in chosen:
            x = np.geomspace(rows[along].min() / 1.2, rows[along].max() * 1.2, _GRID)
            axes.plot(x, fit.predict(**{along: x, **same}), color=colour, lw=1.2)


def _refits(
    fit: Fit, bootstrap: Bootstrap, grid: dict[str, np.ndarray], level: float
) -> np.ndarray:
    """[2, n]: quantiles of the law over the refits."""
    many = np.stack([fit.problem.predict(theta, **grid) for theta in bootstrap.theta])
    return np.array(percentile_interval(many, level, axis=0))


def _new_runs(fit: Fit, grid: dict[str, np.ndarray], level: float, seed: int) -> np.ndarray | None:
    """[2, n]: the intervals of `prediction_interval`, with the same draws at every point, so that
    the band is smooth.

    None without noise.
    """
    if fit.points <= fit.rank:
        return None
    p = fit.problem
    draws = simulate.simulate(
        p, fit, np.arange(len(p.y)), resamples=_SIMULATED, rng=np.random.default_rng(seed)
    )
    out = []
    for row in pd.DataFrame(grid).to_dict("records"):
        errors, _ = simulate.errors_at(p, fit, draws, row, np.random.default_rng(seed + 1))
        out.append(float(fit.predict(**row)) * np.exp(percentile_interval(errors, level)))
    return np.array(out).T


def _named(values: Mapping[str, float] | pd.Series) -> str:
    return ", ".join(
        f"{name} = {human(v) if abs(v) < 1e15 else f'{v:.3g}'}" for name, v in values.items()
    )


def _farthest(law: Law, points: pd.DataFrame) -> Any:
    """Row of the largest point: the product of all inputs but shares (N times D is compute), a 0
    counting as the least above it.
    """
    counts = points.loc[
        points["w"] > 0, [a.name for a in law.axes if a.kind != "share"] or list(law.inputs)
    ]
    return np.log(counts.clip(lower=counts.where(counts > 0).min(), axis=1)).sum(axis=1).idxmax()


def _scale(axes: Axes, law: Law, name: str, y: str) -> None:
    """A logarithmic axis for a count, else a linear one."""
    if any(a.name == name and a.kind in _COUNTS for a in law.axes):
        log_axes(axes, label(law, name), y)
        flops(axes.xaxis)
    else:
        axes.set_xlabel(label(law, name))
        axes.set_ylabel(y)


def flops(axis: Any) -> None:
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
