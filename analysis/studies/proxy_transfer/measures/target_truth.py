"""The ground truth: each recipe's loss after tuning the target for it, y[r, d] = min over (learning
rate, weight decay).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stepladder.analysis.studies.proxy_transfer.measures.bootstrap_draws import Draws
from stepladder.analysis.studies.proxy_transfer.measures.grid import Grid


@dataclass(frozen=True)
class Tuned:
    """Of R recipes and V domains (the first is the mean): loss [R, V] is the least mean loss over
    `grids` (NaN: no run), at rate and weight decay [R, V]; refined [R, V] is the least of a
    parabola in log rate through the 3 lowest points (NaN: none); se [R, V] is the loss's standard
    error from the seeds; edge [R, V] is "low" or "high" when the best rate is the grid's first or
    last, else "".
    """

    grids: tuple[Grid, ...]
    recipes: tuple[str, ...]
    domains: tuple[str, ...]
    loss: np.ndarray
    rate: np.ndarray
    weight_decay: np.ndarray
    refined: np.ndarray
    refined_rate: np.ndarray
    se: np.ndarray
    edge: np.ndarray

    def draw(self, draws: Draws | None, domain: int) -> np.ndarray:
        """The least loss [B, R] under the draws' seeds: the choice of the setting is part of the
        draw.
        """
        cells = np.concatenate([g.mean(draws, domain) for g in self.grids], -1)
        return least(cells)


def tune(grids: Sequence[Grid]) -> Tuned:
    """Tune over grids of one size that differ in their learning rates and weight decay."""
    first = grids[0]
    shape = (len(first.recipes), len(first.domains))
    out = {
        k: np.full(shape, np.nan)
        for k in ("loss", "rate", "weight_decay", "refined", "refined_rate", "se")
    }
    edge = np.full(shape, "", dtype=object)
    for r, v in np.ndindex(shape):
        rows = [g.mean(None, v)[0, r] for g in grids]
        best = [np.nanmin(row) if np.isfinite(row).any() else np.inf for row in rows]
        g = int(np.argmin(best))
        if not np.isfinite(best[g]):
            out["loss"][r, v] = np.inf if any(np.isposinf(row).any() for row in rows) else np.nan
            continue
        grid, row = grids[g], rows[g]
        e = int(np.nanargmin(row))
        tried = np.flatnonzero(~np.isnan(row))
        seeds = np.isfinite(grid.losses[r, e, v]).sum()
        edge[r, v] = "low" if e == tried[0] else "high" if e == tried[-1] else ""
        bottom, where = refine(np.array(grid.rates), row)
        for name, value in (
            ("loss", row[e]),
            ("rate", grid.rates[e]),
            ("weight_decay", grid.weight_decay),
            ("refined", bottom),
            ("refined_rate", where),
            ("se", grid.noise[e, v] / np.sqrt(seeds)),
        ):
            out[name][r, v] = value
    return Tuned(tuple(grids), first.recipes, first.domains, edge=edge, **out)


def refine(rates: np.ndarray, losses: np.ndarray) -> tuple[float, float]:
    """(least loss, its rate) of the parabola in log rate through the 3 lowest finite points; NaN
    when it is not convex or leaves them.
    """
    finite = np.flatnonzero(np.isfinite(losses))
    three = np.sort(finite[np.argsort(losses[finite], kind="stable")[:3]])
    if len(three) < 3:
        return np.nan, np.nan
    x, y = np.log(rates[three]), losses[three]
    middle = x.mean()
    two, one, zero = np.polyfit(x - middle, y, 2)
    if not two > 0 or not x[0] <= middle - one / (2 * two) <= x[-1]:
        return np.nan, np.nan
    return float(zero - one**2 / (4 * two)), float(np.exp(middle - one / (2 * two)))


def standard_rate(grid: Grid) -> tuple[float, str]:
    """(eta_std, note) of a size: the rate with the least mean over the recipes of its mean-domain
    loss (our choice).

    Only recipes with every rate are averaged, else a recipe missing at one rate would move it; a
    diverged recipe rules its rate out. NaN when every rate has a diverged recipe.
    """
    loss = grid.mean()[0]
    whole = ~np.isnan(loss).any(-1)
    if not whole.any():
        return np.nan, "no recipe has every learning rate; give eta_std"
    average = loss[whole].mean(0)
    if not np.isfinite(average).any():
        return np.nan, "at every learning rate some recipe diverged; give eta_std"
    best = int(np.argmin(average))
    notes = (
        [f"{int(whole.sum())} of {len(whole)} recipes have every rate"] if not whole.all() else []
    )
    notes += (
        [f"it is the {'lowest' if best == 0 else 'highest'} rate of the grid"]
        if best in (0, len(average) - 1)
        else []
    )
    return grid.rates[best], "; ".join(notes)


def nearest_rate(grid: Grid, wanted: float) -> float | None:
    """The grid's rate nearest to `wanted` in logs, or None when it is off by more than a factor of
    2.
    """
    if not np.isfinite(wanted):
        return None
    best = min(grid.rates, key=lambda r: abs(np.log(r / wanted)))
    return best if abs(np.log(best / wanted)) <= np.log(2) + 1e-9 else None


def least(cells: np.ndarray) -> np.ndarray:
    """Minimum over the last axis without NaN; NaN where there is nothing."""
    least = np.where(np.isnan(cells), np.inf, cells).min(-1)
    return np.where(np.isnan(cells).all(-1), np.nan, least)
