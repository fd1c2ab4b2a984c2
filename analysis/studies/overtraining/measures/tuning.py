"""Fine-tuning with the learning rate tuned for every budget.

The tuned rate eta*(T) is where the loss on the task is lowest, and must lie inside of the grid of
rates: a minimum at an edge is an invalid point. The paper tells apart tasks whose eta* is constant,
falls slowly or falls quickly with T (arXiv 2503.19206); where it draws the lines is not published,
so CONSTANT and QUICK are ours.
"""

from collections.abc import Sequence

import numpy as np

from stepladder.analysis.fit.levels import percentiles
from stepladder.analysis.studies.learning_rate.optimum import Optimum, misfit, optimum
from stepladder.analysis.studies.overtraining.changes import FINETUNE, kind_of
from stepladder.analysis.studies.overtraining.measures import Row
from stepladder.analysis.studies.overtraining.measures.cells import Estimate, Grid, Measured, Sample
from stepladder.analysis.studies.overtraining.measures.inflection import rule_row

CONSTANT, QUICK = -0.1, -0.5  # slopes of ln eta* against ln T
LEAST_RATES = 3


def task_of(grid: Grid) -> str:
    """The task of a fine-tuning."""
    return grid.family.partition(":")[2]


def finetuned(grids: Sequence[Grid]) -> list[Grid]:
    """The grids of fine-tuning that have losses on their task."""
    tuned = [g for g in grids if kind_of(g.family) == FINETUNE]
    return [g for g in tuned if np.isfinite(g.mean("tuned_loss")).any()]


def rate_rows(grids: Sequence[Grid], sample: Sample) -> list[Row]:
    """A row a budget: eta* with its interval, or why it is no valid point; and at the grid's best
    rate the loss on the task and on pretraining text.
    """
    rows = []
    for grid in finetuned(grids):
        for i, d in enumerate(grid.D):
            there = np.isfinite(grid.mean("tuned_loss")[i])
            if not there.any():
                continue
            found = _optimum(grid, i, there, sample)
            best = int(np.nanargmin(grid.mean("tuned_loss")[i]))
            rows.append(
                grid.key
                | {"task": task_of(grid), "D": d, "rates": int(there.sum())}
                | {"eta": found.rate, "eta_low": found.low, "eta_high": found.high}
                | {
                    "valid": found.rate is not None,
                    "why": found.refused,
                    "at": grid.strengths[best],
                    "tuned_loss": grid.mean("tuned_loss")[i, best],
                    "loss": grid.mean("loss")[i, best],
                    "base_loss": grid.mean("base_loss")[i, best],
                }
            )
    return rows


def _optimum(grid: Grid, i: int, there: np.ndarray, sample: Sample) -> Optimum:
    rates, m = grid.strengths[there], grid.measured["tuned_loss"]
    losses, seeds = m.mean[i, there], np.maximum(grid.seeds[i, there], 1.0)
    if len(rates) < LEAST_RATES:
        return Optimum(refused=f"{len(rates)} learning rates: needs {LEAST_RATES}; add some")
    noise, freedom = _noise(m, i, there, rates, losses, seeds)
    return optimum(rates, losses, seeds, noise, freedom, level=sample.level, seed=sample.seed + i)


def _noise(
    m: Measured,
    i: int,
    there: np.ndarray,
    rates: np.ndarray,
    losses: np.ndarray,
    seeds: np.ndarray,
) -> tuple[float | None, float]:
    """The standard deviation of one run's loss on the task, and its degrees of freedom.

    It is that of repeated seeds, else the misfit of a cubic around the lowest point, else unknown.
    """
    se, freedom = m.se[i, there], m.freedom[i, there]
    if np.isfinite(se).all():
        return float(np.sqrt(np.mean(se**2 * seeds))), float(freedom.min())
    square, degrees = misfit(rates, losses, seeds)
    return (float(np.sqrt(square / degrees)), float(degrees)) if degrees else (None, np.inf)


def slope_rows(rates: Sequence[Row], sample: Sample) -> list[Row]:
    """A row a task and size: the slope of ln eta* against ln T over the valid budgets, and its
    class.

    The interval is that of redrawn eta*; where those have none it is Student's, of the line's own
    residuals.
    """
    out = []
    for key in dict.fromkeys((r["arm"], r["change"], r["task"], r["N"]) for r in rates):
        mine = [r for r in rates if (r["arm"], r["change"], r["task"], r["N"]) == key]
        good = [r for r in mine if r["valid"]]
        row: Row = dict(zip(("arm", "change", "task", "N"), key))
        found = _slope(good, sample)
        row |= {"budgets": len(mine), "valid": len(good)} | found.row("slope")
        word, settled = trend(found)
        out.append(row | {"trend": word, "settled": settled, "interval": found.how})
    return out


def trend(slope: Estimate) -> tuple[str, bool]:
    """The class of a slope, and whether both ends of its interval have the same."""
    if not np.isfinite(slope.value):
        return "unknown", False
    ends = {_class(v) for v in (slope.low, slope.value, slope.high)}
    return _class(slope.value), np.isfinite(slope.low) and len(ends) == 1


def _class(slope: float) -> str:
    if slope > -CONSTANT:
        return "rises"
    if slope >= CONSTANT:
        return "constant"
    return "falls slowly" if slope > QUICK else "falls quickly"


def _slope(good: Sequence[Row], sample: Sample) -> Estimate:
    if len(good) < 2:
        return Estimate(np.nan)
    x, y = (np.log([r[name] for r in good]) for name in ("D", "eta"))
    away = x - x.mean()
    slope = float((away * y).sum() / (away**2).sum())
    if all(r["eta_low"] is not None for r in good):
        from scipy.stats import norm

        wide = np.log([r["eta_high"] / r["eta_low"] for r in good])
        sd = wide / (2 * norm.ppf(percentiles(sample.level)[1]))
        rng = np.random.default_rng(sample.seed)
        again = y + sd * rng.standard_normal((sample.resamples, len(y)))
        return sample.estimate(slope, again @ away / (away**2).sum(), how="redrawn eta*")
    if len(good) < LEAST_RATES:
        return Estimate(slope)
    from scipy.stats import t

    left = y - y.mean() - slope * away
    se = np.sqrt((left**2).sum() / (len(y) - 2) / (away**2).sum())
    half = float(se * t.ppf(percentiles(sample.level)[1], len(y) - 2))
    return Estimate(slope, slope - half, slope + half, "residuals of the line")


def tuned_rows(grids: Sequence[Grid], rates: Sequence[Row], sample: Sample) -> list[Row]:
    """A row a task and size: whether longer pretraining made the tuned model worse, by the rule of
    inflection.py, on the task ("tuned_loss") and on pretraining text ("loss"); valid budgets only.

    A redrawn budget chooses its rate again.
    """
    out = []
    for grid in finetuned(grids):
        valid = {r["D"] for r in rates if r["valid"] and _same(r, grid)}
        use = np.array([d in valid for d in grid.D])
        task = sample.draws(grid, "tuned_loss")
        task = np.where(np.isfinite(task), task, np.inf)
        best = task.argmin(2)[..., None]
        m = grid.measured["tuned_loss"]
        at = np.where(np.isfinite(m.mean), m.mean, np.inf).argmin(1)[:, None]
        for name in ("tuned_loss", "loss"):
            draws = np.take_along_axis(
                task if name == "tuned_loss" else sample.draws(grid, name), best, 2
            )[..., 0]
            mean, error = (
                np.take_along_axis(a, at, 1)[:, 0]
                for a in (grid.mean(name), grid.measured[name].se)
            )
            se = np.where(np.isfinite(error), draws.std(0), np.nan)
            row = grid.key | {"task": task_of(grid), "of": name}
            if not use.any():
                out.append(row | {"state": "no valid budget", "budgets": 0})
                continue
            out.append(row | rule_row(grid.D[use], mean[use], se[use], draws[:, use], sample))
    return out


def _same(row: Row, grid: Grid) -> bool:
    return (row["arm"], row["change"], row["N"]) == (grid.arm, grid.family, grid.N)
