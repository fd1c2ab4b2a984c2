"""The section of the page about the fitted law: parameters, what they identify, what they buy."""

from __future__ import annotations

from collections.abc import Mapping

from stepladder.analysis.report.jsonable import Results
from stepladder.analysis.report.page_parts import (
    Column,
    Figure,
    Heading,
    Listing,
    Note,
    Pair,
    Paragraph,
    Part,
    Section,
    Table,
)


def law_section(results: Results) -> Section | None:
    """The law with its parameters and figures; None where none could be fitted."""
    law = results["law"]
    if law is None:
        return None
    entry = results["forecasts"][-1] if results["forecasts"] else {}
    return Section(
        "The law",
        [
            Paragraph(f"{law['formula']} (arXiv {law['source']})"),
            _parameters(law, entry.get("parameters", {})),
            Note(_facts(law, results["n"])),
            *_undecayed(results.get("law_undecayed")),
            *_identified([*entry.get("identified", ()), *law["notes"]]),
            *_allocation(entry),
            Figure("extrapolation"),
            Pair([Figure("contours"), Figure("residuals")]),
        ],
    )


def _parameters(law: Results, spans: Mapping[str, tuple[float, float]]) -> Table:
    rows = []
    for name, value in law["params"].items():
        if name in spans:
            interval = f"{spans[name][0]:.3g} to {spans[name][1]:.3g}"
        else:
            error = law["log_se"][name]
            interval = f"relative s.e. {'' if error is None else f'{error:.2%}'}"
        rows.append((name, value, interval))
    return Table(["parameter", Column("value", ".4g"), "interval"], rows)


def _facts(law: Results, n: str) -> str:
    counted = "parameters without embeddings"
    if n == "params_total":
        counted = "all parameters, embeddings included"
    minima = len(law["minima"])
    return (
        f"{law['points']} points, residual standard deviation {law['residual_sd']:.2%} of the "
        f"loss, condition number {law['condition'] or float('nan'):.3g}, {law['starts']} starts, "
        f"{minima} distinct {'minimum' if minima == 1 else 'minima'}. N counts {counted}; D is "
        "tokens; loss is nats per token."
    )


def _undecayed(law: Results | None) -> list[Part]:
    """The same law through checkpoints at full learning rate, kept apart from the final losses."""
    if law is None:
        return []
    values = ", ".join(f"{name} = {value:.4g}" for name, value in law["params"].items())
    said = (
        f"Kept apart: the same law through the {law['points']} undecayed intermediate checkpoints "
        f"gives {values} (residual standard deviation {law['residual_sd']:.2%}); they lie higher "
        "and take no part in the forecast."
    )
    return [Note(said)]


def _identified(sentences: list[str]) -> list[Part]:
    if not sentences:
        return []
    return [Heading("What is and what is not identified"), Listing(sentences)]


def _allocation(entry: Results) -> list[Part]:
    """What the law would have bought for the target's compute; nothing for old forecasts."""
    found = entry.get("allocation")
    if not found:
        return []
    labels = {
        "N": "parameters N*",
        "D": "tokens D*",
        "loss": "loss there",
        "a": "a of N* ~ C^a",
    }
    columns = ["", Column("optimum", ".4g"), Column("interval", ""), Column("the target", ".4g")]
    rows = []
    for name, label in labels.items():
        value, low, high = found[name]
        rows.append((label, value, f"{low:.3g} to {high:.3g}", entry["target"].get(name)))
    note = (
        "Closed form of the fitted law; an interval wider than the range of the proxies says that "
        "they do not settle it."
    )
    return [
        Heading(f"What the law would buy for 6 N D = {found['C']:.3g} FLOPs"),
        Table(columns, rows),
        Note(note),
    ]
