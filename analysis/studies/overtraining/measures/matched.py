"""Forgetting at equal fit of the task: the comparison that no choice of the learning rate can bend.

l_i^min is the lowest loss on the task that budget i reaches at any rate, tau = max_i l_i^min is
what every budget reaches, and R_i(tau) is the lowest loss on pretraining text among the rates that
reach tau (the comparison is from arXiv 2605.02105; straight lines between neighbouring rates are
ours).
"""

from collections.abc import Sequence

import numpy as np

from stepladder.analysis.studies.overtraining.measures import Row
from stepladder.analysis.studies.overtraining.measures.cells import Grid, Sample
from stepladder.analysis.studies.overtraining.measures.inflection import rule_row
from stepladder.analysis.studies.overtraining.measures.tuning import finetuned, task_of


def matched(task: np.ndarray, loss: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """tau [...] and R(tau) [..., T] of losses over the learning rates.

    Args:
        task: losses on the task [..., T, R], by rising rate; NaN where there is none.
        loss: losses on pretraining text, alike.

    Between two neighbouring rates that both have losses, both losses are straight lines.
    """
    there = np.isfinite(task) & np.isfinite(loss)
    task, loss = np.where(there, task, np.inf), np.where(there, loss, np.inf)
    tau = task.min(-1).max(-1)
    reach = tau[..., None, None]
    least = np.where(task <= reach, loss, np.inf).min(-1)
    left, right = task[..., :-1], task[..., 1:]
    both = np.isfinite(left) & np.isfinite(right)
    cross = both & ((left <= reach) != (right <= reach))
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(cross, (reach - left) / (right - left), 0.0)
        between = loss[..., :-1] + share * (loss[..., 1:] - loss[..., :-1])
    crossing = np.where(cross, between, np.inf)
    if crossing.shape[-1]:
        least = np.minimum(least, crossing.min(-1))
    return tau, least


def matched_rows(grids: Sequence[Grid], sample: Sample) -> tuple[list[Row], list[Row]]:
    """A row a budget: R_i(tau), and the forgetting R_i(tau) minus the base loss, with intervals;
    and a row a task and size: the rule of inflection.py on R_i(tau).
    """
    rows, summaries = [], []
    for grid in finetuned(grids):
        use = np.asarray(np.isfinite(grid.mean("tuned_loss")).any(axis=1))
        if use.sum() < 2:
            continue
        names = ("tuned_loss", "loss")
        tau, least = matched(*(grid.mean(name)[use] for name in names))
        drawn = [sample.draws(grid, name)[:, use] for name in names]
        taus, leasts = matched(*drawn)
        there = np.isfinite(grid.mean("tuned_loss"))
        known = all(np.isfinite(grid.measured[name].se[there]).all() for name in names)
        base, of_base = _base(grid, use, sample)
        D = grid.D[use]
        worst = int(np.argmax(np.nanmin(grid.mean("tuned_loss")[use], axis=1)))
        for i, d in enumerate(D):
            row = grid.key | {"task": task_of(grid), "D": d}
            row |= sample.estimate(float(tau), taus, known=known).row("tau")
            row |= {"lowest": float(np.nanmin(grid.mean("tuned_loss")[use][i]))}
            row |= sample.estimate(least[i], leasts[:, i], known=known).row("R")
            forgot = leasts[:, i] - of_base[:, i]
            row |= sample.estimate(least[i] - base[i], forgot, known=known).row("forgetting")
            rows.append(row | {"sets_tau": i == worst})
        se = leasts.std(0) if known else np.full(len(D), np.nan)
        summary = grid.key | {"task": task_of(grid)} | rule_row(D, least, se, leasts, sample)
        change = leasts - of_base
        more = (least - base)[-1] - (least - base)[0]
        found = sample.estimate(more, change[:, -1] - change[:, 0], known=known)
        summaries.append(summary | found.row("more_forgetting"))
    return rows, summaries


def _base(grid: Grid, use: np.ndarray, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """Base losses [T] and [B, T] of the budgets: means over the rates, which share their models."""
    draws = sample.draws(grid, "base_loss", shared=True)[:, use]
    return np.nanmean(grid.mean("base_loss")[use], axis=1), np.nanmean(draws, axis=2)
