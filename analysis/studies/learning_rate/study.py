"""The numbers of the learning-rate study.

Curves and optima, their drift and law, what a wrong rate costs, and where runs diverge.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

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

T = TypeVar("T")


@dataclass(frozen=True)
class LearningRateStudy:
    """Everything the study says.

    curves: all of them; chosen: the best of those that differ in the batch size alone, which the
    rest is about. missing: what cannot be said and why.
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
) -> LearningRateStudy:
    """Ask everything that the points support.

    Args:
        source: a workdir or its records, a table or a DataFrame (points.py says what they need).
        level: of the intervals.
        seed: of the resamples.

    Returns:
        The numbers; what the points do not support stands in `missing`, with what to add.

    Raises:
        UserError: when nothing can be read.
    """
    points = rate_points(source)
    found, excluded = curves(points, level=level, seed=seed)
    chosen, notes = best_batch(found)
    missing: list[str] = []
    if not found:
        missing.append(
            "curves: no setting has three learning rates; sweep the rate with everything else held"
        )
    drifted, comparisons, more = _drifts(chosen, level, seed)
    missing += more
    rule, near = _rules(points, chosen, level, seed, missing)
    brackets = _brackets(points, found, chosen)
    return LearningRateStudy(
        points=points,
        level=level,
        curves=found,
        sensitivities=_sensitivities(points, found, level, seed),
        chosen=chosen,
        drifts=drifted,
        comparisons=comparisons,
        boundaries=brackets,
        boundary_law=_boundary_law(brackets, level, seed, missing),
        rule=rule,
        near=near,
        excluded=excluded,
        notes=notes,
        missing=missing,
    )


def _sensitivities(
    points: RatePoints, found: list[Curve], level: float, seed: int
) -> list[Sensitivity]:
    """The cost of a wrong rate for each curve."""
    groups = [rows for rows in points.groups() if rows["learning_rate"].nunique() >= LEAST_RATES]
    return [
        sensitivity_of(rows, c.noise, level=level, seed=seed + i)
        for i, (rows, c) in enumerate(zip(groups, found, strict=True))
    ]


def _rules(
    points: RatePoints, chosen: list[Curve], level: float, seed: int, missing: list[str]
) -> tuple[Rule | None, NearBest | None]:
    """The rule through the optima, and the one through the runs near the best."""
    kinds = {kind_of(c) for c in chosen}
    if len(kinds) > 1:
        missing.append(
            f"rule: {len(kinds)} recipes or parametrisations have different ones; filter the table "
            "to one, or see the drift of each"
        )
        return None, None
    rule = _try(lambda: fit_rule(chosen), "rule through the optima", missing)
    return rule, _try(
        lambda: near_best(points, level=level, seed=seed), "rule near the best runs", missing
    )


def _brackets(points: RatePoints, found: list[Curve], chosen: list[Curve]) -> list[Boundary]:
    """Where runs diverge at the batch sizes that were chosen, or where no curve is known."""
    at_best, known = {_key(c) for c in chosen}, {_key(c) for c in found}
    return [b for b in boundaries(points) if _key(b) in at_best or _key(b) not in known]


def _boundary_law(
    brackets: list[Boundary], level: float, seed: int, missing: list[str]
) -> BoundaryLaw | None:
    if brackets and all(b.diverges is None for b in brackets):
        missing.append("boundary: nothing diverged; add larger rates to find it")
        return None
    if len({kind_of(b) for b in brackets}) != 1:
        return None
    return _try(
        lambda: boundary_law(brackets, level=level, seed=seed), "law of the boundary", missing
    )


def _drifts(
    chosen: list[Curve], level: float, seed: int
) -> tuple[list[Drift], list[Comparison], list[str]]:
    """The drift with the width (N where the source has one width), and with D.

    D counts where it moves on its own.
    """
    if not chosen:
        return [], [], []
    widths = {w for c in chosen if np.isfinite(w := float(c.settings.get("width", np.nan)))}
    out, notes = drifts(chosen, "width" if len(widths) > 1 else "N", level=level, seed=seed)
    comparisons = compare(out, level=level)
    with_d, _ = drifts(chosen, "D", level=level, seed=seed)
    return [*out, *(d for d in with_d if d.held)], comparisons, [f"drift: {note}" for note in notes]


def _key(of: Curve | Boundary) -> tuple[object, ...]:
    return (of.N, of.D, *((k, str(v)) for k, v in of.settings.items()))


def _try(make: Callable[[], T], what: str, missing: list[str]) -> T | None:
    """What `make` returns; where the points do not support it None, and `missing` says why."""
    try:
        return make()
    except UserError as error:
        missing.append(f"{what}: {error}")
        return None
