"""What the table lacks: cells without a loss, and recipes that are one under two names."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from stepladder.analysis.studies.proxy_transfer.measures import Row
from stepladder.analysis.studies.proxy_transfer.measures.grid import Grid


def missing_cells(grids: Sequence[Grid], frame: pd.DataFrame) -> list[Row]:
    """Every (size, arm, rate, recipe) of the grids without a mean loss, and why: there is no run,
    or its runs lack a domain.
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


def duplicate_recipes(grids: Sequence[Grid]) -> list[str]:
    """A warning for each pair of recipes with the same loss in every cell that both have."""
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
