"""The ground truth: each recipe's loss after tuning the target for that recipe.

y[r, d] is the least loss of recipe r on domain d over learning rates and weight decays.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from stepladder.analysis.studies.proxy_transfer.measures import Row
from stepladder.analysis.studies.proxy_transfer.measures.bootstrap_draws import Draws
from stepladder.analysis.studies.proxy_transfer.measures.grid import Grid


@dataclass(frozen=True)
class TargetTruth:
    """Tuned losses of R recipes on V domains (the first is the mean); every array is [R, V].

    Attributes:
        loss: least mean loss over `grids`, nats per token; NaN: no run, infinity: all diverged.
        rate, weight_decay: where it is.
        refined, refined_rate: bottom of a parabola in log rate through the 3 lowest points, and its
            rate; NaN where there is none.
        se: standard error of the loss, from the seeds.
        edge: "low" or "high" where the best rate is the lowest or highest that was tried, else "".
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
        """The least loss [B, R] under the draws' seeds; the best setting is chosen anew in each
        draw.
        """
        cells = np.concatenate([g.mean(draws, domain) for g in self.grids], -1)
        return least(cells)


def tune(grids: Sequence[Grid]) -> TargetTruth:
    """The least loss over grids of one size that differ in learning rate and weight decay."""
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
    return TargetTruth(tuple(grids), first.recipes, first.domains, edge=edge, **out)


def refine(rates: np.ndarray, losses: np.ndarray) -> tuple[float, float]:
    """Bottom (loss, rate) of the parabola in log rate through the 3 lowest finite points.

    NaN when it is not convex or its bottom lies outside of the three.
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


def tuned_rows(truth: TargetTruth, level: float) -> list[Row]:
    """A row a (recipe, domain): the target's least loss with its interval from the seeds, where it
    is, and the bottom of the parabola.
    """
    half = NormalDist().inv_cdf((1 + level) / 2)
    rows = []
    for r, recipe in enumerate(truth.recipes):
        for v, domain in enumerate(truth.domains):
            y, se = truth.loss[r, v], truth.se[r, v]
            rows.append(
                {
                    "recipe": recipe,
                    "domain": domain,
                    "loss": y,
                    "loss_low": y - half * se,
                    "loss_high": y + half * se,
                    "learning_rate": truth.rate[r, v],
                    "weight_decay": truth.weight_decay[r, v],
                    "refined": truth.refined[r, v],
                    "refined_low": truth.refined[r, v] - half * se,
                    "refined_high": truth.refined[r, v] + half * se,
                    "refined_rate": truth.refined_rate[r, v],
                    "edge": truth.edge[r, v],
                }
            )
    return rows


def edge_warnings(truth: TargetTruth) -> list[str]:
    """Warnings, on the mean domain: recipes whose tuned target sits on an edge of the learning-rate
    grid, and recipes without a tuned loss.
    """
    out = []
    for end, fix in (("low", "lower"), ("high", "higher")):
        there = [r for r, e in zip(truth.recipes, truth.edge[:, 0]) if e == end]
        if there:
            out.append(
                f"the tuned target of {len(there)} of {len(truth.recipes)} recipes sits on the "
                f"{end} edge of its grid ({', '.join(there)}): their tuned loss is an upper bound; "
                f"add a {fix} learning rate"
            )
    lost = [r for r, y in zip(truth.recipes, truth.loss[:, 0]) if not np.isfinite(y)]
    return out + ([f"no finite tuned loss of the target for {', '.join(lost)}"] if lost else [])


def least(cells: np.ndarray) -> np.ndarray:
    """Minimum over the last axis without NaN; NaN where there is nothing."""
    lowest = np.where(np.isnan(cells), np.inf, cells).min(-1)
    return np.where(np.isnan(cells).all(-1), np.nan, lowest)
