"""Pretrain for D tokens, specialise for D2: where to split?

From a table of evaluated models to numbers and verdicts. The protocol is after arXiv 2603.19149, of
which only abstract and introduction were known to us: laws, fractions, thresholds and rules are
ours.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from stepladder.analysis.fit.levels import check_level
from stepladder.analysis.studies.split.measures import Row
from stepladder.analysis.studies.split.measures.allocation import allocation_rows, check_rows
from stepladder.analysis.studies.split.measures.best_split import (
    corner_laws,
    observed_rows,
    predicted_rows,
    regret_rows,
)
from stepladder.analysis.studies.split.measures.cells import (
    NONE,
    RESIDUALS,
    WINDOWS,
    Cells,
    Sample,
    cells_of,
    main_arm,
    text_rows,
    toy_rows,
)
from stepladder.analysis.studies.split.measures.comparisons import (
    arm_rows,
    comparison_rows,
    router_rows,
)
from stepladder.analysis.studies.split.measures.held_out import chosen, held_out
from stepladder.analysis.studies.split.measures.laws import (
    LAWS,
    best_law,
    fit_laws,
    law_rows,
    params_rows,
)
from stepladder.analysis.studies.split.measures.phonebook import phonebook_rows
from stepladder.analysis.studies.split.read_table import (
    ARMS,
    ORACLE,
    PREFIX,
    UNSHARED,
    CheckedTable,
    check_table,
)
from stepladder.analysis.studies.split.result import Found, Result
from stepladder.analysis.studies.split.verdicts import judge
from stepladder.analysis.tables.checks import joined
from stepladder.configs.core.errors import UserError, nearest

FLOORS = {"floor_bigram": "bigram", "floor_5gram": "5-gram"}
IGNORES_SPLIT = "H0"


def study(
    table: pd.DataFrame,
    *,
    resamples: int = 2000,
    refits: int = 200,
    level: float = 0.95,
    seed: int = 0,
    laws: Sequence[str] = tuple(LAWS),
    excluded: pd.DataFrame | None = None,
    notes: Sequence[str] = (),
) -> Result:
    """Ask everything that the rows support.

    Args:
        table: a row an evaluated model and domain (read_table.py says what it needs), losses in
            nats per token.
        resamples: how often means and errors are redrawn.
        refits: how many simulated tables every law is refitted to.
        level: of every interval.
        seed: of all that is drawn.
        laws: codes of `measures.laws.LAWS` to fit and compare.
        excluded, notes: what whoever made the table left out and says about it.

    Returns:
        Numbers, verdicts, and what is not in them.

    Raises:
        UserError: for a table or an option that does not fit.
    """
    check_level(level, 0.95)
    for name, value in {"resamples": resamples, "refits": refits}.items():
        if value < 50:
            raise UserError(f"{name}={value}: too few for an interval; give 200 or more")
    for name in laws:
        if name not in LAWS:
            raise UserError(f"laws={name!r}: not one of the study's; {nearest(name, LAWS)}")
    checked = check_table(table)
    sample = Sample(resamples, level, seed)
    found, missing = measure(checked, sample, laws, refits)
    left = joined(
        [
            checked.excluded,
            found.grid.excluded,
            *([] if excluded is None else [excluded]),
        ]
    )
    return Result(
        settings=_settings(checked, found, sample, refits),
        floors=_floors(checked.frame),
        found=found,
        verdicts=[v.row() for v in judge(found)],
        excluded=[{str(k): v for k, v in row.items()} for row in left.to_dict("records")],
        missing=[*missing, *_missing(checked.frame, found)],
        notes=[*notes, *checked.notes],
    )


def measure(
    checked: CheckedTable, sample: Sample, laws: Sequence[str], refits: int
) -> tuple[Found, list[str]]:
    """All numbers of a checked table; and what could not be computed."""
    text, toy = text_rows(checked.frame), toy_rows(checked.frame)
    used = text if len(text) and (text["own"] != "").any() else checked.frame
    arm = main_arm(used)
    cells = cells_of(used, checked.experts, arm)
    if not len(cells.frame):
        raise UserError(
            "table: no size, total and split fraction has a loss on every own domain; add "
            "evaluations, or report on fewer domains"
        )
    fits = fit_laws(cells, sample, laws, refits)
    best = best_law(fits)
    if best is not None:
        cells = cells.with_residuals(best.fit.residual_sd)
    held = held_out(cells, fits, sample)
    predicted = predicted_rows(cells, fits, held, sample)
    pairs, means, unmatched = comparison_rows(cells, sample)
    found = Found(
        level=sample.level,
        cells=_cell_rows(cells, sample),
        law_fits=law_rows(fits, cells, sample),
        law_params=params_rows(fits, sample),
        law_held_out=held.rows,
        observed=observed_rows(cells, sample),
        predicted=predicted,
        regrets=regret_rows(cells, predicted, sample),
        allocation=allocation_rows(cells, fits, sample),
        closed_form=check_rows(cells, fits),
        comparisons=pairs,
        comparison_means=means,
        arms=arm_rows(used, checked.experts, sample),
        routers=router_rows(used, arm, sample),
        phonebook=phonebook_rows(toy, sample),
        corners=corner_laws(predicted),
        chosen=chosen(held, [c for c in fits.pooled if c != IGNORES_SPLIT]),
        grid=cells,
        fits=fits,
    )
    return found, [*fits.missing, *held.missing, *unmatched]


def _cell_rows(cells: Cells, sample: Sample) -> list[Row]:
    draws = sample.draws(cells)
    rows: list[Row] = []
    for k, row in enumerate(cells.frame.to_dict("records")):
        known = bool(np.isfinite(cells.se[k]))
        body: Row = {name: row[name] for name in ("N", "T", "s", "D", "D2", "seeds")}
        body |= sample.estimate(float(row["loss"]), draws[:, k], known=known).row("loss")
        by_domain = dict(zip(cells.domains, map(float, cells.by_domain[:, k])))
        rows.append(body | {"by_domain": by_domain, "windows_se": row["windows_se"]})
    return rows


def _settings(checked: CheckedTable, found: Found, sample: Sample, refits: int) -> Row:
    frame, cells = checked.frame, found.grid
    return {
        "level": sample.level,
        "resamples": sample.resamples,
        "refits": refits,
        "seed": sample.seed,
        "rows": len(frame),
        "sizes": sorted(cells.frame["N"].unique()),
        "totals_per_parameter": sorted(
            {float(f"{v:.3g}") for v in cells.frame["T"] / cells.frame["N"]}
        ),
        "fractions": sorted(cells.frame["s"].unique()),
        "experts": cells.experts,
        "domains": list(cells.domains),
        "arm": cells.arm,
        "arms": {arm: int((frame["arm"] == arm).sum()) for arm in ARMS},
        "cells": len(cells.frame),
        "interval": cells.how,
        "laws": {code: {"formula": LAWS[code].formula, "note": LAWS[code].note} for code in LAWS},
    }


def _floors(frame: pd.DataFrame) -> list[Row]:
    """The losses of counting n-grams, and how many models are below them on their own domain."""
    rows: list[Row] = []
    on_own = (frame["own"] == frame["domain"]) | (frame["own"] == "")
    mine = frame[on_own & (frame["router"] == ORACLE)]
    for column, name in FLOORS.items():
        known = mine[mine[column].notna()]
        if len(known):
            row: Row = {"floor": name, "low": known[column].min(), "high": known[column].max()}
            below = int((known["loss"] < known[column]).sum())
            rows.append(row | {"below": below, "models": len(known)})
    return rows


_HOW = {
    RESIDUALS: (
        "noise: fewer than 3 repeated seeds, so intervals rest on the residuals of the law that "
        "fits best; add seeds"
    ),
    WINDOWS: (
        "noise: no repeated seeds and no law, so intervals rest on the windows of the evaluation, "
        "which are the same text for all models; add seeds"
    ),
    NONE: "noise: no seeds, no law and no loss_se, so there are no intervals; add seeds",
}


def _missing(frame: pd.DataFrame, found: Found) -> list[str]:
    """What cannot be said, and what to add."""
    cells = found.grid
    said = [_HOW[cells.how]] if cells.how in _HOW else []
    if cells.frame["N"].nunique() == 1:
        said.append(
            "N: one size only, so nothing on larger N is testable here, and E, A and alpha of the "
            "laws are not identified (no split depends on them)"
        )
    if not (cells.frame["s"] == 1).any():
        said.append("s = 1: no dense model, so nothing is said against full pretraining")
    if not (cells.frame["s"] == 0).any():
        said.append("s = 0: no expert from scratch")
    if not (frame["router"] == PREFIX).any():
        said.append("prefix router: no row; all experts are those of the text's own domain")
    if not found.arms:
        said.append(f"arm {UNSHARED}: no split in common with shared trunks")
    said += [
        f"floor of {name}s: no column {column}, so no loss stands beside that of counting"
        for column, name in FLOORS.items()
        if frame[column].isna().all()
    ]
    edges = [r for r in found.observed if r["edge"]]
    if edges:
        said.append(
            f"best split: at the edge of the fractions for {len(edges)} of {len(found.observed)} "
            "sizes and totals"
        )
    return said
