"""The study's page as data: the verdicts, then the evidence in the order of the protocol."""

from collections.abc import Sequence

from stepladder.analysis.fit.levels import percent
from stepladder.analysis.report.page_parts import (
    Code,
    Column,
    Figure,
    Folded,
    Heading,
    Listing,
    Missing,
    Note,
    Page,
    Paragraph,
    Part,
    Preformatted,
    Section,
    Summary,
    Table,
    Tile,
)
from stepladder.analysis.studies.split.measures.best_split import ALL
from stepladder.analysis.studies.split.page_tables import (
    ALLOCATION,
    ARMS,
    CELLS,
    CLOSED,
    COMPARISONS,
    HELD_OUT,
    LAW_FITS,
    MEANS,
    OBSERVED,
    PARAMS,
    PHONEBOOK,
    PREDICTED,
    REGRETS,
    ROUTERS,
    Head,
)
from stepladder.analysis.studies.split.text import Results, bracketed, headline

WORDS = (
    "N are parameters, D general tokens, D2 tokens of specialisation, T = D + D2 the total and "
    "s = D / T the split fraction: s = 1 is one dense model of T tokens, s = 0 an expert from "
    "scratch. Loss is the mean, over the experts' own domains, of each expert's loss on its own "
    "domain, in nats per token."
)
_EXCLUDED = "run_id N D D2 domain own seed arm reason".split()


def page(results: Results) -> Page:
    """The whole page.

    results: Result.to_dict() with source and command.
    """
    s = results["settings"]
    noise = s["interval"] or "nothing (none is known)"
    return Page(
        title="stepladder: split",
        heading="Where to split pretraining from specialisation?",
        subtitle=results["source"],
        top=[
            Summary(_tiles(results), [Paragraph(headline(results))]),
            Paragraph(
                f"Intervals are {percent(s['level'])}. Losses are redrawn {s['resamples']} times; "
                f"their noise is from: {noise}. Protocol after arXiv 2603.19149, of which only "
                "abstract and introduction were known to us: the laws, fractions, thresholds and "
                "rules are ours, and no law here is the paper's."
            ),
            Missing(results["missing"]),
        ],
        sections=[
            _claims(results),
            _best(results),
            _held_out(results),
            _in_sample(results),
            _allocation(results),
            _comparisons(results),
            *([_phonebook(results)] if results["phonebook"] else []),
            _left_out(results),
            _again(results),
        ],
    )


def _tiles(results: Results) -> list[Tile]:
    """The verdicts on the first three claims, and what it costs to follow the chosen law."""
    words = {v["id"]: v["verdict"] for v in results["verdicts"]}
    tiles = [
        Tile(words["a"], "splitting early beats splitting late"),
        Tile(words["b"], "the law extrapolates"),
        Tile(words["c"], "split beats dense at equal tokens"),
    ]
    chosen = results["chosen"]
    cost = [r for r in results["regrets"] if (r["law"], r["fit"]) == (chosen, ALL)]
    if cost:
        tiles.append(Tile(bracketed(cost[0], "regret"), f"nats, mean regret of following {chosen}"))
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
                "by size and total, with numbers",
                [Table(["claim", "of", "verdict", "numbers [interval]"], parts)],
                open=True,
            ),
            *([Table([*columns, "losses below it"], floors)] if floors else []),
            Note(
                "Seen: over the whole interval. Not seen at this scale: the numbers show that it "
                "fails. Not settled: in between, or the parts disagree. Not testable here: the "
                "rows it needs are missing. Often: at more than half of the sizes and totals. "
                "Beyond this: a dense model of equal tokens has seen K times more different "
                "domains, and serving K experts takes K times the memory."
            ),
            Note(WORDS),
        ],
    )


def _best(results: Results) -> Section:
    corners = [
        f"{code} has only corner solutions here ({', '.join(states)})"
        for code, states in results["corners"].items()
    ]
    return Section(
        "Loss against the split fraction, and the best split",
        [
            Figure("loss"),
            Note(
                "Filled triangle: the lowest loss observed. Hollow triangle and dashed curve: the "
                "law with the least error on held-out split fractions."
            ),
            Figure("best"),
            _table(OBSERVED, results["observed"]),
            Heading("What it costs to follow a law"),
            _table(REGRETS, results["regrets"]),
            Note(
                "A law chooses among the fractions that were trained, where it is defined. Regret "
                "is the loss at its choice minus the lowest one; the lowest is chosen on the same "
                "noise, so a regret is rather too large than too small. The best split of a fit to "
                "all cells has the interval of simulated refits; that of a fit without some has "
                "none."
            ),
            Listing(
                [
                    *corners,
                    "H2 with a constant tau and a budget that is linear in the tokens is best at "
                    "D = 0 or at D2 = 0, whatever its parameters; an interior split point needs "
                    "another law (our derivation)",
                ]
            ),
            Folded(
                f"every law, size and total, {len(results['predicted'])} rows",
                [_table(PREDICTED, results["predicted"])],
            ),
            Folded(f"every cell, {len(results['cells'])} rows", [_table(CELLS, results["cells"])]),
        ],
    )


def _held_out(results: Results) -> Section:
    return Section(
        "The laws, compared on what they did not see",
        [
            Figure("held_out"),
            _table(HELD_OUT, results["law_held_out"]),
            Note(
                "Errors on the hidden cells that all laws predict (D and D2 above 0 where a law "
                "needs it), with intervals from resampled sizes and totals (from cells where there "
                "are fewer than four); the same resamples for all laws, so differences are paired. "
                "First: the share of resamples in which the law is best. Own: on every hidden cell "
                "where the law has a value. Nearest cell: the seen cell nearest in s, ln N, ln T."
            ),
        ],
    )


def _in_sample(results: Results) -> Section:
    laws = [
        [code, body["formula"], body["note"]] for code, body in results["settings"]["laws"].items()
    ]
    pooled = [r for r in results["law_fits"] if r["of"] == "mean over domains"]
    by_domain = [r for r in results["law_fits"] if r["of"] != "mean over domains"]
    return Section(
        "The laws on what they saw",
        [
            Table(["law, ours", "formula", ""], laws),
            _table(LAW_FITS, pooled),
            Note(
                "H6 takes T for D and the weights averaged over both stages: h1 = (D / K + D2) / T "
                "of the own domain, h2 = 1 - h1 of the others. The law of the mean over domains is "
                "a pooled fit: with exponents and offsets shared and coefficients free by domain, "
                "the mean obeys the same law."
            ),
            Folded(f"by domain, {len(by_domain)} rows", [_table(LAW_FITS, by_domain)]),
            Folded("parameters of the pooled fits", [_table(PARAMS, results["law_params"])]),
        ],
    )


def _allocation(results: Results) -> Section:
    largest: dict[float, float] = {}
    for row in results["allocation"]:
        largest[row["N"]] = max(row["T"], largest.get(row["N"], 0.0))
    top = [r for r in results["allocation"] if r["T"] == largest[r["N"]]]
    return Section(
        "How to divide a budget",
        [
            Note(
                "C = 6 N T. One expert: D + D2 = T. A shared seed of K experts: D + K D2 = T. K "
                "separate seeds: K (D + D2) = T."
            ),
            _table(ALLOCATION, top),
            Folded(
                f"all budgets, {len(results['allocation'])} rows",
                [_table(ALLOCATION, results["allocation"])],
            ),
            Heading("Check: the numerical optimum against the closed form of H1"),
            _table(CLOSED, results["closed_form"]),
            Note(
                "H1 with the fitted coefficients, without offsets and with one exponent: D / D2 = "
                "(m B / B2)^(1 / (1 + beta)), m = K for a shared seed and 1 otherwise."
            ),
        ],
    )


def _comparisons(results: Results) -> Section:
    parts: list[Part] = [
        _table(MEANS, results["comparison_means"]),
        Note(
            "Below 0 the first is better. Early and split: the fraction (between 0 and 0.5, or 0 "
            "and 1) that is best on average over the other sizes and totals, so that no cell is "
            "chosen by its own noise. Late: the fraction nearest to 0.8. From scratch: s = 0. "
            "Dense models of equal FLOPs are read off a line in ln tokens between the dense runs "
            "of that size, never beyond them. Intervals hold the noise of these models, not what "
            "other sizes and totals would say."
        ),
        Folded(
            f"by size and total, {len(results['comparisons'])} rows",
            [_table(COMPARISONS, results["comparisons"])],
        ),
    ]
    if results["arms"]:
        parts += [Heading("Unshared minus shared trunks"), _table(ARMS, results["arms"])]
    if results["routers"]:
        parts += [Heading("Prefix router minus oracle"), _table(ROUTERS, results["routers"])]
    return Section("Against dense models, and each other", parts)


def _phonebook(results: Results) -> Section:
    return Section("The phonebook toy", [_table(PHONEBOOK, results["phonebook"])])


def _left_out(results: Results) -> Section:
    """Every row that is in no number, with its reason, and what was decided about the table."""
    rows = results["excluded"]
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["reason"]] = counts.get(row["reason"], 0) + 1
    by_count = sorted(counts.items(), key=lambda item: -item[1])
    cells = [["" if r[k] is None else str(r[k]) for k in _EXCLUDED] for r in rows]
    parts: list[Part] = [Paragraph("Nothing was left out.")]
    if rows:
        parts = [
            Table(["reason", Column("count", "d")], by_count),
            Folded(f"all {len(rows)}", [Table(_EXCLUDED, cells)]),
        ]
    return Section("Left out, and why", [*parts, Listing(results["notes"])])


def _again(results: Results) -> Section:
    return Section(
        "Again",
        [
            Preformatted(results["command"]),
            Paragraph(("Every number of this page is in ", Code("results.json"), ".")),
        ],
    )


def _table(heads: Sequence[Head], rows: Sequence[Results]) -> Table:
    return Table([h for h, _ in heads], [[cell(r) for _, cell in heads] for r in rows])
