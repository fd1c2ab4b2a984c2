"""Delta(T), the loss after a change minus the loss before it, and how it moves with the budget T.

Nats per token and perplexities are kept apart: Delta in perplexity is base perplexity times
(e^Delta - 1), and the base perplexity falls with T, so the two need not move alike. The published
claim is about perplexity (arXiv 2503.19206).
"""

from collections.abc import Sequence

import numpy as np

from stepladder.analysis.studies.overtraining.changes import INIT, WEIGHTS, scale_of
from stepladder.analysis.studies.overtraining.measures import Row
from stepladder.analysis.studies.overtraining.measures.cells import (
    NONE,
    Estimate,
    Grid,
    Sample,
    cell_estimate,
    has_error,
    said_how,
)
from stepladder.analysis.studies.overtraining.measures.kendall import tau

DELTAS = ("delta", "delta_ppl")
_CELLS = ("base_loss", "loss", "delta", "ppl_base", "ppl", "delta_ppl", "tuned_loss")


def cell_rows(grids: Sequence[Grid], level: float) -> list[Row]:
    """A row a cell: every quantity with Student's interval, and what that comes from."""
    rows = []
    for grid in grids:
        for j, strength in enumerate(grid.strengths):
            for i in np.flatnonzero(grid.seeds[:, j]):
                row = grid.key | {
                    "strength": strength,
                    "D": grid.D[i],
                    "tokens_per_parameter": grid.D[i] / grid.N,
                    "seeds": int(grid.seeds[i, j]),
                    "draws": int(grid.draws[i, j]),
                }
                for name in _CELLS:
                    row |= cell_estimate(grid.measured[name], int(i), j, level).row(name)
                rows.append(row | {"interval": str(grid.measured["delta"].how[i, j])})
    return rows


def trend_rows(grids: Sequence[Grid], sample: Sample) -> list[Row]:
    """A row a strength: Kendall's tau of Delta against T, and how much Delta grew, with
    intervals.
    """
    rows = []
    for grid in grids:
        for j, strength in enumerate(grid.strengths):
            there = grid.there(j)
            row = grid.key | {"strength": strength, "budgets": int(there.sum())}
            for name in DELTAS:
                m, draws = grid.measured[name], sample.draws(grid, name)
                values, known = m.mean[there, j], has_error(m, _column(there, j, m.mean.shape))
                found = _tau(grid.D[there], values, draws[:, there, j], known, sample)
                row |= found.row(f"tau_{name}")
                row[f"rises_{name}"] = _rises(values)
            m = grid.measured["delta"]
            row["interval"] = said_how(m, _column(there, j, m.mean.shape))
            rows.append(row)
    return rows


def family_rows(grids: Sequence[Grid], sample: Sample) -> list[Row]:
    """A row a grid: the mean of tau over its strengths, with an interval."""
    rows = []
    for grid in grids:
        row = grid.key | {"strengths": len(grid.strengths), "budgets": len(grid.D)}
        for name in DELTAS:
            row |= _mean_tau(grid, name, sample).row(f"tau_{name}")
        row["rises"] = sum(
            bool(_rises(grid.mean("delta_ppl")[grid.there(j), j]))
            for j in range(len(grid.strengths))
        )
        row |= _growth(grid, sample).row("growth")
        rows.append(row)
    return rows


def norm_rows(grids: Sequence[Grid], sample: Sample) -> list[Row]:
    """Noise of the initialisation's size beside noise of the trained weights' size.

    The first does not follow the norm of the weights, the second does: where Delta rises under both
    the rise is not a matter of norms alone.
    """
    rows = []
    known = {(g.arm, g.N, g.family): g for g in grids}
    for (arm, n, family), grid in known.items():
        other = known.get((arm, n, family.replace(f":{INIT}", f":{WEIGHTS}", 1)))
        if scale_of(family) != INIT or other is None:
            continue
        row: Row = {"arm": arm, "N": n, "init": family, "weights": other.family}
        for name, one in ((INIT, grid), (WEIGHTS, other)):
            row |= _growth(one, sample).row(f"growth_{name}")
            row |= _mean_tau(one, "delta", sample).row(f"tau_{name}")
        rows.append(row)
    return rows


def base_rows(grids: Sequence[Grid], sample: Sample) -> list[Row]:
    """Whether the loss before any change falls with T: a row an arm and size.

    It is read from the grid of that arm and size with the most budgets.
    """
    rows, best = [], {}
    for grid in grids:
        known = best.get((grid.arm, grid.N))
        if known is None or len(grid.D) > len(known.D):
            best[grid.arm, grid.N] = grid
    for grid in best.values():
        m = grid.measured["base_loss"]
        j = int(np.isfinite(m.mean).sum(0).argmax())
        there = grid.there(j, "base_loss")
        values, known = m.mean[there, j], has_error(m, _column(there, j, m.mean.shape))
        draws = sample.draws(grid, "base_loss", shared=True)[:, there, j]
        row: Row = {"arm": grid.arm, "N": grid.N, "budgets": int(there.sum())}
        row |= _tau(grid.D[there], values, draws, known, sample).row("tau")
        row["falls"] = None if len(values) < 2 else bool((np.diff(values) < 0).all())
        gain = sample.estimate(values[0] - values[-1], draws[:, 0] - draws[:, -1], known=known)
        rows.append(
            row | gain.row("gain") | {"interval": said_how(m, _column(there, j, m.mean.shape))}
        )
    return rows


def _rises(values: np.ndarray) -> bool | None:
    """Whether every budget has more than the one before; None for a single one."""
    return None if len(values) < 2 else bool((np.diff(values) > 0).all())


def _tau(
    D: np.ndarray, values: np.ndarray, draws: np.ndarray, known: bool, sample: Sample
) -> Estimate:
    if len(D) < 2:
        return Estimate(np.nan)
    return sample.estimate(float(tau(D, values)), tau(D, draws), known=known)


def _mean_tau(grid: Grid, name: str, sample: Sample) -> Estimate:
    """tau of Delta against T, averaged over the strengths that have two budgets or more."""
    m, draws = grid.measured[name], sample.draws(grid, name, shared=True)
    found, drawn, known = [], [], True
    for j in range(len(grid.strengths)):
        there = grid.there(j)
        if there.sum() < 2:
            continue
        found.append(float(tau(grid.D[there], m.mean[there, j])))
        drawn.append(tau(grid.D[there], draws[:, there, j]))
        known = known and has_error(m, _column(there, j, m.mean.shape))
    if not found:
        return Estimate(np.nan)
    return sample.estimate(float(np.mean(found)), np.mean(drawn, axis=0), known=known)


def _growth(grid: Grid, sample: Sample) -> Estimate:
    """Delta (nats) at the last budget over that at the first, a geometric mean over strengths.

    Strengths with a Delta of 0 or less at an end are not in it; a redrawn one counts as the
    smallest ratio of the draws.
    """
    m, draws = grid.measured["delta"], sample.draws(grid, "delta", shared=True)
    ends = np.array([0, len(grid.D) - 1])
    good = [j for j in range(len(grid.strengths)) if (m.mean[ends, j] > 0).all()]
    if not good or len(grid.D) < 2:
        return Estimate(np.nan)
    ratio = np.log(m.mean[-1, good] / m.mean[0, good]).mean()
    pair = draws[:, ends][:, :, good]
    positive = (pair > 0).all(axis=(1, 2))
    logs = np.full(len(pair), np.nan)
    logs[positive] = np.log(pair[positive, 1] / pair[positive, 0]).mean(axis=1)
    if not positive.any():
        return Estimate(float(np.exp(ratio)))
    logs[~positive] = np.nanmin(logs)
    cells = np.zeros(m.mean.shape, bool)
    cells[np.ix_(ends, np.array(good))] = True
    return sample.estimate(np.exp(ratio), np.exp(logs), known=has_error(m, cells), how=NONE)


def _column(there: np.ndarray, j: int, shape: tuple[int, ...]) -> np.ndarray:
    """The mask [T, S] of the budgets `there` at one strength."""
    mask = np.zeros(shape, bool)
    mask[there, j] = True
    return mask
