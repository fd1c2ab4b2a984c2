"""The page of the extrapolation: the forecast first, then how it was made, and what it rests on."""

from __future__ import annotations

from collections.abc import Sequence

from stepladder.analysis.fit.levels import percent
from stepladder.analysis.report.jsonable import Results
from stepladder.analysis.report.page_parts import (
    HUMAN,
    Bold,
    Code,
    Column,
    Figure,
    Folded,
    Missing,
    Note,
    NumberLine,
    Page,
    Pair,
    Paragraph,
    Part,
    Preformatted,
    Section,
    Share,
    Shares,
    Summary,
    Table,
    Tick,
    Tile,
    left_out,
)
from stepladder.analysis.studies.extrapolation import page_law
from stepladder.analysis.tables.numbers import human

_COLOURS = {
    "steps": "#0b3c5d",
    "compile": "#328cc1",
    "eval": "#8cc7d8",
    "checkpoint": "#e0a100",
    "data": "#c8384f",
    "restore": "#9aa5b1",
    "other": "#cbd2d9",
}
_OTHER_COLOUR = "#9aa5b1"


def page(results: Results) -> Page:
    """The page of what `study.study` found (results.json)."""
    counts = sorted(results["states"].items())
    states = ", ".join(f"{count} {state}" for state, count in counts) or "no runs"
    sections = (
        _how_it_was_made(results),
        _baselines(results),
        page_law.law_section(results),
        _backtest(results),
        _domains(results),
        _learning_rates(results),
        _trained(results),
        _time(results),
        _excluded(results),
        _again(results),
    )
    return Page(
        title=f"stepladder: {results['workdir']}",
        heading="Train small, decide big",
        subtitle=f"{results['workdir']} · {states} · {results['generated_utc']}",
        top=[*_forecasts(results), Missing(results["missing"])],
        sections=[section for section in sections if section is not None],
    )


def _forecasts(results: Results) -> list[Part]:
    """The box of each forecast, or one that says that there is none."""
    if results["forecasts"]:
        return [_forecast(entry) for entry in results["forecasts"]]
    known = "The law through the finished proxies is below."
    said = known if results["law"] else "Nothing can be forecast yet."
    return [Summary([Tile("No forecast yet", said)])]


def _forecast(entry: Results) -> Summary:
    target, truth = entry["target"], entry["truth"]
    tiles = [
        Tile(f"{entry['prediction']:.3f}", "forecast, nats per token", "red"),
        Tile(f"{entry['low']:.3f} to {entry['high']:.3f}", f"{percent(entry['level'])} interval"),
    ]
    if truth is not None:
        tiles += [
            Tile(f"{truth:.3f}", "truth"),
            Tile(f"{entry['error']:+.2%}", "error of the forecast"),
            Tile("inside", "the interval", "good")
            if entry["covered"]
            else Tile("outside", "the interval", "red"),
        ]
    known = [b for b in entry["baselines"] if b["prediction"] is not None]
    parts: list[Part] = [
        NumberLine(
            entry["prediction"],
            entry["low"],
            entry["high"],
            truth,
            [Tick(b["name"], b["prediction"]) for b in known],
        ),
        Note(
            f"Target {entry['target_run_id']}: N = {human(target['N'])} parameters, "
            f"D = {human(target['D'])} tokens, C = {target['C']:.3g} training FLOPs."
        ),
    ]
    if truth is None:
        parts.append(Note(f"No truth yet: {entry['truth_reason']}."))
    return Summary(tiles, parts)


def _how_it_was_made(results: Results) -> Section | None:
    if not results["forecasts"]:
        return None
    told = [p for entry in results["forecasts"] for p in (_written(entry), _interval(entry))]
    return Section("How the forecast was made, before step 0 of the target", told)


def _written(entry: Results) -> Paragraph:
    begun = "it has not started"
    if entry["target_created"]:
        begun = f"its record was opened at {entry['target_created']}"
        if entry["target_created"] < entry["written_utc"]:
            begun += (
                ", which is EARLIER than the forecast: the clocks disagree, or this entry is no "
                "forecast"
            )
    return Paragraph(
        (
            "Written ",
            Bold(entry["written_utc"]),
            " for the target with spec hash ",
            Code(entry["target_spec_hash"][:16]),
            f"; {begun}. The entry stands in ",
            Code("forecast.json"),
            " and is never overwritten. "
            f"It used {len(entry['points'])} final, decayed losses of the proxies and nothing of "
            "the target; decayed and undecayed evaluations are never mixed.",
        )
    )


def _interval(entry: Results) -> Paragraph:
    interval = entry["interval"]
    floor = "no back-test was possible, so there is no floor"
    if interval["floor"] is not None:
        floor = f"the back-test's floor is {interval['floor']:.2%} each side"
    return Paragraph(
        f"The {percent(entry['level'])} interval holds the error of the fitted parameters "
        f"({interval['parameter_sd']:.2%}, one standard deviation at the target) and the noise of "
        f"one more run ({interval['noise_sd']:.2%}), from {interval['resamples']} simulated "
        "ladders that were refitted, with the noise level itself uncertain "
        f"({interval['freedom']} degrees of freedom, {interval['clusters']} independent trunks). "
        "A law of the wrong shape is not in it; for that it is never narrower than the error made "
        f"on the hidden largest proxy: {floor}. Wider here: {interval['binding']}."
    )


def _baselines(results: Results) -> Section | None:
    columns = ["", Column("nats per token", ".4f"), Column("error", "+.2%"), "how"]
    tables = []
    for entry in results["forecasts"]:
        how = f"{results['law']['formula']}, 5 parameters, least squares in log loss"
        rows = [("law in N and D", entry["prediction"], entry.get("error"), how)]
        rows += [(b["name"], b["prediction"], b.get("error"), b["how"]) for b in entry["baselines"]]
        tables.append(Table(columns, rows))
    return Section("Beside three baselines", tables) if tables else None


def _backtest(results: Results) -> Section | None:
    tried = results["forecasts"][-1]["backtest"] if results["forecasts"] else []
    if not tried:
        return None
    columns = [
        "hidden size",
        Column("N", HUMAN),
        Column("points", "d"),
        Column("mean absolute error", ".2%"),
        Column("forecast minus truth", "+.2%"),
    ]
    rows = [
        (
            b["size"] + (" (largest)" if b["largest"] else ""),
            b["N"],
            b["points"],
            b["are"],
            -b["bias"],
        )
        for b in tried
    ]
    note = (
        "Only the largest is an extrapolation like the target's; the others show how much single "
        "sizes matter."
    )
    title = "Back-test: hide a size, forecast it from the others"
    return Section(title, [Table(columns, rows), Note(note)])


def _domains(results: Results) -> Section | None:
    columns = [
        "domain",
        Column("forecast", ".4f"),
        "interval",
        Column("truth", ".4f"),
        Column("error", "+.2%"),
        "",
        Column("bits per byte", ".4f"),
    ]
    tables = []
    for entry in results["forecasts"]:
        rows = [_domain(name, found) for name, found in entry.get("domains", {}).items()]
        if rows:
            tables.append(Table(columns, rows))
    return Section("By domain", tables) if tables else None


def _domain(name: str, found: Results) -> tuple[str | float | None, ...]:
    span = found.get("reason", "")
    if found.get("prediction"):
        span = f"{found['low']:.3f} to {found['high']:.3f}"
    covered = found.get("covered")
    return (
        name,
        found.get("prediction"),
        span,
        found.get("truth"),
        found.get("error"),
        "" if covered is None else "inside" if covered else "outside",
        found.get("bits_per_byte"),
    )


def _learning_rates(results: Results) -> Section | None:
    curves = results["learning_rate"]
    if not curves:
        return None
    interval = f"{percent(curves[0]['level'])} interval"
    columns = ["size", Column("D", HUMAN), Column("optimum", ".3g"), interval, ""]
    rows = [
        (
            c["size"],
            c["D"],
            c["optimum"] or "none",
            f"{c['low']:.3g} to {c['high']:.3g}" if c["low"] else "",
            c["refused"] or f"noise: {c['noise_source']}",
        )
        for c in curves
    ]
    return Section("Learning-rate curves", [Figure("learning_rate"), Table(columns, rows)])


_RUN_COLUMNS = (
    "run",
    "role",
    Column("N", HUMAN),
    Column("non-embedding", HUMAN),
    Column("D, tokens", HUMAN),
    Column("FLOPs", ".3g"),
    Column("6ND", ".3g"),
    Column("learning rate", ".3g"),
    Column("batch", ""),
    Column("seed", ""),
    "state",
)
_RUN_FIELDS = (
    "run_id",
    "role",
    "params_total",
    "params_non_embedding",
    "D",
    "train_flops",
    "train_flops_6nd",
    "learning_rate",
    "batch_size",
    "seed",
    "state",
)


def _trained(results: Results) -> Section | None:
    if not results["runs"]:
        return None

    def place(run: Results) -> tuple[bool, int, int]:
        return run["role"] == "target", run["params_total"], run["D"]

    runs = sorted(results["runs"], key=place)
    main = [r for r in runs if r["role"] != "sweep"]
    sweep = [r for r in runs if r["role"] == "sweep"]
    parts: list[Part] = [Figure("loss_curves")]
    if main:
        parts.append(_runs(main))
    if sweep:
        parts.append(Folded(f"{len(sweep)} runs of the learning-rate sweep", [_runs(sweep)]))
    note = (
        "FLOPs counts every matrix product of training, attention and unembedding included; 6ND "
        "leaves embeddings out. A branch's D includes its parent's."
    )
    return Section("What was trained", [*parts, Note(note)])


def _runs(runs: Sequence[Results]) -> Table:
    return Table(_RUN_COLUMNS, [[run[name] for name in _RUN_FIELDS] for run in runs])


def _time(results: Results) -> Section | None:
    timing = results["timing"]
    if not timing["total"]:
        return None
    shares = sorted(timing["shares"].items(), key=lambda item: -item[1])
    bar = [Share(phase, share, _COLOURS.get(phase, _OTHER_COLOUR)) for phase, share in shares]
    rows = [(phase, timing["seconds"][phase], share) for phase, share in shares]
    tables = [Table(["phase", Column("seconds", ".1f"), Column("share", ".1%")], rows)]
    if timing["throughput"]:
        columns = [
            "size",
            Column("N", HUMAN),
            Column("tokens a second", HUMAN),
            Column("MFU", ".2%"),
        ]
        speeds = [
            (t["size"], t["N"], t["tokens_per_second"], t["mfu"]) for t in timing["throughput"]
        ]
        tables.append(Table(columns, speeds))
    said = f"{timing['total']:.0f} seconds: {timing['of']}.{_goodput(timing)}"
    return Section("Where the time went", [Paragraph(said), Shares(bar), Pair(tables)])


def _goodput(timing: Results) -> str:
    if timing["goodput"] is None:
        return ""
    again = ""
    if timing["lost_steps"]:
        again = f"; {timing['lost_steps']} steps were made again after a crash"
    return (
        " Goodput, the share of all runs' time in steps that count: "
        f"{timing['goodput']:.1%}{again}."
    )


def _excluded(results: Results) -> Section:
    rows = results["excluded"]
    if not rows:
        return Section("Left out", [Paragraph("Nothing was left out of the law.")])
    return Section("Left out of the law, and why", left_out(rows))


def _again(results: Results) -> Section:
    note = Note(("Every number on it stands in ", Code("results.json"), " beside it."))
    command = f"stepladder report --workdir={results['workdir']}"
    return Section("To make this page again", [Preformatted(command), note])
