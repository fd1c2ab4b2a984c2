"""The learning-rate study: curves, optima, their drift and law, what a wrong rate costs and where
runs break; numbers.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stepladder.analysis.records.load import Runs
from stepladder.analysis.studies.learning_rate.curves import LEAST_RATES, Curve, curves
from stepladder.analysis.studies.learning_rate.divergence import (
    Boundary,
    BoundaryLaw,
    boundaries,
    boundary_law,
    kind_of,
)
from stepladder.analysis.studies.learning_rate.drift import Comparison, Drift, compare, drifts
from stepladder.analysis.studies.learning_rate.points import RatePoints, rate_points
from stepladder.analysis.studies.learning_rate.rule import (
    NearBest,
    Rule,
    best_batch,
    fit_rule,
    near_best,
)
from stepladder.analysis.studies.learning_rate.sensitivity import Sensitivity, sensitivity_of
from stepladder.configs.core.errors import UserError


@dataclass(frozen=True)
class RateStudy:
    """Everything the study says.

    curves: all of them; chosen: of those that differ in the batch size alone the best, which the
    rest is about.

    missing: what cannot be said and why.
    """

    points: RatePoints
    level: float
    curves: list[Curve]
    sensitivities: list[Sensitivity]  # of `curves`, in their order
    chosen: list[Curve]
    drifts: list[Drift]
    comparisons: list[Comparison]
    boundaries: list[Boundary]
    boundary_law: BoundaryLaw | None
    rule: Rule | None
    near: NearBest | None
    excluded: pd.DataFrame
    notes: tuple[str, ...]
    missing: list[str]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able but for NumPy scalars."""
        costs = [dataclasses.asdict(s) for s in self.sensitivities]
        return {
            "source": self.points.source,
            "level": self.level,
            "runs": len(self.points.frame),
            "settings": self.points.settings,
            "diverged": int(self.points.frame["diverged"].sum()),
            "curves": [
                dataclasses.asdict(c) | {"chosen": c in self.chosen, "sensitivity": s}
                for c, s in zip(self.curves, costs)
            ],
            "drift": [
                {f.name: getattr(d, f.name) for f in dataclasses.fields(d) if f.name != "draws"}
                for d in self.drifts
            ],
            "comparisons": [dataclasses.asdict(c) for c in self.comparisons],
            "boundaries": [dataclasses.asdict(b) for b in self.boundaries],
            "boundary_law": self.boundary_law and dataclasses.asdict(self.boundary_law),
            "rule": self.rule
            and dataclasses.asdict(self.rule) | {"spans": self.rule.spans(self.level)},
            "near_best": self.near and dataclasses.asdict(self.near),
            "excluded": self.excluded.to_dict("records"),
            "notes": [*self.points.notes, *self.notes],
            "missing": self.missing,
        }


def study(
    source: Runs | RatePoints | pd.DataFrame | str | Path, *, level: float = 0.9, seed: int = 0
) -> RateStudy:
    """All of the study, of a workdir, a table or a DataFrame (points.py says what they need);
    raises UserError when nothing can be read.

    What the points do not support stands in `missing`, with what to add.
    """
    points = rate_points(source)
    found, excluded = curves(points, level=level, seed=seed)
    groups = [rows for rows in points.groups() if rows["learning_rate"].nunique() >= LEAST_RATES]
    costs = [
        sensitivity_of(rows, c.noise, level=level, seed=seed + i)
        for i, (rows, c) in enumerate(zip(groups, found, strict=True))
    ]
    chosen, notes = best_batch(found)
    missing = (
        []
        if found
        else [
            "curves: no setting has three learning rates; sweep the rate with everything else held"
        ]
    )
    drifted, comparisons, more = _drifts(chosen, level, seed)
    missing += more
    kinds = {kind_of(c) for c in chosen}
    rule = law = near = None
    if len(kinds) > 1:
        missing.append(
            f"rule: {len(kinds)} recipes or parametrisations have different ones; filter the table "
            "to one, or see the drift of each"
        )
    else:
        rule = _try(lambda: fit_rule(chosen), "rule through the optima", missing)
        near = _try(
            lambda: near_best(points, level=level, seed=seed), "rule near the best runs", missing
        )
    at_best = {_key(c) for c in chosen}
    brackets = [
        b
        for b in boundaries(points)
        if _key(b) in at_best or _key(b) not in {_key(c) for c in found}
    ]
    if any(b.diverges is not None for b in brackets):
        by_kind = {kind_of(b) for b in brackets}
        if len(by_kind) == 1:
            law = _try(
                lambda: boundary_law(brackets, level=level, seed=seed),
                "law of the boundary",
                missing,
            )
    elif brackets:
        missing.append("boundary: nothing diverged; add larger rates to find it")
    return RateStudy(
        points,
        level,
        found,
        costs,
        chosen,
        drifted,
        comparisons,
        brackets,
        law,
        rule,
        near,
        excluded,
        notes,
        missing,
    )


def _drifts(
    chosen: list[Curve], level: float, seed: int
) -> tuple[list[Drift], list[Comparison], list[str]]:
    """With the width where the source has several, else with N; and with D where it moves on its
    own.
    """
    if not chosen:
        return [], [], []
    widths = {w for c in chosen if (w := float(c.settings.get("width", np.nan))) == w}
    out, notes = drifts(chosen, "width" if len(widths) > 1 else "N", level=level, seed=seed)
    comparisons = compare(out, level=level)
    with_d, _ = drifts(chosen, "D", level=level, seed=seed)
    return [*out, *(d for d in with_d if d.held)], comparisons, [f"drift: {note}" for note in notes]


def _key(of: Curve | Boundary) -> tuple:
    return (of.N, of.D, *((k, str(v)) for k, v in of.settings.items()))


def _try(make, what: str, missing: list[str]):
    try:
        return make()
    except UserError as error:
        missing.append(f"{what}: {error}")
        return None
