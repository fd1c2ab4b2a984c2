"""`stepladder report --study=learning_rate`: records or a table in, the page, results.json and
figures out.
"""

from pathlib import Path

import pandas as pd

from stepladder.analysis.figures import style
from stepladder.analysis.report.html_pieces import write_study
from stepladder.analysis.report.write import write_table
from stepladder.analysis.studies.learning_rate import page
from stepladder.analysis.studies.learning_rate.figures import (
    curves,
    divergence,
    drift,
    plane,
    sensitivity,
)
from stepladder.analysis.studies.learning_rate.rule import Rule
from stepladder.analysis.studies.learning_rate.study import RateStudy, study

# arXiv 2503.04715, drawn beside a rule for comparison: N without embeddings, D in tokens, fitted
# from 60M parameters.
STEP_LAW, _STEP_LAW_FROM = Rule(1.79, -0.713, 0.307, {}, None, 0, ()), 6e7


def run(workdir: Path | None, table: Path | pd.DataFrame | None, out: Path) -> Path:
    """Write the study's page of a workdir or a table, and of a workdir its runs as a table; see
    studies.Study.
    """
    found = study(table if workdir is None else workdir)
    drawn = draw(found)
    results = found.to_dict()
    if workdir is not None:
        write_table(out, "runs", found.points.frame)
    return write_study(
        out,
        "stepladder: learning rate",
        page.body(found, drawn),
        results,
        drawn,
        page.verdict(found),
    )


def draw(found: RateStudy) -> dict[str, str]:
    """Name -> inline SVG of every figure there is data for."""
    drawn = {}
    if found.chosen:
        drawn["curves"] = style.svg(
            curves(found.chosen), "final loss against learning rate, with optima"
        )
    for axis in dict.fromkeys(d.axis for d in found.drifts):
        mine = [d for d in found.drifts if d.axis == axis]
        drawn[f"drift_{axis}"] = style.svg(
            drift(found.chosen, mine), f"best learning rate against {axis}"
        )
    pairs = [
        (c, s)
        for c, s in zip(found.curves, found.sensitivities)
        if c in found.chosen and s.value is not None
    ]
    if pairs:
        drawn["sensitivity"] = style.svg(
            sensitivity(pairs), "cost of a wrong learning rate against N"
        )
    if any(b.diverges is not None for b in found.boundaries):
        drawn["divergence"] = style.svg(
            divergence(found.boundaries, found.boundary_law),
            "where runs diverge, against N",
        )
    if found.rule is not None:
        published = STEP_LAW if _comparable(found) else None
        drawn["plane"] = style.svg(
            plane(found.chosen, found.rule, published),
            "the rule over N and D, and its optima",
        )
    return drawn


def _comparable(found: RateStudy) -> bool:
    """Whether the sizes are ones that the published law was fitted to."""
    return bool(found.chosen) and min(c.N for c in found.chosen) >= _STEP_LAW_FROM
