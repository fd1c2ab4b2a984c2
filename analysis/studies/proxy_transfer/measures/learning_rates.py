"""The learning rates of a proxy that the claims compare: the standard one, its reductions, and the
tiny one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stepladder.analysis.studies.proxy_transfer.measures.grid import Grid, same_rate
from stepladder.configs.core.errors import UserError

REDUCTIONS = (3, 10, 30)  # the standard rate is divided by these


@dataclass(frozen=True)
class ProxyRates:
    """The rates of one proxy, all of them in its grid.

    Attributes:
        standard: NaN when there is none; `note` then says why, and else where it comes from.
        reduced: divisor -> nearest rate of the grid, None when none is within a factor of 2.
        tiny: the rate that the claims compare with the standard one.
    """

    size: str
    standard: float
    note: str
    reduced: Mapping[int, float | None]
    tiny: float | None

    def named(self) -> dict[str, float | None]:
        """Name in results.json -> rate, of the standard one and its reductions."""
        standard = self.standard if math.isfinite(self.standard) else None
        return {"eta_std": standard} | {f"eta_std/{k}": r for k, r in self.reduced.items()}


def choose_rates(
    grid: Grid,
    eta_std: float | Mapping[str, float] | None,
    eta_tiny: float | None,
    arms: Sequence[float] = (),
) -> ProxyRates:
    """The standard and the tiny rate of a proxy.

    They are the given ones; else the highest and the lowest rate that the size's `arms` were run
    at (A6 is run at both); else that of `standard_rate` and a thirtieth of it, where claim (c)
    wants rho above 0.9.

    Args:
        grid: the proxy's main arm.
        eta_std: for all sizes, or size -> rate.
        eta_tiny: for all sizes.
        arms: the rates of the size's other arms.
    """
    if isinstance(eta_std, Mapping):
        eta_std = eta_std.get(grid.size)
    said = "given"
    if eta_std is None and len(set(arms)) > 1:
        eta_std, said = max(arms), "the highest rate of the arms"
        eta_tiny = min(arms) if eta_tiny is None else eta_tiny
    standard, note = (float(eta_std), said) if eta_std is not None else standard_rate(grid)
    near = nearest_rate(grid, standard)
    if eta_std is not None and near is None:
        raise UserError(
            f"eta_std={eta_std:g}: no learning rate of {grid.size} within a factor of 2; its grid "
            f"has {', '.join(f'{rate:g}' for rate in grid.rates)}"
        )
    if eta_std is not None and near is not None and not same_rate(near, standard):
        note, standard = f"{said}, {eta_std:g}; the grid's nearest", near
    reduced = {k: nearest_rate(grid, standard / k) for k in REDUCTIONS}
    tiny = nearest_rate(grid, eta_tiny) if eta_tiny is not None else reduced[REDUCTIONS[-1]]
    return ProxyRates(grid.size, standard, note, reduced, tiny if tiny != standard else None)


def standard_rate(grid: Grid) -> tuple[float, str]:
    """The rate with the least loss on the mean domain, averaged over the recipes (our choice), and
    a note.

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
    notes = []
    if not whole.all():
        notes.append(f"{int(whole.sum())} of {len(whole)} recipes have every rate")
    if best in (0, len(average) - 1):
        notes.append(f"it is the {'lowest' if best == 0 else 'highest'} rate of the grid")
    return grid.rates[best], "; ".join(notes)


def nearest_rate(grid: Grid, wanted: float) -> float | None:
    """The grid's rate nearest to `wanted` in logs; None when it is off by more than a factor of 2
    or `wanted` is not finite.
    """
    if not np.isfinite(wanted):
        return None
    best = min(grid.rates, key=lambda r: abs(np.log(r / wanted)))
    return best if abs(np.log(best / wanted)) <= np.log(2) + 1e-9 else None
