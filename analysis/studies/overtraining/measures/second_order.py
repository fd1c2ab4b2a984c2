"""Whether small noise costs what the curvature says: Delta = gamma^2 / 2 Tr(H Sigma), in nats.

It is the second-order Taylor term of noise with covariance gamma^2 Sigma, Sigma of the
initialisation; H is the Hessian of the loss, its trace a Hutchinson estimate of the trainer's
probe. The gamma at which it breaks down is the smallest from which on Delta lies off by more than
TOLERANCE (ours), beyond its interval.
"""

from collections.abc import Sequence

import numpy as np

from stepladder.analysis.studies.overtraining.changes import INIT, scale_of
from stepladder.analysis.studies.overtraining.measures import Row
from stepladder.analysis.studies.overtraining.measures.cells import Grid, Sample

TOLERANCE = 0.2


def second_order_rows(grids: Sequence[Grid], sample: Sample) -> tuple[list[Row], list[Row]]:
    """A row a cell: measured Delta over the predicted one, with an interval; and a row a model: the
    gamma at which the prediction breaks down.
    """
    rows, breakdowns = [], []
    for grid in (g for g in grids if scale_of(g.family) == INIT):
        trace = grid.measured["trace_sigma"]
        if not np.isfinite(trace.mean).any():
            continue
        delta = grid.measured["delta"]
        of_delta = sample.draws(grid, "delta", shared=True)
        of_trace = sample.draws(grid, "trace_sigma", shared=True, stream="trace")
        for i, d in enumerate(grid.D):
            mine = []
            for j in np.flatnonzero(np.isfinite(trace.mean[i] * delta.mean[i])):
                gamma = grid.strengths[j]
                half = gamma**2 / 2
                row = grid.key | {"D": d, "strength": gamma, "trace_sigma": trace.mean[i, j]}
                row |= {"measured": delta.mean[i, j], "predicted": half * trace.mean[i, j]}
                if trace.mean[i, j] <= 0:
                    rows.append(row | {"ratio": np.nan, "note": "the trace is not positive"})
                    continue
                drawn = np.where(of_trace[:, i, j] > 0, of_trace[:, i, j], np.nan)
                known = bool(np.isfinite(delta.se[i, j]))
                ratio = sample.estimate(
                    delta.mean[i, j] / (half * trace.mean[i, j]),
                    of_delta[:, i, j] / (half * drawn),
                    known=known,
                )
                note = "" if np.isfinite(trace.se[i, j]) else "without the error of the trace"
                mine.append(row | ratio.row("ratio") | {"note": note})
            rows += mine
            if mine:
                breakdowns.append(grid.key | {"D": d} | _breakdown(mine))
    return rows, breakdowns


def _breakdown(rows: Sequence[Row]) -> Row:
    """The smallest gamma from which on the ratio is off, and the largest at which it holds."""
    off = [
        abs(r["ratio"] - 1) > TOLERANCE
        and not (r["ratio_low"] <= 1 + TOLERANCE and r["ratio_high"] >= 1 - TOLERANCE)
        for r in rows
    ]
    first = len(off)
    while first and off[first - 1]:
        first -= 1
    holds = [r["strength"] for r in rows[:first] if abs(r["ratio"] - 1) <= TOLERANCE]
    known = all(np.isfinite(r["ratio_low"]) for r in rows)
    return {
        "breaks_at": rows[first]["strength"] if first < len(rows) else np.nan,
        "holds_to": max(holds) if holds else np.nan,
        "strengths": len(rows),
        "note": "" if known else "some ratios have no interval: they count as off by their value",
    }
