"""The inflection budget T*: where the loss after a change is lowest, and whether it rises again.

An inflection is declared only if loss(T_max) > loss(T*) + 2 SE, with the standard error of that
difference (the rule is ours; arXiv 2503.19206 publishes none). A budget at the end of the range is
told apart: at the largest there is no inflection within the range, and with T* at the smallest it
lies there or before.
"""

from collections.abc import Sequence

import numpy as np

from stepladder.analysis.studies.overtraining.changes import FINETUNE, kind_of, size_of
from stepladder.analysis.studies.overtraining.measures import Row
from stepladder.analysis.studies.overtraining.measures.cells import Estimate, Grid, Sample, said_how
from stepladder.analysis.studies.overtraining.measures.kendall import tau

RULE = 2.0  # standard errors
LEAST_BUDGETS = 3
FOUND, ABSENT = "inflection", "none within the range"
UNKNOWN, SHORT = "unknown: no standard error", "fewer than 3 budgets"


def declared(mean: np.ndarray, se: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rule, for many curves at once.

    Args:
        mean: losses [..., T], by rising budget.
        se: their standard errors [T].

    Returns:
        The place of the minimum [...], and whether the last loss lies above it by RULE standard
        errors of the difference [...].
    """
    low = mean.argmin(-1)
    rise = mean[..., -1] - np.take_along_axis(mean, low[..., None], -1)[..., 0]
    error = np.sqrt(se[-1] ** 2 + se[low] ** 2)
    return low, (low < mean.shape[-1] - 1) & (rise > RULE * error)


def inflection_rows(grids: Sequence[Grid], sample: Sample) -> list[Row]:
    """A row a curve: of the loss on pretraining text at every strength, and of the loss on the task
    at every learning rate.
    """
    rows = []
    for grid in grids:
        for name in ("loss", "tuned_loss") if kind_of(grid.family) == FINETUNE else ("loss",):
            draws = sample.draws(grid, name)
            rows += [
                grid.key | {"strength": s, "of": name} | _row(grid, name, j, draws[:, :, j], sample)
                for j, s in enumerate(grid.strengths)
                if grid.there(j, name).any()
            ]
    return rows


def rule_row(
    D: np.ndarray, mean: np.ndarray, se: np.ndarray, draws: np.ndarray, sample: Sample
) -> Row:
    """The rule on one curve: budgets D [T], losses [T], standard errors [T], draws [B, T].

    T_star stands only where an inflection is declared; its interval are the minima of the redrawn
    curves, and `share` is that of the redrawn curves on which the rule declares one.
    """
    low = int(np.argmin(mean))
    empty = Estimate(np.nan).row("T_star") | Estimate(np.nan).row("rise")
    row: Row = {
        "state": SHORT,
        "budgets": len(D),
        "lowest_at": D[low],
        "before": D[low - 1] if low else np.nan,
        "after": D[low + 1] if low + 1 < len(D) else np.nan,
        "share": np.nan,
        **empty,
    }
    if len(D) < LEAST_BUDGETS:
        return row
    known = bool(np.isfinite(se).all())
    row |= sample.estimate(mean[-1] - mean[low], draws[:, -1] - draws[:, low], known=known).row(
        "rise"
    )
    if not known:
        return row | {"state": ABSENT if low == len(D) - 1 else UNKNOWN}
    _, said = declared(mean, se)
    places, again = declared(draws, se)
    row |= {"state": FOUND if said else ABSENT, "share": float(again.mean())}
    return row | (sample.estimate(D[low], D[places]).row("T_star") if said else {})


def _row(grid: Grid, name: str, j: int, draws: np.ndarray, sample: Sample) -> Row:
    there, m = grid.there(j, name), grid.measured[name]
    mean, se = m.mean[there, j], m.se[there, j]
    row = rule_row(grid.D[there], mean, se, draws[:, there], sample)
    row["tokens_per_parameter"] = row["T_star"] / grid.N
    if name == "loss":
        ppl = grid.mean("ppl")[there, j]
        row |= {"ppl_lowest": float(np.nanmin(ppl)), "ppl_last": float(ppl[-1])}
    mask = np.zeros(m.mean.shape, bool)
    mask[there, j] = True
    return row | {"interval": said_how(m, mask)}


def shift_rows(grids: Sequence[Grid], sample: Sample) -> list[Row]:
    """A row a grid: Kendall's tau of T* against the size of the change, with an interval.

    Where no inflection is declared T* counts as later than every budget. Only strengths with all
    budgets of the grid enter, so that all T* have the same range.
    """
    rows = []
    for grid in grids:
        m, draws = grid.measured["loss"], sample.draws(grid, "loss")
        full = [j for j in range(len(grid.strengths)) if grid.there(j).all()]
        row = grid.key | {"strengths": len(full), "declared": 0, "different": 0}
        row |= Estimate(np.nan).row("tau")
        known = bool(full) and bool(np.isfinite(m.se[:, full]).all())
        if len(full) > 1 and len(grid.D) >= LEAST_BUDGETS and known:
            size = np.array([size_of(grid.family, grid.strengths[j]) for j in full])
            found, again = [], []
            for j in full:
                found.append(_or_never(grid.D, m.mean[:, j], m.se[:, j]))
                again.append(_or_never(grid.D, draws[:, :, j], m.se[:, j]))
            place = np.array(found)
            row |= {
                "declared": int(np.isfinite(place).sum()),
                "different": len(np.unique(place)),
            }
            row |= sample.estimate(float(tau(size, place)), tau(size, np.stack(again, 1))).row(
                "tau"
            )
        rows.append(row)
    return rows


def _or_never(D: np.ndarray, mean: np.ndarray, se: np.ndarray) -> np.ndarray:
    """T* of curves [..., T], infinite where the rule declares none."""
    low, said = declared(mean, se)
    return np.where(said, D[low], np.inf)
