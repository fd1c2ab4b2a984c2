"""The words and the page of the learning-rate study."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from stepladder.analysis.fit.levels import percent
from stepladder.analysis.report.jsonable import plain
from stepladder.analysis.report.page_parts import (
    HUMAN,
    Bold,
    Cell,
    Column,
    Figure,
    Folded,
    Listing,
    Missing,
    Note,
    Page,
    Paragraph,
    Part,
    Section,
    Summary,
    Table,
    Tile,
    left_out,
)
from stepladder.analysis.studies.learning_rate.curves import Curve
from stepladder.analysis.studies.learning_rate.divergence import EXCESS, Boundary
from stepladder.analysis.studies.learning_rate.sensitivity import Sensitivity
from stepladder.analysis.studies.learning_rate.study import LearningRateStudy
from stepladder.analysis.tables.numbers import human

_MISSING = "missing: "  # how a sentence begins that says what is not there
_SHOWN = 40  # curves in the open table; the rest is folded

Interval = tuple[float, float | None, float | None]  # value, low, high


def verdict(found: LearningRateStudy) -> list[str]:
    """Sentences, each number with its interval; a claim that is not settled says so."""
    sure = sum(c.optimum is not None for c in found.chosen)
    lost = int(found.points.frame["diverged"].sum())
    out = [
        f"{sure} of {len(found.chosen)} learning-rate curves have an optimum inside of their grid; "
        f"{len(found.points.frame)} runs, {lost} diverged, {len(found.excluded)} left out (reasons "
        "in the report)"
    ]
    for d in found.drifts:
        name = " ".join(w for w in (d.parametrization, d.recipe) if w) or "all runs"
        held = f", {' and '.join(d.held)} held" if d.held else ""
        out.append(
            f"{name}: the best rate moves as {d.axis}^{_interval(d.slope)}{held}, by a factor "
            f"{_interval(d.factor)} from {d.axis} {human(d.span[0])} to {human(d.span[1])}"
        )
    out += [c.verdict for c in found.comparisons]
    if found.rule is not None:
        spans = found.rule.spans(found.level)
        said = (
            ", ".join(f"{k} {_interval(v)}" for k, v in spans.items())
            or "no intervals: as many optima as coefficients"
        )
        out.append(
            f"through the optima: lr* = {found.rule.c:.4g} N^{found.rule.a:.4f} "
            f"D^{found.rule.b:.4f} ({said})"
        )
    if found.near is not None:
        n = found.near
        said = ", ".join(f"{k} {_interval(v)}" for k, v in n.rate.items())
        out.append(
            f"through the {n.runs} runs within {n.within:.2%} of the best of their {n.cells} (N, "
            f"D): lr {said}"
        )
        if n.batch:
            out.append(
                f"the same for the batch ({n.batch_unit}): "
                + ", ".join(f"{k} {_interval(v)}" for k, v in n.batch.items())
            )
    law = found.boundary_law
    if law is not None:
        out.append(
            f"runs begin to diverge at {_interval(law.rate)} for N = {human(law.centre)}, and as "
            f"N^{_interval(law.a)} ({law.brackets} brackets; {len(law.notes)} settings have none "
            "and are left out)"
        )
    return [*out, *(f"{_MISSING}{what}" for what in found.missing)]


def page(found: LearningRateStudy) -> Page:
    """The page of what `study.study` found."""
    settled = sum(c.optimum is not None for c in found.chosen)
    excluded = [plain(row) for row in found.excluded.to_dict("records")]
    said = verdict(found)
    tiles = [Tile(f"{settled} of {len(found.chosen)}", "curves with an optimum"), *_tiles(found)]
    sections = (
        Section("What was found", [Listing([s for s in said if not s.startswith(_MISSING)])]),
        _curves(found),
        _drift(found),
        _rule(found),
        _cost(found),
        _divergence(found),
        Section("Left out, and why", left_out(excluded)),
    )
    return Page(
        title="stepladder: learning rate",
        heading="Which learning rate?",
        subtitle=f"{found.points.source} · {len(found.points.frame)} runs",
        top=[Summary(tiles, [Paragraph(said[0])]), Missing(found.missing)],
        sections=[section for section in sections if section is not None],
    )


def _tiles(found: LearningRateStudy) -> list[Tile]:
    drifts = [
        Tile(
            f"{d.factor[0]:.2g}",
            f"drift of lr* with {d.axis}, {d.parametrization or 'all'} {d.recipe}".strip(),
        )
        for d in found.drifts[:3]
    ]
    compared = [
        Tile(f"{c.probability:.2f}", f"probability that {c.first} drifts less")
        for c in found.comparisons[:1]
    ]
    return drifts + compared


_CURVE_NOTE = (
    "A curve is made of runs that differ in the learning rate and the seeds alone; the optimum is "
    "the minimum of a curve through the lowest point and two neighbours on each side, in ln rate. "
    "The interval holds noise, the choice of the lowest point and the shape."
)


def _curves(found: LearningRateStudy) -> Section | None:
    if not found.curves:
        return None
    columns = [
        "size",
        Column("D", HUMAN),
        "settings",
        Column("rates", "d"),
        Column("seeds", ""),
        Column("best rate", ".3g"),
        f"{percent(found.level)} interval",
        Column("loss there", ".4f"),
        "",
    ]
    chosen = [_curve(c) for c in found.curves if c in found.chosen]
    other = [_curve(c) for c in found.curves if c not in found.chosen]
    shown, more = chosen[:_SHOWN], chosen[_SHOWN:] + other
    parts: list[Part] = [
        Figure("curves"),
        Note(_CURVE_NOTE),
        *(Note(f"{note}.") for note in (*found.notes, *found.points.notes)),
        Table(columns, shown),
    ]
    if more:
        parts.append(Folded(f"{len(more)} more curves", [Table(columns, more)]))
    return Section("Loss against learning rate", parts)


def _curve(c: Curve) -> list[Cell]:
    settings = ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in c.settings.items()
        if _is_set(value)
    )
    diverged = [f"{lost} of {runs} diverged at {rate:.3g}" for rate, lost, runs in c.diverged]
    about = [c.refused or f"noise: {c.noise_source}", *diverged]
    return [
        c.size,
        c.D,
        settings,
        len(c.rates),
        _seeds(c.seeds),
        "none" if c.optimum is None else c.optimum,
        "" if c.low is None else f"{c.low:.3g} to {c.high:.3g}",
        c.loss_at_optimum,
        "; ".join(words for words in about if words),
    ]


def _is_set(value: Any) -> bool:
    """Whether a setting says something: not empty, None or NaN."""
    return value not in ("", None) and not (isinstance(value, float) and np.isnan(value))


def _seeds(counts: Sequence[int]) -> str:
    """The number of seeds at each rate: "2", or "1 to 3"."""
    if not counts:
        return "0"
    least, most = min(counts), max(counts)
    return f"{least} to {most}" if least < most else str(least)


def _drift(found: LearningRateStudy) -> Section | None:
    if not found.drifts:
        return None
    columns = [
        "parametrisation",
        "recipe",
        "along",
        Column("optima", "d"),
        "d ln lr* / d ln",
        "factor, smallest to largest",
        "",
    ]
    rows = [
        (
            d.parametrization or "all",
            d.recipe,
            d.axis,
            d.optima,
            _interval(d.slope),
            _interval(d.factor),
            "; ".join(d.notes),
        )
        for d in found.drifts
    ]
    compared = [
        Paragraph((Bold(c.verdict), f"; difference of the slopes {_interval(c.less)}."))
        for c in found.comparisons
    ]
    figures = [Figure(f"drift_{axis}") for axis in dict.fromkeys(d.axis for d in found.drifts)]
    return Section("Drift of the best rate", [*compared, *figures, Table(columns, rows)])


def _rule(found: LearningRateStudy) -> Section | None:
    if found.rule is None and found.near is None:
        return None
    rows: list[tuple[str, str, str]] = []
    if found.rule is not None:
        spans = found.rule.spans(found.level)
        rows += [("the optima", name, _interval(span)) for name, span in spans.items()]
    if found.near is not None:
        near = f"runs within {found.near.within:.2%}, resampled by {found.near.resampled}"
        batch = f"{near}: batch, {found.near.batch_unit}"
        rows += [(f"{near}: rate", k, _interval(span)) for k, span in found.near.rate.items()]
        rows += [(batch, k, _interval(span)) for k, span in found.near.batch.items()]
    note = (
        "Red marks, where the sizes are its own: the published 1.79 N^-.713 D^.307 (arXiv "
        "2503.04715), whose N has no embeddings."
    )
    table = Table(["through", "", "value and interval"], rows)
    return Section("The law in N and D", [Figure("plane"), Note(note), table])


def _cost(found: LearningRateStudy) -> Section | None:
    pairs = [(c, s) for c, s in zip(found.curves, found.sensitivities) if c in found.chosen]
    if not pairs:
        return None
    columns = [
        "size",
        Column("D", HUMAN),
        "parametrisation",
        "recipe",
        "nats per token",
        "initial loss",
        "rates",
        "diverged",
        "",
    ]
    note = (
        "Mean over the rates of min(loss, initial loss) - lowest (arXiv 2309.14322); a diverged "
        "run counts as its initial loss. "
    )
    if len({s.rates for _, s in pairs}) > 1:
        note += (
            "The rates tried differ between the rows, and only sensitivities over the same rates "
            "compare."
        )
    rows = [_sensitivity(c, s) for c, s in pairs]
    parts = [Figure("sensitivity"), Note(note), Table(columns, rows)]
    return Section("What a wrong rate costs", parts)


def _sensitivity(c: Curve, s: Sensitivity) -> list[Cell]:
    initial = s.initial_source
    if s.initial_loss is not None:
        initial = f"{s.initial_loss:.3f}, {s.initial_source}"
    return [
        c.size,
        c.D,
        *_kind(c),
        "none" if s.value is None else _interval((s.value, s.low, s.high)),
        initial,
        f"{s.rates[0]:.3g} to {s.rates[1]:.3g}, {s.rates[2]}",
        f"{s.diverged} of {s.runs}",
        s.refused,
    ]


def _divergence(found: LearningRateStudy) -> Section | None:
    if all(b.diverges is None for b in found.boundaries):
        return None
    columns = [
        "size",
        Column("D", HUMAN),
        "parametrisation",
        "recipe",
        Column("survives", ".3g"),
        Column("seeds", "d"),
        Column("diverges", ".3g"),
        "seeds",
        "",
    ]
    rows = [
        (
            b.size,
            b.D,
            *_kind(b),
            "none" if b.survives is None else b.survives,
            b.survivors,
            "none" if b.diverges is None else b.diverges,
            f"{b.lost[0]} of {b.lost[1]}",
            b.note,
        )
        for b in found.boundaries
    ]
    note = (
        "A run counts as diverged when its record says so, or it ends above its initial loss or "
        f"{EXCESS:g} nat above the lowest of its setting."
    )
    parts = [Figure("divergence"), Note(note), Table(columns, rows)]
    return Section("Where runs diverge", parts)


def _kind(found: Curve | Boundary) -> tuple[str, str]:
    """Parametrisation and recipe."""
    return str(found.settings.get("parametrization", "")), str(found.settings.get("recipe", ""))


def _interval(span: Interval | Sequence[float]) -> str:
    """value (low to high)."""
    value, low, high = span[:3]
    if low is None or high is None or not np.isfinite(low):
        return f"{value:.4g} (no interval)"
    return f"{value:.4g} ({low:.4g} to {high:.4g})"
