"""Split models against dense ones and against each other, at one size and total.

"Early" is a split before half of the budget and "split" any split, both after some general
training (0 < s < 1); they are the fraction that is best on average over the other sizes and totals,
so that no cell is chosen by its own noise. "Late" is the fraction nearest to 0.8: the usual short
finetune at the end. "From scratch" is s = 0.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from stepladder.analysis.decide.split import ACCOUNTINGS
from stepladder.analysis.studies.split.measures import Row
from stepladder.analysis.studies.split.measures.cells import (
    Cells,
    Curve,
    Sample,
    cells_of,
    on_own,
)
from stepladder.analysis.studies.split.read_table import (
    DENSE,
    ORACLE,
    PREFIX,
    SHARED,
    UNSHARED,
)
from stepladder.analysis.tables.numbers import human

HALF, LATE = 0.5, (0.7, 1.0)  # early is below HALF, late lies inside LATE
USUAL = 0.8
EARLY_LATE, SPLIT_DENSE = "early - late", "split - dense, equal tokens"
SPLIT_SCRATCH = "split - from scratch"
SCRATCH_DENSE, LATE_DENSE = "from scratch - dense, equal tokens", "late - dense, equal tokens"
EQUAL_SHARED = "split - dense, equal FLOPs, shared seed"
EQUAL_SEPARATE = "split - dense, equal FLOPs, separate seeds"
NO_FIRST, NO_LATE = "no such split fraction", "no split fraction from 0.7 to below 1"
NO_SCRATCH = "no expert from scratch"
NO_DENSE = "no dense model of that size"
OUTSIDE = "the tokens lie outside of those of its dense models, and nothing is extrapolated"
_LEAST = 3  # values for an interval of their mean


def comparison_rows(cells: Cells, sample: Sample) -> tuple[list[Row], list[Row], list[str]]:
    """A row a comparison, size and total; a row a comparison; and what was not possible.

    A difference below 0: the first is better. `wins` is the share of sizes and totals where it is.
    """
    draws = sample.draws(cells)
    known = bool(np.isfinite(cells.se).all())
    rows: list[Row] = []
    drawn: dict[str, list[np.ndarray]] = {}
    missing: list[str] = []
    curves = cells.curves()
    for name, (first, second) in _COMPARISONS.items():
        reasons: dict[str, list[str]] = {}
        for curve in curves:
            one = first(curve, curves, cells)
            two = NO_FIRST if one is None else second(curve, one, cells)
            if one is None or isinstance(two, str):
                where = f"N {human(curve.N)} T {human(curve.T)}"
                reasons.setdefault(str(two), []).append(where)
                continue
            place, weights, tokens = two
            value = cells.loss[one] - cells.loss[place] @ weights
            redrawn = draws[:, one] - draws[:, place] @ weights
            row: Row = {"comparison": name, **curve.key, "s": float(cells.frame["s"][one])}
            row |= {"dense_tokens": tokens}
            row |= sample.estimate(value, redrawn, known=known).row("difference")
            rows.append(row)
            drawn.setdefault(name, []).append(redrawn)
        missing += [
            f"{name}: {reason}, at {'every size and total' if name not in drawn else ', '.join(at)}"
            for reason, at in reasons.items()
        ]
    means = [_mean(name, rows, drawn[name], sample, known) for name in drawn]
    return rows, means, missing


def _mean(
    name: str, rows: Sequence[Row], drawn: Sequence[np.ndarray], sample: Sample, known: bool
) -> Row:
    values = np.array([r["difference"] for r in rows if r["comparison"] == name])
    table = np.stack(drawn, 1)
    row: Row = {"comparison": name, "curves": len(values)}
    row |= sample.estimate(values.mean(), table.mean(1), known=known).row("difference")
    wins = sample.estimate((values < 0).mean(), (table < 0).mean(1), known=known)
    return row | wins.row("wins")


# First of a comparison: (curve, all curves, cells) -> its cell, or None.
First = Callable[[Curve, Sequence[Curve], Cells], int | None]
# Second: (curve, first cell, cells) -> cells, their weights, tokens of a dense model; or why not.
Mixed = tuple[np.ndarray, np.ndarray, float]
Second = Callable[[Curve, int, Cells], Mixed | str]


def chosen_elsewhere(low: float, high: float) -> First:
    """The fraction inside (low, high) of the least loss, on average over the other curves.

    Losses count relative to the mean of their curve over these fractions; a curve alone chooses
    for itself.
    """

    def choose(curve: Curve, curves: Sequence[Curve], cells: Cells) -> int | None:
        mine = curve.s[(curve.s > low) & (curve.s < high)]
        if not len(mine):
            return None
        others = [c for c in curves if c is not curve and np.isin(mine, c.s).all()] or [curve]
        table = np.array([[cells.loss[_cell(c, s)] for s in mine] for c in others])
        best = float(mine[(table - table.mean(1, keepdims=True)).mean(0).argmin()])
        return _cell(curve, best)

    return choose


def _late(curve: Curve, curves: Sequence[Curve], cells: Cells) -> int | None:
    mine = curve.s[(curve.s >= LATE[0]) & (curve.s < LATE[1])]
    return _cell(curve, float(mine[np.abs(mine - USUAL).argmin()])) if len(mine) else None


def _scratch(curve: Curve, curves: Sequence[Curve], cells: Cells) -> int | None:
    return _cell(curve, 0.0) if (curve.s == 0).any() else None


def _cell(curve: Curve, share: float) -> int:
    return int(curve.at[int(np.abs(curve.s - share).argmin())])


def _against_late(curve: Curve, one: int, cells: Cells) -> Mixed | str:
    late = _late(curve, (), cells)
    return NO_LATE if late is None else (np.array([late]), np.ones(1), math.nan)


def _against_scratch(curve: Curve, one: int, cells: Cells) -> Mixed | str:
    scratch = _scratch(curve, (), cells)
    return NO_SCRATCH if scratch is None else (np.array([scratch]), np.ones(1), math.nan)


def _equal_tokens(curve: Curve, one: int, cells: Cells) -> Mixed | str:
    return _dense_at(curve.N, curve.T, cells)


def _equal_flops(accounting: str) -> Second:
    """The dense model of the compute of all K experts."""

    def second(curve: Curve, one: int, cells: Cells) -> Mixed | str:
        counted, k = ACCOUNTINGS[accounting], cells.experts
        d, d2 = (float(cells.frame[name][one]) for name in ("D", "D2"))
        tokens = counted.general(k) * d + counted.special(k) * d2
        return _dense_at(curve.N, tokens, cells)

    return second


def _dense_at(n: float, tokens: float, cells: Cells) -> Mixed | str:
    """Cells and weights of the dense loss at a number of tokens: on a line in ln tokens.

    Outside of the dense runs of that size: why not.
    """
    mine = cells.frame[(cells.frame["N"] == n) & (cells.frame["s"] == 1)].sort_values("T")
    if not len(mine):
        return NO_DENSE
    have = mine["T"].to_numpy(float)
    same = np.isclose(have, tokens, rtol=0.01)
    place = mine.index.to_numpy()
    if same.any():
        return place[same][:1], np.ones(1), tokens
    if not have[0] < tokens < have[-1]:
        return OUTSIDE
    k = int(np.searchsorted(have, tokens))
    part = math.log(tokens / have[k - 1]) / math.log(have[k] / have[k - 1])
    return place[k - 1 : k + 1], np.array([1 - part, part]), tokens


_COMPARISONS: dict[str, tuple[First, Second]] = {
    EARLY_LATE: (chosen_elsewhere(0.0, HALF), _against_late),
    SPLIT_DENSE: (chosen_elsewhere(0.0, 1.0), _equal_tokens),
    SPLIT_SCRATCH: (chosen_elsewhere(0.0, 1.0), _against_scratch),
    LATE_DENSE: (_late, _equal_tokens),
    SCRATCH_DENSE: (_scratch, _equal_tokens),
    EQUAL_SHARED: (chosen_elsewhere(0.0, 1.0), _equal_flops("shared seed")),
    EQUAL_SEPARATE: (chosen_elsewhere(0.0, 1.0), _equal_flops("separate seeds")),
}


def arm_rows(frame: pd.DataFrame, experts: float, sample: Sample) -> list[Row]:
    """A row a size and total with both arms: unshared minus shared trunks, over common splits."""
    by_arm = {arm: cells_of(frame, experts, arm) for arm in (SHARED, UNSHARED)}
    keys = ["N", "T", "s"]
    inside = [c.frame[(c.frame["s"] > 0) & (c.frame["s"] < 1)] for c in by_arm.values()]
    both = inside[0].merge(inside[1], on=keys, suffixes=("_shared", "_unshared"))
    rows: list[Row] = []
    for _, mine in both.groupby(["N", "T"]):
        values = (mine["loss_unshared"] - mine["loss_shared"]).to_numpy(float)
        row: Row = {name: float(mine[name].iloc[0]) for name in ("N", "T")}
        row["splits"] = len(values)
        rows.append(row | sample.mean_over(values, _LEAST).row("difference"))
    return rows


def router_rows(frame: pd.DataFrame, arm: str, sample: Sample) -> list[Row]:
    """A row a size: prefix router minus oracle on the same expert domain, split, total and seed."""
    keys = ["N", "T", "s", "domain", "seed"]
    routed = {}
    for router in (ORACLE, PREFIX):
        mine = on_own(frame, arm, router)
        mine = mine[mine["arm"] != DENSE].drop_duplicates(keys)
        routed[router] = mine[[*keys, "loss", "oracle_loss"]]
    both = routed[PREFIX].merge(
        routed[ORACLE], on=keys, how="left", suffixes=("_prefix", "_oracle")
    )
    # a router's tokens are those after its prefix; the same ones count for the oracle where known
    oracle = both["oracle_loss_prefix"].fillna(both["loss_oracle"])
    both = both.assign(loss_oracle=oracle)[oracle.notna()]
    rows: list[Row] = []
    for _, mine in both.groupby("N"):
        values = (mine["loss_prefix"] - mine["loss_oracle"]).to_numpy(float)
        row: Row = {"N": float(mine["N"].iloc[0]), "pairs": len(values)}
        rows.append(row | sample.mean_over(values, _LEAST).row("difference"))
    return rows
