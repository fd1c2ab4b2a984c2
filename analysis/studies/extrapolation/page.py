"""The report's page: sections from the results, as HTML without anything outside of the file.

Every value passes through `escape`.
"""

from html import escape

from stepladder.analysis.report.html_pieces import (
    document,
    figure,
    left_out,
    missing,
    number,
    percent,
    table,
)
from stepladder.analysis.tables.numbers import human

_PHASES = {
    "steps": "#0b3c5d",
    "compile": "#328cc1",
    "eval": "#8cc7d8",
    "checkpoint": "#e0a100",
    "data": "#c8384f",
    "restore": "#9aa5b1",
    "other": "#cbd2d9",
}


def page(results: dict, drawn: dict[str, str]) -> str:
    """The whole document.

    `drawn`: figure name -> inline SVG; a figure that is not there is left out.
    """
    body = "".join(section(results, drawn) for section in _SECTIONS)
    return document(f"stepladder: {results['workdir']}", body)


def _head(results: dict, drawn: dict) -> str:
    states = (
        ", ".join(f"{count} {escape(state)}" for state, count in sorted(results["states"].items()))
        or "no runs"
    )
    out = (
        f'<h1>Train small, decide big</h1><p class="sub">{escape(results["workdir"])} &middot; '
        f"{states} &middot; "
        f"{escape(results['generated_utc'])}</p>"
    )
    return (
        out
        + ("".join(_hero(e) for e in results["forecasts"]) or _no_forecast(results))
        + missing(results["missing"])
    )


def _hero(entry: dict) -> str:
    t, truth = entry["target"], entry["truth"]
    tiles = [
        ("red", f"{entry['prediction']:.3f}", "forecast, nats per token"),
        ("", f"{entry['low']:.3f} to {entry['high']:.3f}", f"{entry['level']:.0%} interval"),
    ]
    if truth is not None:
        tiles += [
            ("", f"{truth:.3f}", "truth"),
            ("", f"{entry['error']:+.2%}", "error of the forecast"),
        ]
        tiles += (
            [("good", "inside", "the interval")]
            if entry["covered"]
            else [("red", "outside", "the interval")]
        )
    shown = "".join(
        f'<div class="tile {cls}"><b>{escape(big)}</b><span>{escape(small)}</span></div>'
        for cls, big, small in tiles
    )
    pending = (
        ""
        if truth is not None
        else f'<p class="note">No truth yet: {escape(entry["truth_reason"])}.</p>'
    )
    about = (
        f"Target {entry['target_run_id']}: N = {human(t['N'])} parameters, D = {human(t['D'])} "
        f"tokens, C = {t['C']:.3g} training FLOPs."
    )
    return (
        f'<div class="hero"><div class="tiles">{shown}</div>{_number_line(entry)}'
        f'<p class="note">{escape(about)}</p>{pending}</div>'
    )


def _number_line(entry: dict) -> str:
    """The interval as a bar, forecast and truth on it, the baselines as ticks below, on one scale
    of loss.
    """
    marks = [
        (b["name"], b["prediction"]) for b in entry["baselines"] if b["prediction"] is not None
    ]
    values = [
        entry["low"],
        entry["high"],
        entry["prediction"],
        *([entry["truth"]] if entry["truth"] is not None else []),
        *(v for _, v in marks),
    ]
    low, high = min(values), max(values)
    pad = (high - low or 1) * 0.08

    def at(v):
        return 20 + 860 * (v - low + pad) / (high - low + 2 * pad)

    x0, x1, x = at(entry["low"]), at(entry["high"]), at(entry["prediction"])
    parts = [
        '<line x1="20" x2="880" y1="40" y2="40" stroke="#cbd2d9" stroke-width="2"/>',
        (
            f'<rect x="{x0:.1f}" y="29" width="{x1 - x0:.1f}" height="22" rx="5" fill="#c8384f" '
            'opacity=".2"/>'
        ),
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="26" y2="54" stroke="#c8384f" stroke-width="3"/>',
        f'<text x="{x:.1f}" y="18" text-anchor="middle" fill="#c8384f">forecast</text>',
    ]
    if entry["truth"] is not None:
        y = at(entry["truth"])
        parts.append(
            f'<circle cx="{y:.1f}" cy="40" r="7" fill="#1f2933" stroke="#fff" stroke-width="2"/>'
        )
        near = abs(y - x) < 75  # the two words would touch
        where = (y + (46 if y >= x else -46), 18) if near else (y, 18)
        parts.append(
            f'<text x="{where[0]:.1f}" y="{where[1]}" text-anchor="middle" '
            'fill="#1f2933">truth</text>'
        )
    placed: list[tuple[float, int]] = []
    for name, value in sorted(marks, key=lambda m: m[1]):
        spot = at(value)
        row = next(
            r
            for r in range(len(marks) + 1)
            if all(abs(spot - s) > 165 or r != q for s, q in placed)
        )
        placed.append((spot, row))
        anchor = "start" if spot < 90 else "end" if spot > 810 else "middle"
        parts.append(
            f'<line x1="{spot:.1f}" x2="{spot:.1f}" y1="34" y2="46" stroke="#616e7c" '
            'stroke-width="2"/>'
        )
        parts.append(
            f'<text x="{spot:.1f}" y="{72 + 17 * row}" text-anchor="{anchor}" fill="#616e7c">'
            f"{escape(name)} {value:.3f}</text>"
        )
    height = 82 + 17 * max((r for _, r in placed), default=0)
    label = escape(
        f"forecast {entry['prediction']:.3f}, interval {entry['low']:.3f} to {entry['high']:.3f}",
        quote=True,
    )
    return (
        f'<svg viewBox="0 0 900 {height}" role="img" aria-label="{label}" '
        f'style="width:100%;font:13px system-ui,sans-serif">{"".join(parts)}</svg>'
    )


def _no_forecast(results: dict) -> str:
    said = (
        "The law through the finished proxies is below."
        if results["law"]
        else "Nothing can be forecast yet."
    )
    return (
        f'<div class="hero"><div class="tile"><b>No forecast yet</b><span>{said}</span></div></div>'
    )


def _before(results: dict, drawn: dict) -> str:
    out = ""
    for e in results["forecasts"]:
        begun = (
            f"its record was opened at {escape(e['target_created'])}"
            if e["target_created"]
            else "it has not started"
        )
        if e["target_created"] and e["target_created"] < e["written_utc"]:
            begun += (
                ", which is EARLIER than the forecast: the clocks disagree, or this entry is no "
                "forecast"
            )
        i = e["interval"]
        floor = (
            "no back-test was possible, so there is no floor"
            if i["floor"] is None
            else f"the back-test's floor is {i['floor']:.2%} each side"
        )
        out += (
            f"<p>Written <b>{escape(e['written_utc'])}</b> for the target with spec hash "
            f"<code>{escape(e['target_spec_hash'][:16])}</code>; {begun}. "
            "The entry stands in <code>forecast.json</code> and is never overwritten. It used "
            f"{len(e['points'])} final, decayed losses of the proxies and nothing of the target; "
            "decayed and undecayed evaluations are never mixed.</p>"
            f"<p>The {e['level']:.0%} interval holds the error of the fitted parameters "
            f"({i['parameter_sd']:.2%}, one standard deviation at the target) and the noise of one "
            f"more run ({i['noise_sd']:.2%}), from {i['resamples']} simulated ladders that were "
            f"refitted, with the noise level itself uncertain ({i['freedom']} degrees of freedom, "
            f"{i['clusters']} independent trunks). A law of the wrong shape is not in it; for that "
            f"it is never narrower than the error made on the hidden largest proxy: {floor}. Wider "
            f"here: {escape(i['binding'])}.</p>"
        )
    return f"<h2>How the forecast was made, before step 0 of the target</h2>{out}" if out else ""


def _beside(results: dict, drawn: dict) -> str:
    out = ""
    for e in results["forecasts"]:
        rows = [
            [
                "law in N and D",
                number(e["prediction"]),
                percent(e.get("error")),
                f"{results['law']['formula']}, 5 parameters, least squares in log loss",
            ]
        ]
        rows += [
            [b["name"], number(b["prediction"]), percent(b.get("error")), b["how"]]
            for b in e["baselines"]
        ]
        out += table(["", "nats per token#", "error#", "how"], rows)
    return f"<h2>Beside three baselines</h2>{out}" if out else ""


def _law(results: dict, drawn: dict) -> str:
    law = results["law"]
    if law is None:
        return ""
    entry = results["forecasts"][-1] if results["forecasts"] else {}
    spans = entry.get("parameters", {})
    rows = [
        [
            name,
            f"{value:.4g}",
            f"{spans[name][0]:.3g} to {spans[name][1]:.3g}"
            if name in spans
            else f"relative s.e. {percent(law['log_se'][name], False)}",
        ]
        for name, value in law["params"].items()
    ]
    count = (
        "all parameters, embeddings included"
        if results["n"] == "params_total"
        else "parameters without embeddings"
    )
    facts = (
        f"{law['points']} points, residual standard deviation {law['residual_sd']:.2%} of the "
        f"loss, condition number {law['condition'] or float('nan'):.3g}, {law['starts']} starts, "
        f"{len(law['minima'])} distinct {'minimum' if len(law['minima']) == 1 else 'minima'}. N "
        f"counts {count}; D is tokens; loss is nats per token."
    )
    known = "".join(f"<li>{escape(s)}</li>" for s in (*entry.get("identified", ()), *law["notes"]))
    known = f"<h3>What is and what is not identified</h3><ul>{known}</ul>" if known else ""
    pair = "".join(figure(drawn, k) for k in ("contours", "residuals"))
    return (
        f"<h2>The law</h2><p>{escape(law['formula'])} (arXiv "
        f"{escape(law['source'])})</p>{table(['parameter', 'value#', 'interval'], rows)}"
        f'<p class="note">{escape(facts)}</p>{_undecayed(results)}{known}{_allocation(entry)}'
        f'{figure(drawn, "extrapolation")}<div class="pair">{pair}</div>'
    )


def _allocation(entry: dict) -> str:
    """What the law would have bought for the target's compute; nothing for a forecast of an older
    version.
    """
    found = entry.get("allocation")
    if not found:
        return ""
    rows = [
        [
            label,
            f"{found[k][0]:.4g}",
            f"{found[k][1]:.3g} to {found[k][2]:.3g}",
            f"{entry['target'][k]:.4g}" if k in entry["target"] else "",
        ]
        for k, label in (
            ("N", "parameters N*"),
            ("D", "tokens D*"),
            ("loss", "loss there"),
            ("a", "a of N* ~ C^a"),
        )
    ]
    return (
        f"<h3>What the law would buy for 6 N D = {found['C']:.3g} FLOPs</h3>"
        f"{table(['', 'optimum#', 'interval#', 'the target#'], rows)}"
        '<p class="note">Closed form of the fitted law; an interval wider than the range of the '
        "proxies says that they do not settle it.</p>"
    )


def _undecayed(results: dict) -> str:
    """The same law through intermediate checkpoints at full learning rate, kept apart from the
    final losses.
    """
    law = results.get("law_undecayed")
    if law is None:
        return ""
    values = ", ".join(f"{name} = {value:.4g}" for name, value in law["params"].items())
    return (
        f'<p class="note">Kept apart: the same law through the {law["points"]} undecayed '
        f"intermediate checkpoints gives {escape(values)} "
        f"(residual standard deviation {law['residual_sd']:.2%}); they lie higher and take no part "
        "in the forecast.</p>"
    )


def _backtest(results: dict, drawn: dict) -> str:
    rows = []
    for b in results["forecasts"][-1]["backtest"] if results["forecasts"] else []:
        rows.append(
            [
                b["size"] + (" (largest)" if b["largest"] else ""),
                human(b["N"]),
                str(b["points"]),
                percent(b["are"], False),
                percent(-b["bias"]),
            ]
        )
    if not rows:
        return ""
    return (
        "<h2>Back-test: hide a size, forecast it from the others</h2>"
        + table(
            ["hidden size", "N#", "points#", "mean absolute error#", "forecast minus truth#"], rows
        )
        + (
            '<p class="note">Only the largest is an extrapolation like the target\'s; the others '
            "show how much single sizes matter.</p>"
        )
    )


def _rates(results: dict, drawn: dict) -> str:
    curves = results["learning_rate"]
    if not curves:
        return ""
    rows = [
        [
            c["size"],
            human(c["D"]),
            f"{c['optimum']:.3g}" if c["optimum"] else "none",
            f"{c['low']:.3g} to {c['high']:.3g}" if c["low"] else "",
            c["refused"] or f"noise: {c['noise_source']}",
        ]
        for c in curves
    ]
    return (
        f"<h2>Learning-rate curves</h2>{figure(drawn, 'learning_rate')}"
        f"{table(['size', 'D#', 'optimum#', '90% interval', ''], rows)}"
    )


def _trained(results: dict, drawn: dict) -> str:
    if not results["runs"]:
        return ""
    head = [
        "run",
        "role",
        "N#",
        "non-embedding#",
        "D, tokens#",
        "FLOPs#",
        "6ND#",
        "learning rate#",
        "batch#",
        "seed#",
        "state",
    ]
    rows = [
        [
            r["run_id"],
            r["role"],
            human(r["params_total"]),
            human(r["params_non_embedding"]),
            human(r["D"]),
            f"{r['train_flops']:.3g}",
            f"{r['train_flops_6nd']:.3g}",
            f"{r['learning_rate']:.3g}",
            str(r["batch_size"]),
            str(r["seed"]),
            r["state"],
        ]
        for r in sorted(
            results["runs"],
            key=lambda r: (r["role"] == "target", r["role"] == "sweep", r["params_total"], r["D"]),
        )
    ]
    main, sweep = ([x for x in rows if (x[1] == "sweep") == s] for s in (False, True))
    more = (
        (
            f"<details><summary>{len(sweep)} runs of the learning-rate sweep</summary>"
            f"{table(head, sweep)}</details>"
        )
        if sweep
        else ""
    )
    note = (
        "FLOPs counts every matrix product of training, attention and unembedding included; 6ND "
        "leaves embeddings out. A branch's D includes its parent's."
    )
    return (
        f"<h2>What was trained</h2>{figure(drawn, 'loss_curves')}"
        f'{table(head, main) if main else ""}{more}<p class="note">{note}</p>'
    )


def _domains(results: dict, drawn: dict) -> str:
    out = ""
    for e in results["forecasts"]:
        rows = []
        for name, d in e.get("domains", {}).items():
            span = (
                f"{d['low']:.3f} to {d['high']:.3f}" if d.get("prediction") else d.get("reason", "")
            )
            inside = {True: "inside", False: "outside"}.get(d.get("covered"), "")
            rows.append(
                [
                    name,
                    number(d.get("prediction")),
                    span,
                    number(d.get("truth")),
                    percent(d.get("error")),
                    inside,
                    number(d.get("bits_per_byte")),
                ]
            )
        if rows:
            out += table(
                ["domain", "forecast#", "interval", "truth#", "error#", "", "bits per byte#"], rows
            )
    return f"<h2>By domain</h2>{out}" if out else ""


def _time(results: dict, drawn: dict) -> str:
    timing = results["timing"]
    if not timing["total"]:
        return ""
    ordered = sorted(timing["shares"].items(), key=lambda kv: -kv[1])
    bar = "".join(
        (
            f'<div style="width:{100 * share:.2f}%;background:{_PHASES.get(phase, "#9aa5b1")}" '
            f'title="{escape(phase)}"></div>'
        )
        for phase, share in ordered
    )
    rows = [[phase, f"{timing['seconds'][phase]:.1f}", f"{share:.1%}"] for phase, share in ordered]
    speed = [
        [t["size"], human(t["N"]), human(t["tokens_per_second"]), percent(t["mfu"], False)]
        for t in timing["throughput"]
    ]
    tables = table(["phase", "seconds#", "share#"], rows) + (
        table(["size", "N#", "tokens a second#", "MFU#"], speed) if speed else ""
    )
    return (
        f"<h2>Where the time went</h2><p>{timing['total']:.0f} seconds: "
        f'{escape(timing["of"])}.{_goodput(timing)}</p><div class="share">{bar}</div>'
        f'<div class="pair">{tables}</div>'
    )


def _goodput(timing: dict) -> str:
    if timing["goodput"] is None:
        return ""
    again = (
        f"; {timing['lost_steps']} steps were made again after a crash"
        if timing["lost_steps"]
        else ""
    )
    return (
        " Goodput, the share of all runs' time in steps that count: "
        f"{timing['goodput']:.1%}{again}."
    )


def _excluded(results: dict, drawn: dict) -> str:
    rows = results["excluded"]
    if not rows:
        return "<h2>Left out</h2><p>Nothing was left out of the law.</p>"
    return f"<h2>Left out of the law, and why</h2>{left_out(rows)}"


def _again(results: dict, drawn: dict) -> str:
    command = f"stepladder report --workdir={results['workdir']}"
    return (
        f"<h2>To make this page again</h2><pre>{escape(command)}</pre>"
        "<p class='note'>Every number on it stands in <code>results.json</code> beside it.</p>"
    )


_SECTIONS = (
    _head,
    _before,
    _beside,
    _law,
    _backtest,
    _domains,
    _rates,
    _trained,
    _time,
    _excluded,
    _again,
)
