"""Figures of one fit: its residuals, and its lines of equal output over N and D."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from stepladder.analysis.decide.allocate import CLOSED
from stepladder.analysis.figures.style import (
    INK,
    MUTED,
    TARGET,
    flops_ticks,
    log_axes,
    panels,
    single_axes,
    size_colours,
    styled,
)
from stepladder.analysis.fit.objective import objective_named
from stepladder.analysis.fit.result import Fit
from stepladder.analysis.laws.law import Law
from stepladder.analysis.tables.numbers import human
from stepladder.configs.core.errors import UserError, nearest

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
COUNTS = ("log", "raw")  # kinds of input that are drawn on a logarithmic axis
_SIDE = 80  # values along each side of a plane
_LEVELS = 11  # lines of equal output


def label(law: Law, name: str) -> str:
    """An input or the output with its unit: "D, tokens"."""
    unit = _UNITS.get(name) or next(
        (a.unit for a in law.axes if a.name == name and a.unit != name), ""
    )
    return f"{name}, {unit}" if unit else name


def named(values: Mapping[str, float] | pd.Series) -> str:
    """Values with their names: "N = 1M, D = 20M"."""
    return ", ".join(
        f"{name} = {human(v) if abs(v) < 1e15 else f'{v:.3g}'}" for name, v in values.items()
    )


def points_of(fit: Fit, points: pd.DataFrame | None = None) -> pd.DataFrame:
    """The points to draw, in their own units: the law's inputs, its output, and `w`, the weight.

    points: those of a fit that was read from a file, which holds none; by default the fitted ones.
    """
    p = fit.problem
    if points is not None:
        return points[[*p.law.inputs, p.law.output]].assign(w=1.0).reset_index(drop=True)
    leave = {
        "log": lambda v, c: np.exp(v + c),
        "raw": lambda v, c: np.exp(v),
        "linear": lambda v, c: v * np.exp(c),
        "share": lambda v, c: v,
    }
    table = {a.name: leave[a.kind](p.x[:, i], p.centre[i]) for i, a in enumerate(p.law.axes)}
    return pd.DataFrame(table | {p.law.output: p.y * p.scale, "w": p.w})


def no_points(fit: Fit, points: pd.DataFrame | None = None) -> str:
    """Why `residuals` cannot draw the fit, or nothing."""
    if points is not None or len(fit.problem.y):
        return ""
    return "the points are not in a fit that was read from a file; fit them again"


def no_plane(fit: Fit, points: pd.DataFrame | None = None) -> str:
    """Why `contours` cannot draw the fit, or nothing."""
    if not {"N", "D"} <= set(fit.problem.law.inputs):
        return "contours are over N and D; plot the residuals, or fit a law of both"
    return no_points(fit, points)


@styled
def residuals(
    fit: Fit, *, points: pd.DataFrame | None = None, against: Sequence[str] = ()
) -> Figure:
    """Output above the law against each input, with two residual standard deviations.

    Structure in it is what the law does not describe.

    Args:
        fit: the law. Per cent (100 ln) where its objective is of logs, else the output's unit.
        points: see `points_of`. Points of weight 0 are hollow.
        against: a panel for each of these inputs, by default for all.

    Raises:
        UserError: when there are no points to draw.
    """
    if no_points(fit, points):
        raise UserError(f"points=0: {no_points(fit, points)}")
    law, seen, goal = fit.problem.law, points_of(fit, points), objective_named(fit.objective)
    unit, against = 100.0 if goal.log else 1.0, against or law.inputs
    shaded = next((name for name in law.inputs if name not in against), law.inputs[0])
    predicted = fit.predict(**{name: seen[name].to_numpy(float) for name in law.inputs})
    output = seen[law.output].to_numpy(float)
    miss = unit * (goal.transform(np, output) - goal.transform(np, predicted))
    reach = 2 * unit * fit.residual_sd
    y_label = (
        f"{law.output} above the law, {'%' if goal.log else _UNITS.get(law.output, 'in its unit')}"
    )
    colours = size_colours(list(seen[shaded]))
    figure, several = panels(len(against), most=3)
    for name, axes in zip(against, several):
        for x, shade, y, w in zip(seen[name], seen[shaded], miss, seen["w"]):
            fill, edge = (colours[shade], "white") if w > 0 else ("none", MUTED)
            axes.plot(x, y, "o", ms=5, mfc=fill, mec=edge, mew=0.8)
        axes.axhspan(-reach, reach, color=MUTED, alpha=0.12, lw=0)
        axes.axhline(0, color=INK, lw=1)
        scale_axis(axes, law, name, y_label)
    title, shades = f"Residuals of {fit.law}, ± 2 s.d. in grey", f"darker is larger {shaded}"
    if len(several) > 1:
        several[1].set_title(shades, fontweight="normal")
    elif shaded not in against:
        title = f"{title}\n{shades}"
    several[0].set_title(title)
    return figure


@styled
def contours(
    fit: Fit,
    target: Mapping[str, float] | None = None,
    *,
    points: pd.DataFrame | None = None,
    size: tuple[float, float] = (6.4, 4.8),
    **given: float,
) -> Figure:
    """Lines of equal output over N and D, and the points.

    The compute-optimal path is drawn where the law has it in closed form.

    Args:
        fit: a law of N and D.
        target: {"N": ..., "D": ...}, marked.
        points: see `points_of`.
        size: width and height, inches.
        given: the law's other inputs, by default those of the largest point.

    Raises:
        UserError: for a law without N and D, an input it does not have, or no points to draw.
    """
    if no_plane(fit, points):
        raise UserError(f"law={fit.law!r}: {no_plane(fit, points)}")
    law, seen = fit.problem.law, points_of(fit, points)
    for name in given:
        if name not in law.inputs:
            raise UserError(f"{name}: not an input of law {law.name}; {nearest(name, law.inputs)}")
    largest = seen.loc[farthest(law, seen)]
    given = {
        name: given.get(name, float(largest[name])) for name in law.inputs if name not in ("N", "D")
    }
    figure, axes = single_axes(*size)
    n, d = (_side(seen[name], target[name] if target else None) for name in ("N", "D"))
    plane = fit.predict(N=n[None, :], D=d[:, None], **given)
    drawn = axes.contour(n, d, plane, levels=_levels(plane), colors=[MUTED], linewidths=0.9)
    axes.clabel(drawn, fmt=lambda v: f"{v:.3g}", fontsize=8, colors=[MUTED])
    colours = size_colours(list(seen["N"]))
    shades = [colours[v] for v in seen["N"]]
    axes.scatter(seen["N"], seen["D"], c=shades, s=30, ec="white", lw=0.8, zorder=3, label="points")
    if fit.law in CLOSED:
        _optimal_path(axes, fit, n, d)
    if target:
        star = {"ms": 16, "mfc": TARGET, "mec": "white", "ls": "none", "zorder": 5}
        axes.plot(target["N"], target["D"], "*", label="target", **star)
    axes.set_xlim(n[0], n[-1])
    axes.set_ylim(d[0], d[-1])
    log_axes(axes, label(law, "N"), label(law, "D"), y=True)
    axes.set_title(f"Equal {label(law, law.output)}" + (f", at {named(given)}" if given else ""))
    axes.legend(loc="lower right")
    return figure


def _side(values: pd.Series, target: float | None) -> np.ndarray:
    """[_SIDE]: values a little beyond the points and the target, evenly spaced in logs."""
    seen = [*values, *([] if target is None else [target])]
    return np.geomspace(min(seen) / 1.6, max(seen) * 1.6, _SIDE)


def _levels(plane: np.ndarray) -> np.ndarray:
    """[_LEVELS]: values of the lines.

    The steep corner of small N and D, which would take most of them, is left out.
    """
    low, high = plane.min(), np.quantile(plane, 0.97)
    space = np.geomspace if low > 0 and high > 10 * low else np.linspace
    return space(low, high, _LEVELS + 1)[1:]


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


def farthest(law: Law, points: pd.DataFrame) -> Any:
    """Index of the largest point, by the product of all its inputs but shares (N D is compute).

    A 0 counts as the least value above it.
    """
    counts = points.loc[
        points["w"] > 0, [a.name for a in law.axes if a.kind != "share"] or list(law.inputs)
    ]
    return np.log(counts.clip(lower=counts.where(counts > 0).min(), axis=1)).sum(axis=1).idxmax()


def scale_axis(axes: Axes, law: Law, name: str, y: str) -> None:
    """Label both axes; x is logarithmic for a count, else linear."""
    if any(a.name == name and a.kind in COUNTS for a in law.axes):
        log_axes(axes, label(law, name), y)
        flops_ticks(axes.xaxis)
    else:
        axes.set_xlabel(label(law, name))
        axes.set_ylabel(y)
