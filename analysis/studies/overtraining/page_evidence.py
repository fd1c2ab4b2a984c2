"""The second half of the page: controls, laws, curvature, arms, the toy, what was left out."""

from collections.abc import Sequence

from stepladder.analysis.report.page_parts import (
    HUMAN,
    Cell,
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
)
from stepladder.analysis.studies.overtraining.changes import INIT, WEIGHTS, say
from stepladder.analysis.studies.overtraining.text import Results, bracketed

N, D = Column("N", HUMAN), Column("tokens", HUMAN)
_EXCLUDED = "run_id N D seed arm change strength draw reason".split()
_NORM = ("growth", "tau")


def controls(results: Results) -> Section:
    """The loss before any change, and noise that follows the norms of the weights."""
    base = [
        [
            r["arm"],
            r["N"],
            bracketed(r, "tau"),
            {True: "yes", False: "no", None: ""}[r["falls"]],
            bracketed(r, "gain"),
            r["interval"],
        ]
        for r in results["base"]
    ]
    columns = ["arm", N, Column("tau", ""), "falls at every step", Column("gain, nats", "")]
    parts: list[Part] = [Table([*columns, "interval from"], base)]
    if results["norms"]:
        rows = [
            [
                r["arm"],
                r["N"],
                r["init"],
                *(bracketed(r, f"{k}_{scale}") for scale in (INIT, WEIGHTS) for k in _NORM),
            ]
            for r in results["norms"]
        ]
        heads = [
            Column(f"{said}, noise of {scale}", "") for scale in (INIT, WEIGHTS) for said in _NORM
        ]
        parts += [
            Heading("Norms: noise of the initialisation's size, and of the trained weights' size"),
            Table(["arm", N, "change", *heads], rows),
            Note(
                "Noise of the initialisation's size shrinks against weights that grow. Growth is "
                "Delta in nats at the last budget over that at the first; tau is of Delta in nats."
            ),
        ]
    return Section("The loss before any change, and a control for norms", parts)


def laws(results: Results) -> Section | None:
    """Fitted laws, and their errors on what they did not see."""
    if not results["law_params"] and not results["law_missing"]:
        return None
    params = [
        [
            r["change"],
            r["law"],
            name,
            value,
            "" if name not in r["intervals"] else "{:.3g} to {:.3g}".format(*r["intervals"][name]),
            "; ".join(r["notes"]) if name == next(iter(r["params"])) else "",
        ]
        for r in results["law_params"]
        for name, value in r["params"].items()
    ]
    held = [
        [
            r["change"],
            "ln Delta" if r["of"] == "delta" else "loss, nats",
            r["law"],
            r["held_out"],
            r["cells"],
            *(bracketed(r, name) for name in ("error", "nearest", "above")),
        ]
        for r in results["law_held_out"]
    ]
    heads = ["change", "of", "law", "held out", Column("cells", "d")]
    heads += [Column(h, "") for h in ("error", "nearest cell's", "law minus nearest")]
    minima = [
        [
            r["change"],
            r["N"],
            say(r["change"], r["strength"]),
            bracketed(r, "T_star"),
            r["tokens_per_parameter"],
            "" if r["within"] else "beyond the budgets",
        ]
        for r in results["law_minima"]
    ]
    columns = ["change", N, "strength", Column("T* by the law", ""), Column("T*/N", ".3g"), ""]
    return Section(
        "Laws, compared on what they did not see",
        [
            Table(heads, held),
            Note(
                "Error: root mean square over the held-out cells; intervals resample these cells. "
                "Nearest cell: the value of the seen cell of equal strength that is nearest in N, "
                "then in tokens per parameter; below 0 in the last column the law beats it. "
                "ushape is of one size and strength, shannon of one strength (up to 3 strengths "
                "are compared), perturbed of all. base + sensitivity is the measured loss before "
                "the change plus the law of Delta: it must foretell the damage alone."
            ),
            Folded(
                f"{len(results['law_missing'])} fits that were not possible",
                [Listing(results["law_missing"])],
            ),
            Folded(
                f"all {len(params)} parameters",
                [
                    Table(
                        ["change", "law", "parameter", Column("value", ".4g"), "interval", "notes"],
                        params,
                    )
                ],
            ),
            *([Heading("T* by the law perturbed"), Table(columns, minima)] if minima else []),
        ],
    )


def curvature(results: Results) -> Section | None:
    """The second-order check; None without curvature."""
    if not results["second_order"]:
        return None
    rows = [
        [
            r["arm"],
            r["change"],
            r["N"],
            r["D"],
            r["strength"],
            r["measured"],
            r["predicted"],
            bracketed(r, "ratio"),
            r["note"],
        ]
        for r in results["second_order"]
    ]
    columns = ["arm", "change", N, D, Column("gamma", ".3g"), Column("Delta", ".3g")]
    columns += [Column("predicted", ".3g"), Column("ratio", ""), ""]
    ends = [
        [r["arm"], r["change"], r["N"], r["D"], r["holds_to"], r["breaks_at"], r["note"]]
        for r in results["breakdowns"]
    ]
    heads = ["arm", "change", N, D, Column("holds up to gamma", ".3g")]
    return Section(
        "Does the curvature predict it?",
        [
            Note(
                "To second order small noise costs gamma^2 / 2 Tr(H Sigma) nats, with the Hessian "
                "H and the covariance Sigma of the initialisation. It breaks down at the smallest "
                "gamma from which on the ratio is off by more than 0.2 (ours), beyond its interval."
            ),
            Figure("second_order"),
            Table([*heads, Column("breaks down at gamma", ".3g"), ""], ends),
            Folded(f"all {len(rows)} ratios", [Table(columns, rows)]),
        ],
    )


def arms(results: Results) -> Section | None:
    """Other ways to pretrain against the separate runs; None where there are none."""
    if not results["arm_means"]:
        return None
    names = ("delta", "ratio", "base_loss", "loss")
    heads = [Column(f"{n}, arm minus separate", "") for n in ("Delta", "loss before", "loss after")]
    heads.insert(1, Column("Delta, arm over separate", ""))
    means = [
        [r["arm"], r["change"], r["N"], r["cells"], *(bracketed(r, n) for n in names)]
        for r in results["arm_means"]
    ]
    cells = [
        [
            r["arm"],
            r["change"],
            r["N"],
            say(r["change"], r["strength"]),
            r["D"],
            *(bracketed(r, n) for n in ("delta", "base_loss", "loss")),
        ]
        for r in results["arm_cells"]
    ]
    columns = ["arm", "change", N, "strength", D, heads[0], *heads[2:]]
    return Section(
        "Other ways to pretrain, at equal tokens and changes",
        [
            Table(["arm", "change", N, Column("cells", "d"), *heads], means),
            Note(
                "In nats; below 0 the arm forgets less. The interval holds both arms' errors. "
                "Budgets of one trunk share the luck of its seed; the interval of a mean over them "
                "takes them as independent, so that of the arm trunk is too short."
            ),
            Folded(f"all {len(cells)} cells", [Table(columns, cells)]),
        ],
    )


def linear_toy(results: Results) -> Section:
    """The definitions on a network where the inflection is exact."""
    rows: list[Sequence[Cell]] = [
        [
            r["noise"],
            r["critical"],
            r["worth_learning"],
            r["tau"],
            r["T_star"],
            r["lowest"],
            r["last"],
            f"{r['monte_carlo']:.4g} (s.e. {r['monte_carlo_se']:.2g})",
        ]
        for r in results["toy"]["rows"]
    ]
    columns = [
        Column("noise g", ".3g"),
        Column("s_c", ".3g"),
        Column("modes worth learning", "d"),
        Column("tau of Delta and time", ".3f"),
        Column("T*, time", ".3g"),
        Column("lowest loss", ".4g"),
        Column("last loss", ".4g"),
        Column("last loss, by drawing noise", ""),
    ]
    return Section(
        "The definitions on a network where the answer is exact",
        [
            Paragraph(
                "A two-layer linear network learns the singular values 4, 2, 1, 0.5, 0.25, 0.12 of "
                "a map one after another. Under noise g on every weight, modes below s_c = "
                "g^2 (d_in + d_out) cost more than they gain: Delta must rise all the way, and the "
                "inflection must come earlier for larger noise."
            ),
            Figure("toy"),
            Table(columns, rows),
        ],
    )


def left_out(results: Results) -> Section:
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


def again(results: Results) -> Section:
    """How to make this page again."""
    return Section(
        "Again",
        [
            Preformatted(results["command"]),
            Paragraph(("Every number of this page is in ", Code("results.json"), ".")),
        ],
    )
