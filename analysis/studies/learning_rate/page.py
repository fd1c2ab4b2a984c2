"""The words and the page of the learning-rate study: verdict sentences, tables, figures."""

from html import escape

import numpy as np

from stepladder.analysis.report.html_pieces import figure, hero, left_out, missing, table
from stepladder.analysis.report.jsonable import plain
from stepladder.analysis.studies.learning_rate.divergence import EXCESS
from stepladder.analysis.studies.learning_rate.study import RateStudy
from stepladder.analysis.tables.numbers import human

_SHOWN = 40  # curves in the open table; the rest is folded


def verdict(found: RateStudy) -> list[str]:
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
            f"{name}: the best rate moves as {d.axis}^{_span(d.slope)}{held}, by a factor "
            f"{_span(d.factor)} from {d.axis} {human(d.span[0])} to {human(d.span[1])}"
        )
    out += [c.verdict for c in found.comparisons]
    if found.rule is not None:
        spans = found.rule.spans(found.level)
        said = (
            ", ".join(f"{k} {_span(v)}" for k, v in spans.items())
            or "no intervals: as many optima as coefficients"
        )
        out.append(
            f"through the optima: lr* = {found.rule.c:.4g} N^{found.rule.a:.4f} "
            f"D^{found.rule.b:.4f} ({said})"
        )
    if found.near is not None:
        n = found.near
        said = ", ".join(f"{k} {_span(v)}" for k, v in n.rate.items())
        out.append(
            f"through the {n.runs} runs within {n.within:.2%} of the best of their {n.cells} (N, "
            f"D): lr {said}"
        )
        if n.batch:
            out.append(
                f"the same for the batch ({n.batch_unit}): "
                + ", ".join(f"{k} {_span(v)}" for k, v in n.batch.items())
            )
    law = found.boundary_law
    if law is not None:
        out.append(
            f"runs begin to diverge at {_span(law.rate)} for N = {human(law.centre)}, and as "
            f"N^{_span(law.a)} ({law.brackets} brackets; {len(law.notes)} settings have none and "
            "are left out)"
        )
    return [*out, *(f"missing: {what}" for what in found.missing)]


def body(found: RateStudy, drawn: dict[str, str]) -> str:
    """HTML of the whole page."""
    sure = sum(c.optimum is not None for c in found.chosen)
    tiles = [(f"{sure} of {len(found.chosen)}", "curves with an optimum"), *_tiles(found)]
    words = verdict(found)
    listed = "".join(f"<li>{escape(s)}</li>" for s in words if not s.startswith("missing: "))
    return (
        f'<h1>Which learning rate?</h1><p class="sub">{escape(str(found.points.source))} &middot; '
        f"{len(found.points.frame)} runs</p>"
        f"{hero(words[0], tiles)}{missing(found.missing)}<h2>What was found</h2>"
        f"<ul>{listed}</ul>{_curves(found, drawn)}{_drift(found, drawn)}{_rule(found, drawn)}"
        f"{_cost(found, drawn)}{_broken(found, drawn)}<h2>Left out, and why</h2>{_left(found)}"
    )


def _tiles(found: RateStudy) -> list[tuple[str, str]]:
    tiles = [
        (
            f"{d.factor[0]:.2g}",
            f"drift of lr* with {d.axis}, {d.parametrization or 'all'} {d.recipe}".strip(),
        )
        for d in found.drifts[:3]
    ]
    return tiles + (
        [
            (f"{c.probability:.2f}", f"probability that {c.first} drifts less")
            for c in found.comparisons[:1]
        ]
    )


def _curves(found: RateStudy, drawn: dict) -> str:
    if not found.curves:
        return ""
    head = [
        "size",
        "D#",
        "settings",
        "rates#",
        "seeds#",
        "best rate#",
        f"{found.level:.0%} interval",
        "loss there#",
        "",
    ]
    chosen, other = (
        [_row(c) for c in found.curves if (c in found.chosen) == s] for s in (True, False)
    )
    shown, more = chosen[:_SHOWN], chosen[_SHOWN:] + other
    folded = (
        f"<details><summary>{len(more)} more curves</summary>{table(head, more)}</details>"
        if more
        else ""
    )
    note = (
        "A curve is made of runs that differ in the learning rate and the seeds alone; the optimum "
        "is the minimum of a curve through the lowest point and two neighbours on each side, in ln "
        "rate. The interval holds noise, the choice of the lowest point and the shape."
    )
    notes = "".join(
        f'<p class="note">{escape(n)}.</p>' for n in (*found.notes, *found.points.notes)
    )
    return (
        f"<h2>Loss against learning rate</h2>{figure(drawn, 'curves')}"
        f'<p class="note">{note}</p>{notes}{table(head, shown)}{folded}'
    )


def _row(c) -> list[str]:
    settings = ", ".join(
        f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}"
        for k, v in c.settings.items()
        if v not in ("", None) and v == v
    )
    span = f"{c.low:.3g} to {c.high:.3g}" if c.low is not None else ""
    broken = "; ".join(
        f"{lost} of {runs} diverged at {rate:.3g}" for rate, lost, runs in c.diverged
    )
    about = "; ".join(w for w in (c.refused or f"noise: {c.noise_source}", broken) if w)
    seeds = (
        f"{min(c.seeds)} to {max(c.seeds)}"
        if c.seeds and min(c.seeds) < max(c.seeds)
        else str(c.seeds[0])
        if c.seeds
        else "0"
    )
    best = f"{c.optimum:.3g}" if c.optimum is not None else "none"
    loss = f"{c.loss_at_optimum:.4f}" if c.loss_at_optimum is not None else ""
    return [c.size, human(c.D), settings, str(len(c.rates)), seeds, best, span, loss, about]


def _drift(found: RateStudy, drawn: dict) -> str:
    if not found.drifts:
        return ""
    rows = [
        [
            d.parametrization or "all",
            d.recipe,
            d.axis,
            str(d.optima),
            _span(d.slope),
            _span(d.factor),
            "; ".join(d.notes),
        ]
        for d in found.drifts
    ]
    compared = "".join(
        f"<p><b>{escape(c.verdict)}</b>; difference of the slopes {escape(_span(c.less))}.</p>"
        for c in found.comparisons
    )
    shown = "".join(figure(drawn, name) for name in drawn if name.startswith("drift_"))
    return f"<h2>Drift of the best rate</h2>{compared}{shown}" + table(
        [
            "parametrisation",
            "recipe",
            "along",
            "optima#",
            "d ln lr* / d ln",
            "factor, smallest to largest",
            "",
        ],
        rows,
    )


def _rule(found: RateStudy, drawn: dict) -> str:
    rows = []
    if found.rule is not None:
        rows += [["the optima", k, _span(v)] for k, v in found.rule.spans(found.level).items()]
    if found.near is not None:
        near = f"runs within {found.near.within:.2%}, resampled by {found.near.resampled}"
        rows += [[f"{near}: rate", k, _span(v)] for k, v in found.near.rate.items()]
        rows += [
            [f"{near}: batch, {found.near.batch_unit}", k, _span(v)]
            for k, v in found.near.batch.items()
        ]
    if not rows and found.rule is None:
        return ""
    note = (
        "Red marks, where the sizes are its own: the published 1.79 N^-.713 D^.307 (arXiv "
        "2503.04715), whose N has no embeddings."
    )
    return (
        f"<h2>The law in N and D</h2>{figure(drawn, 'plane')}"
        f'<p class="note">{escape(note)}</p>{table(["through", "", "value and interval"], rows)}'
    )


def _cost(found: RateStudy, drawn: dict) -> str:
    pairs = [(c, s) for c, s in zip(found.curves, found.sensitivities) if c in found.chosen]
    if not pairs:
        return ""
    rows = []
    for c, s in pairs:
        value = _span((s.value, s.low, s.high)) if s.value is not None else "none"
        l0 = (
            f"{s.initial_loss:.3f}, {s.initial_source}"
            if s.initial_loss is not None
            else s.initial_source
        )
        rates = f"{s.rates[0]:.3g} to {s.rates[1]:.3g}, {s.rates[2]}"
        rows.append(
            [
                c.size,
                human(c.D),
                *(str(c.settings.get(k, "")) for k in ("parametrization", "recipe")),
                value,
                l0,
                rates,
                f"{s.diverged} of {s.runs}",
                s.refused,
            ]
        )
    same = len({s.rates for _, s in pairs}) == 1
    note = (
        "Mean over the rates of min(loss, initial loss) - lowest (arXiv 2309.14322); a "
        "diverged run counts as its initial loss. "
    ) + (
        ""
        if same
        else (
            "The rates tried differ between the rows, and only sensitivities over the same "
            "rates compare."
        )
    )
    head = [
        "size",
        "D#",
        "parametrisation",
        "recipe",
        "nats per token",
        "initial loss",
        "rates",
        "diverged",
        "",
    ]
    return (
        f"<h2>What a wrong rate costs</h2>{figure(drawn, 'sensitivity')}"
        f'<p class="note">{escape(note)}</p>{table(head, rows)}'
    )


def _broken(found: RateStudy, drawn: dict) -> str:
    told = [b for b in found.boundaries if b.diverges is not None]
    if not told:
        return ""

    def rate(v):
        return "none" if v is None else f"{v:.3g}"

    rows = [
        [
            b.size,
            human(b.D),
            *(str(b.settings.get(k, "")) for k in ("parametrization", "recipe")),
            rate(b.survives),
            str(b.survivors),
            rate(b.diverges),
            f"{b.lost[0]} of {b.lost[1]}",
            b.note,
        ]
        for b in found.boundaries
    ]
    head = [
        "size",
        "D#",
        "parametrisation",
        "recipe",
        "survives#",
        "seeds#",
        "diverges#",
        "seeds",
        "",
    ]
    note = (
        "A run counts as diverged when its record says so, or it ends above its initial loss or "
        f"{EXCESS:g} nat above the lowest of its setting."
    )
    return (
        f"<h2>Where runs diverge</h2>{figure(drawn, 'divergence')}"
        f'<p class="note">{escape(note)}</p>{table(head, rows)}'
    )


def _left(found: RateStudy) -> str:
    return left_out([plain(row) for row in found.excluded.to_dict("records")])


def _span(span: tuple) -> str:
    value, low, high = span[:3]
    return (
        f"{value:.4g} (no interval)"
        if low is None or not np.isfinite(low)
        else f"{value:.4g} ({low:.4g} to {high:.4g})"
    )
