"""What the table holds and what it lacks: losses by cell, tuned losses, missing cells, optima at an
edge, recipes that are one.
"""

from collections.abc import Sequence
from itertools import combinations
from statistics import NormalDist

import numpy as np
import pandas as pd

from stepladder.analysis.studies.proxy_transfer.measures.grid import Grid
from stepladder.analysis.studies.proxy_transfer.measures.target_truth import Tuned


def loss_rows(grids: Sequence[Grid]) -> list[dict]:
    """A row a (size, rate, recipe, domain): mean loss over the seeds, their number, and the seed SD
    of one run there.
    """
    rows = []
    for g in grids:
        for v, domain in enumerate(g.domains):
            loss = g.mean(None, v)[0]
            for r, e in np.argwhere(~np.isnan(loss)):
                seeds = int((~np.isnan(g.losses[r, e, v])).sum())
                rows.append(
                    {
                        "size": g.size,
                        "role": g.role,
                        "N": g.N,
                        "learning_rate": g.rates[e],
                        "recipe": g.recipes[r],
                        "domain": domain,
                        "loss": loss[r, e],
                        "seeds": seeds,
                        "seed_sd": g.noise[e, v],
                    }
                )
    return rows


def tuned_rows(truth: Tuned, level: float) -> list[dict]:
    """A row a (recipe, domain): least loss of the target with its interval from the seeds, where it
    is, and the parabola's own least.
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


def missing_cells(grids: Sequence[Grid], frame: pd.DataFrame) -> list[dict]:
    """Every (size, arm, rate, recipe) of the grids without a mean loss, with the reason: no run, or
    domains that its runs lack.
    """
    rows = []
    for g in grids:
        mine = frame[
            (frame["role"] == g.role) & (frame["size"] == g.size) & (frame["arm"] == g.arm)
        ]
        for r, e in np.argwhere(np.isnan(g.mean()[0])):
            there = mine[(mine["recipe"] == g.recipes[r]) & (mine["learning_rate"] == g.rates[e])]
            lacking = (
                sorted(set(g.domains[1:]) - set(there["domain"])) if len(g.domains) > 1 else []
            )
            reason = (
                f"no loss on {', '.join(lacking) or 'a domain that the other runs have'}"
                if len(there)
                else "no run"
            )
            rows.append(
                {
                    "role": g.role,
                    "size": g.size,
                    "arm": g.arm,
                    "learning_rate": g.rates[e],
                    "recipe": g.recipes[r],
                    "reason": reason,
                }
            )
    return rows


def edges(truth: Tuned) -> list[str]:
    """Recipes whose tuned target sits on an edge of the learning-rate grid, on the mean domain, and
    recipes without a tuned loss.
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


def twins(grids: Sequence[Grid]) -> list[str]:
    """Pairs of recipes with the same losses in every cell that both have: one recipe under two
    names.
    """
    losses = [g.losses.reshape(len(g.recipes), -1) for g in grids]
    together = np.concatenate(losses, 1)
    out = []
    for a, b in combinations(range(len(together)), 2):
        both = np.isfinite(together[a]) & np.isfinite(together[b])
        if both.sum() and np.allclose(together[a, both], together[b, both], rtol=1e-12, atol=0):
            out.append(
                f"recipes {grids[0].recipes[a]!r} and {grids[0].recipes[b]!r} have the same loss "
                f"in all {int(both.sum())} cells they share: one recipe under two names?"
            )
    return out
