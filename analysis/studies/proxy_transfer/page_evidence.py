"""The second half of the page: flips, arms, gradients, guards, and what was left out."""

from collections.abc import Mapping, Sequence

from stepladder.analysis.report.page_parts import (
    Code,
    Column,
    Figure,
    Folded,
    Heading,
    Listing,
    Note,
    Paragraph,
    Part,
    Preformatted,
    Section,
    Table,
    left_out,
)
from stepladder.analysis.studies.proxy_transfer.read_table import MEAN
from stepladder.analysis.studies.proxy_transfer.text import Results, bracketed

RATE = Column("learning rate", ".3g")
RHO = Column("rho", "")
PART_OF_TRAINING = Column("of training", ".1%")


def flips(results: Results) -> Section:
    """A1: how many pairs flip, and which."""
    rows = [
        [
            r["size"],
            _between(r),
            f"{r['flips']} of {r['pairs']}",
            bracketed(r, "flip_rate"),
            r["sign_changes"],
            r["by_chance"],
        ]
        for r in results["flip_rates"]
        if r["domain"] == MEAN
    ]
    columns = [
        "size",
        "rates",
        Column("flips", ""),
        Column("share", ""),
        Column("sign changes, noise or not", "d"),
        Column("by noise alone", ".2g"),
    ]
    events = [
        [r["size"], r["first"], r["second"], _between(r), _gap(r, "low"), _gap(r, "high")]
        for r in results["flips"]
    ]
    gaps = [Column("gap at the lower", ""), Column("gap at the higher", "")]
    listed = Table(["size", "first", "second", "rates", *gaps], events)
    return Section(
        "Pairs that flip between neighbouring learning rates",
        [
            Figure("flip_rates"),
            Table(columns, rows),
            Folded(f"all {len(events)} flips", [listed]),
            Figure("flip_matrix"),
        ],
    )


def arms(results: Results) -> Section | None:
    """A6 and G3: what other settings change; None without arms."""
    if not results["arms"]:
        return None
    rows = [
        [
            r["size"],
            r["arm"],
            r["learning_rate"],
            bracketed(r, "rho"),
            r["main_rho"],
            bracketed(r, "change"),
            r["steps_ratio"],
            r["tokens_ratio"],
            "equal tokens" if r["equal_tokens"] else "",
        ]
        for r in results["arms"]
    ]
    columns = [
        "proxy",
        "arm",
        RATE,
        RHO,
        Column("main arm", ".3g"),
        Column("change", ""),
        Column("steps, times main", ".3g"),
        Column("tokens, times main", ".3g"),
        "",
    ]
    spans = [
        [
            r["size"],
            r["family"],
            "over rates" if r["learning_rate"] is None else r["learning_rate"],
            ", ".join(r["settings"]),
            bracketed(r, "range"),
        ]
        for r in results["ranges"]
    ]
    span_columns = ["proxy", "family", Column("at rate", ".3g"), "settings"]
    return Section(
        "Batch size, weight decay, tokens and steps",
        [
            Figure("arms"),
            Table(columns, rows),
            *_more_steps(results),
            Heading("Range of rho"),
            Table([*span_columns, Column("range of rho", "")], spans),
            Note(
                "A range over noisy numbers is above zero by itself: compare ranges of about as "
                "many settings."
            ),
        ],
    )


def _more_steps(results: Results) -> list[Part]:
    """G3; nothing without an arm of more steps."""
    if not results["more_steps"]:
        return []
    names = ("tiny_rho", "standard_rho", "gain")
    heads = ("rho at the tiny rate", "at the standard rate", "difference")
    rows = [
        [r["size"], r["arm"], *(bracketed(r, name) for name in names)]
        for r in results["more_steps"]
    ]
    return [
        Heading("G3: the tiny against the standard rate at equal tokens, with more steps"),
        Table(["proxy", "arm", *(Column(head, "") for head in heads)], rows),
    ]


def gradients(results: Results) -> Section | None:
    """A7 and A8; None without probes."""
    if not (results["alignment"] or results["sharpness"]):
        return None
    return Section(
        "What the gradients alone say",
        [
            Paragraph(
                "Alignment a = <grad l_val, grad l_i> ranks the recipes without training. The "
                "crossover rate of a pair is 2 (a_A - a_B) / (c_A - c_B), for one step along the "
                "gradient or, nearer to Adam, along its sign. The runs take many steps, so ranks "
                "matter and the ratio only says how far off the scale is."
            ),
            _along_table(
                results["alignment"],
                {
                    "tuned_target_rho": "rho with tuned target",
                    "tuned_target_accuracy": "accuracy",
                    "lowest_rate_rho": "rho with the lowest rate",
                    "target_alignment_rho": "rho with target alignment",
                },
            ),
            Heading("Predicted and observed crossovers"),
            Figure("crossovers"),
            _crossover_table(results),
            Heading("Top eigenvalue of the validation loss"),
            _sharpness_table(results),
        ],
    )


def _along_table(rows: Sequence[Results], names: Mapping[str, str]) -> Table:
    """names: field of a row -> head of its column."""
    cells = [
        [r["size"], r["fraction"], r["along"], *(bracketed(r, name) for name in names)]
        for r in rows
    ]
    heads = [Column(head, "") for head in names.values()]
    return Table(["size", PART_OF_TRAINING, "along", *heads], cells)


def _crossover_table(results: Results) -> Table:
    names = ("sensitivity", "specificity", "rank", "ratio")
    heads = ("sensitivity", "specificity", "rank agreement", "observed / predicted")
    cells = [
        [
            r["size"],
            r["fraction"],
            r["along"],
            f"{r['both']} of {r['pairs']}",
            *(bracketed(r, name) for name in names),
        ]
        for r in results["crossovers"]
    ]
    columns = ["size", PART_OF_TRAINING, "along", Column("pairs with both", "")]
    return Table([*columns, *(Column(head, "") for head in heads)], cells)


def _sharpness_table(results: Results) -> Table:
    columns = [
        "size",
        "run",
        PART_OF_TRAINING,
        Column("lambda_max", ""),
        Column("1 / lambda_max", ".3g"),
        Column("tiny rate", ""),
        "bound by",
    ]
    cells = [
        [
            r["size"],
            r["run_id"],
            r["fraction"],
            bracketed(r, "lambda_max"),
            r["one_over"],
            f"{r['eta_tiny_low']:.2g} to {r['eta_tiny_high']:.2g}",
            r["bound_by"],
        ]
        for r in results["sharpness"]
    ]
    return Table(columns, cells)


def guards(results: Results) -> Section:
    """G1, G2, G5 and G6: whether the numbers are evidence."""
    return Section(
        "Guards",
        [
            Heading("G1: did the runs train at all"),
            _trained_table(results),
            Heading("G2: precision"),
            Paragraph(f"{results['precision']['said']}."),
            Heading("G5: is the model better than counting"),
            _ngram_part(results),
            Heading("G6: is the spread of the recipes more than noise"),
            *_noise_parts(results),
            Note(
                "G3 (more steps) stands among the arms, G4 is every interval on this page; "
                "Fisher's z is printed beside rho for reference."
            ),
        ],
    )


def _trained_table(results: Results) -> Table:
    columns = [
        "size",
        RATE,
        Column("drop from the start", ""),
        Column("of it", ".1%"),
        Column("in SDs of a gap", ".3g"),
        "",
        Column("diverged", "d"),
    ]
    cells = [
        [
            r["size"],
            r["learning_rate"],
            bracketed(r, "drop"),
            r["share"],
            r["sigmas"],
            _yes(r["trained"], "trained", "DID NOT TRAIN"),
            r["diverged"] or None,
        ]
        for r in results["trained"]
    ]
    return Table(columns, cells)


def _ngram_part(results: Results) -> Part:
    if not results["ngrams"]:
        return Paragraph("No n-gram baseline was given.")
    columns = ["size", "baseline", "domain", Column("best loss minus baseline", "")]
    cells = [
        [
            r["size"],
            r["null"],
            r["domain"],
            bracketed(r, "gap", 4),
            f"{r['recipes_below']} of {r['recipes']}",
            _yes(r["counts"], "counts", "DOES NOT COUNT"),
        ]
        for r in results["ngrams"]
    ]
    return Table([*columns, Column("recipes below", ""), ""], cells)


def _noise_parts(results: Results) -> list[Part]:
    sources = {r["noise_source"] or "unknown: no repeated seeds" for r in results["snr"]}
    columns = [
        "size",
        RATE,
        "domain",
        Column("spread / seed SD", ""),
        Column("of equal recipes", ".3g"),
        "",
    ]

    def table(rows: Sequence[Results]) -> Table:
        cells = [
            [
                r["size"],
                r["learning_rate"],
                r["domain"],
                bracketed(r, "snr"),
                r["by_noise"],
                _yes(r["passes"], "passes", "NOISE"),
            ]
            for r in rows
        ]
        return Table(columns, cells)

    per_domain = [r for r in results["snr"] if r["domain"] != MEAN]
    return [
        Paragraph(f"Noise: {'; '.join(sorted(sources))}."),
        table([r for r in results["snr"] if r["domain"] == MEAN]),
        *([Folded("by domain", [table(per_domain)])] if per_domain else []),
    ]


def left_out_section(results: Results) -> Section:
    """Every row, run and cell that is not in the numbers, with its reason."""
    gone = [
        {
            "run_id": r["run_id"] or _cell(r),
            "step": None,
            "domain": r["domain"],
            "reason": r["reason"],
        }
        for r in [*results["excluded"], *results["diverged"]]
    ]
    holes = [
        {"run_id": _cell(r), "step": None, "domain": MEAN, "reason": r["reason"]}
        for r in results["missing_cells"]
    ]
    notes = []
    if results["notes"]:
        notes = [Heading("Decided about the table"), Listing(results["notes"])]
    return Section(
        "Left out, and why",
        [*left_out(gone), Heading("Cells without a loss"), *left_out(holes), *notes],
    )


def again(results: Results) -> Section:
    """The command that makes the page."""
    return Section(
        "To make this page again",
        [
            Preformatted(results["command"]),
            Note(("Every number on it stands in ", Code("results.json"), " beside it.")),
        ],
    )


def _cell(row: Results) -> str:
    rate = row["learning_rate"] or float("nan")
    return f"{row['recipe']} {row['size']} {row['arm']} at {rate:.3g}"


def _between(row: Results) -> str:
    return f"{row['rate_low']:.3g} to {row['rate_high']:.3g}"


def _gap(row: Results, end: str) -> str:
    """The gap of a flip at its lower or higher rate, in nats per token and in seed SDs."""
    gap, size = row[f"gap_{end}"], row[f"sigmas_{end}"]
    if gap is None:
        return "diverged"
    return f"{gap:+.4f}" + ("" if size is None else f" ({size:.1f} SD)")


def _yes(value: bool | None, yes: str, no: str) -> str:
    if value is None:
        return "not known"
    return yes if value else no
