"""The figures: Delta and loss against tokens, T*, matched loss, eta*, curvature, the toy."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

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
from stepladder.analysis.studies.overtraining.changes import ARMS, SEPARATE, say, size_of
from stepladder.analysis.studies.overtraining.measures import Row
from stepladder.analysis.studies.overtraining.measures.inflection import FOUND
from stepladder.analysis.studies.overtraining.result import Found, Result
from stepladder.analysis.tables.numbers import human

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANELS = 6
_LABELS = 5  # of strengths, in a legend
_TOKENS = "D, tokens of pretraining"


def name_of(what: str, arm: str, family: str) -> str:
    """The name of a figure of one arm and family of changes."""
    return re.sub(r"\W", "_", f"{what}_{arm}_{family}")


def draw(result: Result) -> dict[str, Svg]:
    """Name -> drawing, of every figure there is data for."""
    found, drawn = result.found, {}
    pairs = groups(found)
    # Other arms are compared with the separate runs in a table; alone they are drawn.
    for arm, family in [p for p in pairs if p[0] == SEPARATE] or pairs:
        mine = [r for r in found.cells if (r["arm"], r["change"]) == (arm, family)]
        for what, make in (("delta", delta), ("loss", loss)):
            label = f"{what} against tokens, {family}, {ARMS[arm]}"
            drawn[name_of(what, arm, family)] = svg(make(mine, result), label)
    if any(r["state"] == FOUND for r in found.inflections):
        drawn["T_star"] = svg(inflections(found), "inflection budget against strength")
    if found.matched:
        drawn["matched"] = svg(matched(found), "forgetting at equal loss on the task, by budget")
    if any(r["eta"] is not None for r in found.rates):
        drawn["eta"] = svg(tuned_rates(found), "tuned learning rate against tokens")
    if found.second_order:
        label = "measured Delta over the one that the curvature predicts, against gamma"
        drawn["second_order"] = svg(second_order(found), label)
    drawn["toy"] = svg(toy(found.toy), "perturbed loss of the two-layer linear network over time")
    return drawn


def groups(found: Found) -> list[tuple[str, str]]:
    """Arms and families, in the order of the page."""
    order = list(ARMS)
    pairs = dict.fromkeys((r["arm"], r["change"]) for r in found.cells)
    return sorted(pairs, key=lambda p: (order.index(p[0]), p[1]))


@styled
def delta(cells: Sequence[Row], result: Result) -> Figure:
    """Delta in nats against tokens: a panel a size, a colour a strength, bars the intervals."""
    figure, _ = _by_size(cells, "delta", "Delta, nats per token")
    return figure


@styled
def loss(cells: Sequence[Row], result: Result) -> Figure:
    """The loss after the change against tokens, with T* in red, and in black the loss before."""
    figure, shown = _by_size(cells, "loss", "loss after the change, nats per token")
    key = cells[0]["arm"], cells[0]["change"]
    for axes, n in shown:
        # equal for all strengths but for which seeds they have
        base = {r["D"]: r["base_loss"] for r in cells if r["N"] == n}
        x = sorted(base)
        axes.plot(x, [base[d] for d in x], color=INK, lw=1.4, ls="--", label="before")
        for r in result.found.inflections:
            mine = (r["arm"], r["change"], r["of"], r["N"]) == (*key, "loss", n)
            if mine and r["state"] == FOUND:
                y = [c["loss"] for c in cells if _at(c, r) and c["N"] == n]
                axes.plot(r["T_star"], y[0], "v", ms=7, mfc=TARGET, mec="white", zorder=5)
        for floor in result.floors:
            axes.axhline(floor["low"], color=MUTED, lw=1, ls=":")
            axes.annotate(
                floor["floor"],
                (0.99, floor["low"]),
                xycoords=("axes fraction", "data"),
                fontsize=8,
                color=MUTED,
                ha="right",
                va="bottom",
            )
        axes.legend(loc="best", fontsize=8)
    return figure


def _at(cell: Row, inflection: Row) -> bool:
    return (cell["strength"], cell["D"]) == (inflection["strength"], inflection["T_star"])


def _by_size(
    cells: Sequence[Row], name: str, label: str
) -> tuple[Figure, list[tuple[Axes, float]]]:
    """Panels of one quantity against tokens; both axes are logarithmic where all is positive."""
    sizes = sorted({r["N"] for r in cells})[-_PANELS:]
    figure, grid = panels(len(sizes), 3)
    family = cells[0]["change"]
    strengths = sorted({r["strength"] for r in cells}, key=lambda s: size_of(family, s))
    colours = size_colours(list(range(len(strengths))))
    named = set(np.linspace(0, len(strengths) - 1, min(len(strengths), _LABELS)).round())
    positive = all(r[name] > 0 for r in cells)
    for axes, n in zip(grid, sizes):
        for k, s in enumerate(strengths):
            mine = sorted(
                (r for r in cells if (r["N"], r["strength"]) == (n, s)), key=lambda r: r["D"]
            )
            if not mine:
                continue
            text = say(family, s) if k in named else None
            _bars(axes, mine, "D", name, colours[k], text)
        log_axes(axes, _TOKENS, label if axes is grid[0] else "", y=positive)
        axes.set_title(f"{family}, N = {human(n)}")
        axes.legend(loc="best", fontsize=8)
    return figure, list(zip(grid, sizes))


def _bars(
    axes: Axes, rows: Sequence[Row], x: str, name: str, colour: str, label: str | None
) -> None:
    """A line through the rows with their intervals; a row without one has a hollow mark."""
    place, value, low, high = (
        np.array([r[k] for r in rows], float) for k in (x, name, f"{name}_low", f"{name}_high")
    )
    axes.plot(place, value, color=colour, lw=1.3, label=label)
    known = np.isfinite(low) & np.isfinite(high)
    reach = np.maximum(np.stack([value - low, high - value]), 0)[:, known]
    style: dict[str, Any] = {"color": colour, "ms": 4.5, "mec": "white", "mew": 0.6}
    axes.errorbar(place[known], value[known], yerr=reach, fmt="o", lw=1, capsize=2, **style)
    axes.plot(place[~known], value[~known], "o", ms=4.5, mfc="white", mec=colour)


@styled
def inflections(found: Found) -> Figure:
    """T* against strength: a panel an arm and family, a colour a size; dashed: by the law."""
    rows = [r for r in found.inflections if r["state"] == FOUND and r["of"] == "loss"]
    pairs = [p for p in groups(found) if any((r["arm"], r["change"]) == p for r in rows)]
    figure, grid = panels(max(len(pairs[:_PANELS]), 1), 3)
    colours = size_colours([r["N"] for r in found.inflections])
    for axes, (arm, family) in zip(grid, pairs):
        for n, colour in colours.items():
            mine = [r for r in rows if (r["arm"], r["change"], r["N"]) == (arm, family, n)]
            if not mine:
                continue
            _bars(axes, mine, "strength", "T_star", colour, f"N = {human(n)}")
            law = [r for r in found.laws.minima if (r["change"], r["N"]) == (family, n)]
            if law and arm == SEPARATE:
                x, y = ([r[k] for r in law] for k in ("strength", "T_star"))
                axes.plot(x, y, color=colour, lw=1, ls="--")
        log_axes(axes, "strength", "T*, tokens" if axes is grid[0] else "", y=True)
        axes.set_title(f"{family}, {arm}")
        axes.legend(loc="best", fontsize=8)
    return figure


@styled
def matched(found: Found) -> Figure:
    """Forgetting at equal loss on the task against tokens: a panel a task, a colour a size."""
    return _tasks(found.matched, "forgetting", "R(tau) - loss before, nats per token", False)


@styled
def tuned_rates(found: Found) -> Figure:
    """eta* against tokens: a panel a task, a colour a size; crosses are at an edge of the grid."""
    rows = [r | {"eta": r["eta"] if r["valid"] else np.nan} for r in found.rates]
    rows = [
        r | {k: np.nan if r[k] is None else r[k] for k in ("eta_low", "eta_high")} for r in rows
    ]
    figure = _tasks([r for r in rows if r["valid"]], "eta", "eta*, tuned learning rate", True)
    titles = {axes.get_title(): axes for axes in figure.axes}
    for r in rows:
        axes = titles.get(_title(r))
        if not r["valid"] and axes is not None:
            axes.plot(r["D"], r["at"], "x", ms=6, color=TARGET)
    return figure


def _tasks(rows: Sequence[Row], name: str, label: str, y: bool) -> Figure:
    titles = list(dict.fromkeys(map(_title, rows)))[:_PANELS]
    figure, grid = panels(max(len(titles), 1), 3)
    colours = size_colours([r["N"] for r in rows])
    for axes, title in zip(grid, titles):
        for n, colour in colours.items():
            mine = [r for r in rows if r["N"] == n and _title(r) == title]
            if mine:
                _bars(axes, mine, "D", name, colour, f"N = {human(n)}")
        log_axes(axes, _TOKENS, label if axes is grid[0] else "", y=y)
        axes.set_title(title)
        axes.legend(loc="best", fontsize=8)
    return figure


def _title(row: Row) -> str:
    return f"{row['task']}, {row['arm']}"


@styled
def second_order(found: Found) -> Figure:
    """Measured Delta over gamma^2 / 2 Tr(H Sigma) against gamma, a colour a budget's rank."""
    figure, axes = single_axes(7.4, 4.0)
    rows = [r for r in found.second_order if np.isfinite(r["ratio"])]
    colours = size_colours([r["D"] / r["N"] for r in rows])
    for key in dict.fromkeys((r["arm"], r["change"], r["N"], r["D"]) for r in rows):
        mine = [r for r in rows if (r["arm"], r["change"], r["N"], r["D"]) == key]
        _bars(axes, mine, "strength", "ratio", colours[key[3] / key[2]], None)
    axes.axhline(1, color=INK, lw=1)
    log_axes(axes, "gamma", "measured / predicted Delta", y=all(r["ratio"] > 0 for r in rows))
    axes.set_title("Second-order check; darker: more tokens per parameter")
    return figure


@styled
def toy(found: Row) -> Figure:
    """E[L] of the linear network over time, a line a size of noise, its minimum in red."""
    figure, axes = single_axes(7.4, 3.8)
    colours = size_colours([r["noise"] for r in found["rows"]])
    for r in found["rows"]:
        curve = found["curves"][f"{r['noise']:g}"]
        label = f"g = {r['noise']:g}, s_c = {r['critical']:.2g}"
        axes.plot(found["time"], curve, color=colours[r["noise"]], lw=1.4, label=label)
        axes.plot(r["T_star"], r["lowest"], "v", ms=6, mfc=TARGET, mec="white", zorder=4)
    axes.set_yscale("log")
    axes.set_xlabel("time of the gradient flow")
    axes.set_ylabel("loss under noise")
    axes.set_title("Two-layer linear network: larger noise, earlier minimum")
    axes.legend(loc="best", fontsize=8)
    return figure
