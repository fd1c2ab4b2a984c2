"""Figures of the learning-rate study: curves, drift, rule, cost of a wrong rate, divergence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stepladder.analysis.figures.style import (
    INK,
    MUTED,
    TARGET,
    Svg,
    log_axes,
    single_axes,
    size_colours,
    small,
    styled,
    svg,
)
from stepladder.analysis.studies.learning_rate.curves import Curve
from stepladder.analysis.studies.learning_rate.divergence import Boundary, BoundaryLaw, kind_of
from stepladder.analysis.studies.learning_rate.drift import Drift, at
from stepladder.analysis.studies.learning_rate.rule import Rule
from stepladder.analysis.studies.learning_rate.sensitivity import Sensitivity
from stepladder.analysis.studies.learning_rate.study import LearningRateStudy
from stepladder.analysis.tables.numbers import human

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The published law, drawn beside ours: arXiv 2503.04715, N without embeddings, D in tokens. It was
# fitted to sizes from 60M parameters.
STEP_LAW, STEP_LAW_SMALLEST = Rule(1.79, -0.713, 0.307, {}, None, 0, ()), 6e7

_KINDS = ("#0b3c5d", "#e0803a", "#1b7f5c", "#7b5ea7", "#9aa5b1", "#c8384f")
_MARKS = "osD^vP"
_PANELS, _CURVES = 6, 8
_TOP = 2.0  # of the largest rise at the lower end of a curve: what lies above is cut off


def draw(found: LearningRateStudy) -> dict[str, Svg]:
    """Name -> drawing, of every figure there is data for."""
    drawn = {}
    if found.chosen:
        label = "final loss against learning rate, with optima"
        drawn["curves"] = svg(curves(found.chosen), label)
    for axis in dict.fromkeys(d.axis for d in found.drifts):
        mine = [d for d in found.drifts if d.axis == axis]
        label = f"best learning rate against {axis}"
        drawn[f"drift_{axis}"] = svg(drift(found.chosen, mine), label)
    pairs = [
        (c, s)
        for c, s in zip(found.curves, found.sensitivities)
        if c in found.chosen and s.value is not None
    ]
    if pairs:
        drawn["sensitivity"] = svg(sensitivity(pairs), "cost of a wrong learning rate against N")
    if any(b.diverges is not None for b in found.boundaries):
        figure = divergence(found.boundaries, found.boundary_law)
        drawn["divergence"] = svg(figure, "where runs diverge, against N")
    if found.rule is not None:
        comparable = min(c.N for c in found.chosen) >= STEP_LAW_SMALLEST
        figure = plane(found.chosen, found.rule, STEP_LAW if comparable else None)
        drawn["plane"] = svg(figure, "the rule over N and D, and its optima")
    return drawn


@styled
def curves(found: list[Curve]) -> Figure:
    """Final loss above each curve's lowest against learning rate, optima in red.

    A panel a recipe and parametrisation, a colour a size; a cross is a rate where a run diverged. A
    panel shows at most eight curves, spread evenly over sizes and durations.
    """
    from matplotlib.figure import Figure

    kinds = list(dict.fromkeys(map(kind_of, found)))[:_PANELS]
    wide = min(2, len(kinds))
    tall = -(-len(kinds) // wide)
    figure = Figure(figsize=(8.6 if wide > 1 else 7.4, 3.7 * tall), layout="constrained")
    grid = figure.subplots(tall, wide, squeeze=False)
    colours = size_colours([c.N for c in found])
    for panel, kind in zip(grid.flat, kinds):
        mine = sorted(
            (c for c in found if kind_of(c) == kind and c.rates), key=lambda c: (c.N, c.D)
        )
        shown = (
            [
                mine[i]
                for i in np.unique(
                    np.linspace(0, len(mine) - 1, min(len(mine), _CURVES)).round().astype(int)
                )
            ]
            if mine
            else []
        )
        styles = dict(zip(sorted({c.D for c in shown}), ("-", "--", ":", "-.") * 4))
        top = (
            _TOP * max([min(c.losses[0], c.losses[-1]) - min(c.losses) for c in shown] or [0.0])
            or 1.0
        )
        for c in shown:
            curve_with_optimum(panel, c, colours[c.N], styles[c.D])
            for rate, *_ in c.diverged:
                panel.plot(rate, top * 0.96, "x", ms=6, color=colours[c.N])
        panel.set_ylim(-0.04 * top, top)
        log_axes(
            panel,
            "peak learning rate",
            "final loss above the lowest, nats per token" if panel in grid[:, 0] else "",
        )
        more = f", {len(shown)} of {len(mine)} curves" if len(shown) < len(mine) else ""
        panel.set_title(f"{kind or 'Loss against learning rate'}{more}")
        panel.legend(loc="upper center", fontsize=8)
    for panel in grid.flat[len(kinds) :]:
        panel.set_visible(False)
    return figure


def curve_with_optimum(axes: Axes, c: Curve, colour: str, line: str) -> None:
    """Draw losses above the lowest, and in red the optimum with its interval."""
    lowest = min(c.losses)
    above = np.array(c.losses) - lowest
    named = f"{c.size}, D = {human(c.D)}"
    dots = {"marker": "o", "ms": 4, "mec": "white", "mew": 0.6}
    axes.plot(c.rates, above, color=colour, ls=line, lw=1.2, label=named, **dots)
    if c.optimum is None or c.loss_at_optimum is None:
        return
    bottom = c.loss_at_optimum - lowest
    if c.low is not None and c.high is not None:
        bar = {"lw": 3, "alpha": 0.45, "solid_capstyle": "butt"}
        axes.plot([c.low, c.high], [bottom, bottom], color=TARGET, **bar)
    axes.plot(c.optimum, bottom, "v", ms=6, mfc=TARGET, mec="white", mew=0.7, zorder=4)


@styled
def drift(found: list[Curve], drifts: list[Drift]) -> Figure:
    """lr* with its interval against the axis of the drifts, with the line of each drift."""
    figure, axes = single_axes(7.4, 4.2)
    for k, d in enumerate(drifts):
        colour, mark = _KINDS[k % len(_KINDS)], _MARKS[k % len(_MARKS)]
        mine = [c for c in found if c.optimum is not None and _same(c, d)]
        middle = {held: np.mean(np.log([at(c, held) for c in mine])) for held in d.held}
        for c in mine:
            low, high = c.interval
            place = at(c, d.axis)
            # At the mean of what the regression holds, as the line is.
            moved = float(
                np.exp(sum(d.held_slope * (middle[held] - np.log(at(c, held))) for held in d.held))
            )
            axes.errorbar(
                place,
                c.best * moved,
                yerr=[[(c.best - low) * moved], [(high - c.best) * moved]],
                fmt=mark,
                ms=5.5,
                color=colour,
                mec="white",
                mew=0.7,
                capsize=2.5,
                lw=1.2,
            )
        _line(axes, d, mine, colour)
    log_axes(
        axes,
        {"N": "N, parameters", "D": "D, tokens"}.get(drifts[0].axis, drifts[0].axis),
        "best learning rate",
        y=True,
    )
    held = f", at the mean {' and '.join(drifts[0].held)}" if drifts[0].held else ""
    axes.set_title(f"Drift of the best learning rate with {drifts[0].axis}{held}")
    axes.legend(loc="best")
    return figure


def _line(axes: Axes, d: Drift, mine: list[Curve], colour: str) -> None:
    """Draw the line of a drift through the middle of its optima, with its band."""
    x = np.geomspace(*d.span, 40)
    middle = np.mean(np.log([c.best for c in mine]))
    away = np.log(x) - np.mean(np.log([at(c, d.axis) for c in mine]))
    name = " ".join(w for w in (d.parametrization, d.recipe) if w)
    factor, least, most = d.factor
    label = f"{name + ': ' if name else ''}factor {factor:.2g} ({least:.2g} to {most:.2g})"
    value, low, high = (np.exp(middle + slope * away) for slope in d.slope)
    axes.plot(x, value, color=colour, lw=1.4, label=label)
    axes.fill_between(x, low, high, color=colour, alpha=0.12, lw=0)


@styled
def sensitivity(pairs: list[tuple[Curve, Sensitivity]]) -> Figure:
    """Loss lost on average over the rates tried against N, a colour a kind of run."""
    figure, axes = single_axes(7.4, 3.8)
    kinds = list(dict.fromkeys(kind_of(c) for c, _ in pairs))
    for k, kind in enumerate(kinds):
        mine = [(c, s) for c, s in pairs if kind_of(c) == kind and s.value is not None]
        if not mine:
            continue
        value = np.array([s.value for _, s in mine])
        reach = np.array([_reach(s) for _, s in mine]).T
        axes.errorbar(
            [c.N * (1 + 0.03 * (k - (len(kinds) - 1) / 2)) for c, _ in mine],
            value,
            yerr=np.maximum(reach, 0),
            fmt=_MARKS[k % len(_MARKS)],
            ms=6,
            color=_KINDS[k % len(_KINDS)],
            mec="white",
            capsize=3,
            lw=1.2,
            label=kind or None,
        )
    log_axes(axes, "N, parameters", "sensitivity, nats per token")
    axes.set_ylim(bottom=0)
    axes.set_title("What a wrong learning rate costs, on average over the rates tried")
    if any(kinds):
        axes.legend(loc="best")
    return figure


def _reach(s: Sensitivity) -> tuple[float, float]:
    """How far the interval goes below and above the value."""
    if s.value is None or s.low is None or s.high is None:
        return 0.0, 0.0
    return s.value - s.low, s.high - s.value


@styled
def divergence(found: list[Boundary], law: BoundaryLaw | None) -> Figure:
    """The bracket of every setting against N, and the law where there is one."""
    figure, axes = single_axes(7.4, 3.8)
    kinds = list(dict.fromkeys(map(kind_of, found)))
    for k, kind in enumerate(kinds):
        colour, named = _KINDS[k % len(_KINDS)], False
        for b in (b for b in found if kind_of(b) == kind):
            x = b.N * (1 + 0.03 * (k - (len(kinds) - 1) / 2))
            if b.survives is not None and b.diverges is not None:
                axes.plot(
                    [x, x],
                    [b.survives, b.diverges],
                    color=colour,
                    lw=5,
                    alpha=0.35,
                    solid_capstyle="butt",
                    label=None if named or not kind else kind,
                )
                named = True
            if b.survives is not None:
                axes.plot(
                    x,
                    b.survives,
                    "o" if b.diverges is not None else "^",
                    ms=5,
                    color=colour,
                    mec="white",
                    mew=0.6,
                )
            if b.diverges is not None:
                axes.plot(x, b.diverges, "x", ms=6, color=TARGET)
    if law is not None:
        n = np.geomspace(min(b.N for b in found), max(b.N for b in found), 40)
        label = f"N^{law.a[0]:.2f} ({law.a[1]:.2f} to {law.a[2]:.2f})"
        axes.plot(n, [law.at(v) for v in n], color=INK, lw=1.3, ls="--", label=label)
    log_axes(axes, "N, parameters", "learning rate", y=True)
    axes.set_title("Where runs diverge: survives (dot, triangle: at all rates), diverges (cross)")
    if law is not None or any(kinds):
        axes.legend(loc="best")
    return figure


@styled
def plane(found: list[Curve], rule: Rule, published: Rule | None = None) -> Figure:
    """Left: lines of equal lr* of the rule over N and D, with the optima.

    Right: optima with intervals against the rule (and `published`).
    """
    from matplotlib.figure import Figure

    good = [c for c in found if c.optimum is not None]
    figure = Figure(figsize=(8.6, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    n = np.geomspace(min(c.N for c in good) / 1.3, max(c.N for c in good) * 1.3, 60)
    d = np.geomspace(min(c.D for c in good) / 1.3, max(c.D for c in good) * 1.3, 60)
    height = np.log10(rule.c) + rule.a * np.log10(n)[None] + rule.b * np.log10(d)[:, None]
    drawn = left.contour(n, d, height, levels=8, colors=[MUTED], linewidths=0.9, linestyles="-")
    left.clabel(drawn, fmt=lambda v: small(10**v, digits=1), fontsize=8, colors=[MUTED])
    colours = size_colours([c.N for c in good])
    left.scatter(
        [c.N for c in good],
        [c.D for c in good],
        c=[colours[c.N] for c in good],
        s=40,
        edgecolor="white",
        linewidth=0.8,
        zorder=3,
    )
    log_axes(left, "N, parameters", "D, tokens", y=True)
    left.set_title(f"lr* = {rule.c:.3g} N^{rule.a:.2f} D^{rule.b:.2f}")
    for c in good:
        low, high = c.interval
        right.errorbar(
            rule.at(c.N, c.D),
            c.best,
            yerr=[[c.best - low], [high - c.best]],
            fmt="o",
            ms=5.5,
            color=colours[c.N],
            mec="white",
            mew=0.7,
            capsize=2.5,
            lw=1.2,
        )
        if published is not None:
            right.plot(
                rule.at(c.N, c.D),
                published.at(c.N, c.D),
                "_",
                ms=9,
                mew=1.6,
                color=TARGET,
                zorder=4,
            )
    ends = np.array([min(c.best for c in good) / 1.3, max(c.best for c in good) * 1.3])
    right.plot(ends, ends, color=INK, lw=1)
    log_axes(right, "best learning rate by the rule", "best learning rate found", y=True)
    right.set_title("Optima found" + ("; red: published rule" if published is not None else ""))
    return figure


def _same(curve: Curve, drift: Drift) -> bool:
    return (
        str(curve.settings.get("parametrization", "")),
        str(curve.settings.get("recipe", "")),
    ) == (drift.parametrization, drift.recipe)
