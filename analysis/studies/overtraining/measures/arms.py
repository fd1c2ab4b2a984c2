"""Other ways to pretrain beside the separate, fully decayed runs, at equal budgets and changes.

Forgetting is Delta in nats. A difference below 0: the arm forgets less than `separate`.
"""

from collections.abc import Sequence

import numpy as np

from stepladder.analysis.studies.overtraining.changes import ARMS, SEPARATE
from stepladder.analysis.studies.overtraining.measures import Row
from stepladder.analysis.studies.overtraining.measures.cells import Estimate, Grid, Sample


def arm_rows(grids: Sequence[Grid], sample: Sample) -> tuple[list[Row], list[Row]]:
    """A row a common cell, and a row an arm, family and size: the mean over its common cells.

    Each has the difference of arm and separate in Delta, in the loss before and in that after the
    change, all in nats; and the ratio of the summed Deltas.
    """
    cells, means = [], []
    known = {(g.arm, g.family, g.N): g for g in grids}
    for (arm, family, n), grid in known.items():
        other = known.get((SEPARATE, family, n))
        if arm == SEPARATE or other is None:
            continue
        pairs = _pairs(grid, other)
        if not pairs:
            continue
        mean_row: Row = {"arm": arm, "change": family, "N": n, "cells": len(pairs)}
        rows = [{**mean_row, "D": grid.D[i], "strength": grid.strengths[j]} for i, j, _, _ in pairs]
        for row in rows:
            del row["cells"]
        for name in ("delta", "base_loss", "loss"):
            value, drawn, sure = _difference(grid, other, name, pairs, sample)
            for k, row in enumerate(rows):
                row |= sample.estimate(value[k], drawn[:, k], known=bool(sure[k])).row(name)
            mean_row |= sample.estimate(value.mean(), drawn.mean(1), known=bool(sure.all())).row(
                name
            )
        cells += rows
        means.append(mean_row | _ratio(grid, other, pairs, sample).row("ratio"))
    return cells, means


def unmatched(grids: Sequence[Grid]) -> list[str]:
    """Arms that have no budget and change in common with the separate runs."""
    known = {(g.arm, g.family, g.N): g for g in grids}
    said = []
    for arm in (a for a in ARMS if a != SEPARATE and any(g.arm == a for g in grids)):
        mine = [g for g in grids if g.arm == arm]
        others = [known.get((SEPARATE, g.family, g.N)) for g in mine]
        if not any(o is not None and _pairs(g, o) for g, o in zip(mine, others)):
            said.append(f"arm {arm}: no budget, change and strength in common with {SEPARATE}")
    return said


def _pairs(grid: Grid, other: Grid) -> list[tuple[int, int, int, int]]:
    """Budget and strength in one grid, and in the other."""
    return [
        (i, j, int(k), int(m))
        for i, d in enumerate(grid.D)
        for j, s in enumerate(grid.strengths)
        for k in np.flatnonzero(np.isclose(other.D, d, rtol=0.01))
        for m in np.flatnonzero(np.isclose(other.strengths, s, rtol=1e-6))
        if grid.seeds[i, j] and other.seeds[k, m]
    ]


def _difference(
    grid: Grid, other: Grid, name: str, pairs: Sequence[tuple[int, int, int, int]], sample: Sample
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Arm minus separate [P], redrawn [B, P], and whether both have an error [P]."""
    i, j, k, m = np.array(pairs).T
    one, two = (sample.draws(g, name, shared=True) for g in (grid, other))
    value = grid.mean(name)[i, j] - other.mean(name)[k, m]
    sure = np.isfinite(grid.measured[name].se[i, j] + other.measured[name].se[k, m])
    return value, one[:, i, j] - two[:, k, m], sure


def _ratio(
    grid: Grid, other: Grid, pairs: Sequence[tuple[int, int, int, int]], sample: Sample
) -> Estimate:
    i, j, k, m = np.array(pairs).T
    one, two = (sample.draws(g, "delta", shared=True) for g in (grid, other))
    top, bottom = grid.mean("delta")[i, j].sum(), other.mean("delta")[k, m].sum()
    drawn = two[:, k, m].sum(1)
    if bottom <= 0 or (drawn <= 0).any():
        return Estimate(top / bottom if bottom > 0 else np.nan)
    sure = np.isfinite(grid.measured["delta"].se[i, j] + other.measured["delta"].se[k, m]).all()
    return sample.estimate(top / bottom, one[:, i, j].sum(1) / drawn, known=bool(sure))
