"""The study's page as data: the verdicts, then the evidence in the order of the protocol."""

from collections.abc import Callable, Sequence

from stepladder.analysis.fit.levels import percent
from stepladder.analysis.report.page_parts import (
    HUMAN,
    Cell,
    Column,
    Figure,
    Folded,
    Heading,
    Missing,
    Note,
    Page,
    Paragraph,
    Part,
    Section,
    Summary,
    Table,
    Tile,
)
from stepladder.analysis.studies.overtraining.changes import ARMS, FINETUNE, kind_of, say
from stepladder.analysis.studies.overtraining.figures import name_of
from stepladder.analysis.studies.overtraining.page_evidence import (
    again,
    arms,
    controls,
    curvature,
    laws,
    left_out,
    linear_toy,
)
from stepladder.analysis.studies.overtraining.text import Results, bracketed, headline
from stepladder.analysis.tables.numbers import human

N, D = Column("N", HUMAN), Column("tokens", HUMAN)
WORDS = (
    "A change is what was done to a pretrained model: noise on its weights, quantisation or "
    "fine-tuning. Delta is the loss on pretraining text after it minus the loss before, in nats "
    "per token or in perplexity; the two are never mixed. T is the number of pretraining tokens, "
    "and T* the T after which the changed model gets worse again. An arm is a way to pretrain."
)
RULE = (
    "An inflection is declared only where the loss at the largest budget lies above the lowest "
    "loss by two standard errors of their difference; the rule is ours. The interval of T* holds "
    "the minima of redrawn curves; the share is that of the redrawn curves on which the rule "
    "declares one. With T* at the smallest budget the inflection lies there or before."
)


def page(results: Results) -> Page:
    """The whole page.

    results: Result.to_dict() with source and command.
    """
    s = results["settings"]
    how = ", ".join(f"{name} ({count} cells)" for name, count in s["intervals"].items())
    sections = [
        _claims(results),
        _sensitivity(results),
        _inflections(results),
        controls(results),
        *([_tuning(results), _matched(results)] if results["rates"] else []),
        laws(results),
        curvature(results),
        arms(results),
        linear_toy(results),
        left_out(results),
        again(results),
    ]
    return Page(
        title="stepladder: overtraining",
        heading="Does more pretraining make the model worse?",
        subtitle=results["source"],
        top=[
            Summary(_tiles(results), [Paragraph(headline(results))]),
            Paragraph(
                f"Intervals are {percent(s['level'])}. Of one cell they are Student's, from: {how}"
                f". What rests on several cells is computed again on {s['resamples']} redrawn sets "
                "of means. Protocol after arXiv 2503.19206; grids, thresholds and rules that it "
                "does not publish are ours."
            ),
            Missing(results["missing"]),
        ],
        sections=[section for section in sections if section is not None],
    )


def _tiles(results: Results) -> list[Tile]:
    """The verdicts on the first two claims, and the largest rise past an inflection."""
    words = {v["id"]: v["verdict"] for v in results["verdicts"]}
    rises = [r for r in results["inflections"] if r["of"] == "loss" and r["T_star"] is not None]
    tiles = [
        Tile(words["a"], "more sensitive with more pretraining"),
        Tile(words["b"], "worse past an inflection, at a fixed change"),
        Tile(words["f"], "more forgetting at equal fine-tuning loss"),
    ]
    if rises:
        top = max(rises, key=lambda r: r["rise"])
        label = (
            f"nats, largest rise past T*: {top['change']}, {say(top['change'], top['strength'])}, "
            f"N {human(top['N'])}, {top['arm']}"
        )
        tiles.append(Tile(f"+{bracketed(top, 'rise')}", label))
    return tiles


def _claims(results: Results) -> Section:
    rows = [[f"({v['id']}) {v['claim']}", v["verdict"], v["why"]] for v in results["verdicts"]]
    parts = [
        [f"({v['id']})", p["of"], p["verdict"], p["numbers"]]
        for v in results["verdicts"]
        for p in v["parts"]
    ]
    floors = [
        [r["floor"], r["low"], r["high"], f"{r['below']} of {r['models']}"]
        for r in results["floors"]
    ]
    columns = ["floor", Column("least, nats", ".4f"), Column("most, nats", ".4f")]
    return Section(
        "The claims, and what these models say",
        [
            Table(["claim", "verdict", "why"], rows),
            Folded(
                "by change, task and size, with numbers",
                [Table(["claim", "of", "verdict", "numbers [interval]"], parts)],
                open=True,
            ),
            *([Table([*columns, "pretrained models below it"], floors)] if floors else []),
            Note(
                "Verdicts are about the arm of separate, fully decayed runs, but for (g) and (h). "
                "Seen: over the whole interval. Not seen at this scale: the numbers show that it "
                "fails. Not settled: in between, or the parts disagree. Not testable here: the "
                "rows it needs are missing."
            ),
            Note(WORDS),
        ],
    )


def _sensitivity(results: Results) -> Section:
    parts: list[Part] = [_table(_FAMILIES, results["families"])]
    parts += [Figure(name_of("delta", arm, change)) for arm, change in _groups(results)]
    return Section(
        "Delta against the tokens of pretraining",
        [
            Note(
                "tau is Kendall's rank correlation of Delta with T, averaged over strengths; 1 is "
                "a rise at every step. Growth is Delta in nats at the last budget over that at the "
                "first."
            ),
            *parts,
            Folded(
                f"every strength, {len(results['trends'])} rows",
                [_table(_TRENDS, results["trends"])],
            ),
            Folded(f"every cell, {len(results['cells'])} rows", [_table(_CELLS, results["cells"])]),
        ],
    )


def _inflections(results: Results) -> Section:
    found = results["inflections"]
    return Section(
        "Loss after the change, and its inflection",
        [
            Note(RULE),
            *(Figure(name_of("loss", arm, change)) for arm, change in _groups(results)),
            Figure("T_star"),
            Heading("Does T* come earlier for a larger change?"),
            _table(_SHIFTS, results["shifts"]),
            Note(
                "tau is Kendall's rank correlation of T* with the size of the change; without an "
                "inflection T* counts as later than every budget."
            ),
            Folded(f"all {len(found)} curves", [_table(_CURVES, found)]),
        ],
    )


def _tuning(results: Results) -> Section:
    return Section(
        "Fine-tuning with a tuned learning rate",
        [
            Figure("eta"),
            _table(_SLOPES, results["slopes"]),
            Note(
                "Constant: the slope of ln eta* against ln T is within 0.1 of 0. Falls slowly: "
                "down to -0.5. Falls quickly: below. These lines are ours. A tuned rate at an edge "
                "of its grid is an invalid point, and no budget of it enters."
            ),
            Heading("Worse with more pretraining?"),
            _table(_TUNED, results["tuned"]),
            Folded(
                f"every budget, {len(results['rates'])} rows", [_table(_RATES, results["rates"])]
            ),
        ],
    )


def _matched(results: Results) -> Section:
    return Section(
        "Forgetting at equal fit of the task",
        [
            Note(
                "tau is the loss on the task that every budget reaches at some learning rate: the "
                "largest of their lowest ones. R is the lowest loss on pretraining text among the "
                "rates that reach tau, on straight lines between neighbouring rates (after arXiv "
                "2605.02105)."
            ),
            Figure("matched"),
            _table(_MATCHED, results["matched"]),
            _table(_MATCHED_TASKS, results["matched_summary"]),
        ],
    )


def _groups(results: Results) -> list[tuple[str, str]]:
    pairs = dict.fromkeys((r["arm"], r["change"]) for r in results["cells"])
    return sorted(pairs, key=lambda p: (list(ARMS).index(p[0]), p[1]))


# A column of a table: its heading, and what stands in it.
Head = tuple[str | Column, Callable[[Results], Cell]]


def _table(heads: Sequence[Head], rows: Sequence[Results]) -> Table:
    return Table([h for h, _ in heads], [[cell(r) for _, cell in heads] for r in rows])


def _value(heading: str | Column, key: str) -> Head:
    return heading, lambda r: r.get(key)


def _spanned(heading: str, key: str, form: str = ".3g") -> Head:
    return Column(heading, ""), lambda r: bracketed(r, key, form)


def _strength(row: Results) -> str:
    return say(row["change"], row["strength"])


_KEY = (_value("arm", "arm"), _value("change", "change"), _value(N, "N"))
_TASK = (_value("arm", "arm"), _value("task", "task"), _value(N, "N"))
_STATE = (
    _value("state", "state"),
    (
        "T* [interval]",
        lambda r: (
            "" if r.get("T_star") is None else f"{human(r['T_star'])} {_human_ends(r, 'T_star')}"
        ),
    ),
    _spanned("rise afterwards, nats", "rise"),
    _value(Column("share", ".0%"), "share"),
)
_FAMILIES: tuple[Head, ...] = (
    *_KEY,
    _spanned("tau, perplexity", "tau_delta_ppl"),
    _spanned("tau, nats", "tau_delta"),
    (
        Column("strengths that rise at every step", ""),
        lambda r: f"{r['rises']} of {r['strengths']}",
    ),
    _value(Column("budgets", "d"), "budgets"),
    _spanned("growth", "growth"),
)
_TRENDS: tuple[Head, ...] = (
    *_KEY,
    ("strength", _strength),
    _spanned("tau, perplexity", "tau_delta_ppl"),
    _spanned("tau, nats", "tau_delta"),
    ("every step rises", lambda r: {True: "yes", False: "no", None: ""}[r["rises_delta_ppl"]]),
    _value("interval from", "interval"),
)
_CELLS: tuple[Head, ...] = (
    *_KEY,
    ("strength", _strength),
    _value(D, "D"),
    _value(Column("seeds", "d"), "seeds"),
    (
        Column("draws", ""),
        lambda r: "" if kind_of(r["change"]) == FINETUNE else str(r["draws"]),
    ),
    _spanned("loss before", "base_loss", ".4f"),
    _spanned("loss after", "loss", ".4f"),
    _spanned("Delta, nats", "delta"),
    _spanned("perplexity before", "ppl_base", ".4g"),
    _spanned("perplexity after", "ppl", ".4g"),
    _spanned("Delta, perplexity", "delta_ppl"),
    _spanned("loss on the task", "tuned_loss", ".4f"),
    _value("interval from", "interval"),
)
_CURVES: tuple[Head, ...] = (
    *_KEY,
    ("strength", _strength),
    ("loss on", lambda r: "the task" if r["of"] == "tuned_loss" else "pretraining text"),
    *_STATE,
    _value(Column("T*/N", ".3g"), "tokens_per_parameter"),
    _value(Column("lowest perplexity", ".4g"), "ppl_lowest"),
    _value(Column("last perplexity", ".4g"), "ppl_last"),
    _value("interval from", "interval"),
)
_SHIFTS: tuple[Head, ...] = (
    *_KEY,
    _spanned("tau of T* and strength", "tau"),
    (
        Column("strengths with an inflection", ""),
        lambda r: f"{r['declared']} of {r['strengths']}",
    ),
    _value(Column("different T*", "d"), "different"),
)
_SLOPES: tuple[Head, ...] = (
    *_TASK,
    _spanned("slope of ln eta*", "slope"),
    _value("trend", "trend"),
    ("settled", lambda r: "yes" if r["settled"] else "no"),
    (Column("valid budgets", ""), lambda r: f"{r['valid']} of {r['budgets']}"),
    _value("interval from", "interval"),
)
_TUNED: tuple[Head, ...] = (
    *_TASK,
    ("loss on", lambda r: "the task" if r["of"] == "tuned_loss" else "pretraining text"),
    *_STATE,
    _value(Column("valid budgets", "d"), "budgets"),
)
_RATES: tuple[Head, ...] = (
    *_TASK,
    _value(D, "D"),
    _spanned("eta*", "eta"),
    _value(Column("best rate of the grid", ".3g"), "at"),
    _value(Column("loss on the task there", ".4f"), "tuned_loss"),
    _value(Column("on pretraining text", ".4f"), "loss"),
    _value(Column("before", ".4f"), "base_loss"),
    _value("why it is invalid", "why"),
)
_MATCHED: tuple[Head, ...] = (
    *_TASK,
    _value(D, "D"),
    _spanned("tau", "tau", ".4f"),
    _value(Column("lowest on the task", ".4f"), "lowest"),
    _spanned("R(tau)", "R", ".4f"),
    _spanned("R(tau) - before, nats", "forgetting"),
    ("", lambda r: "sets tau" if r["sets_tau"] else ""),
)
_MATCHED_TASKS: tuple[Head, ...] = (
    *_TASK,
    _spanned("forgetting, last budget minus first", "more_forgetting"),
    *_STATE,
)


def _human_ends(row: Results, name: str) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return "[no interval]" if low is None else f"[{human(low)}, {human(high)}]"
