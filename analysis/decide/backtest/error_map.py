"""Maps of forecast error over which sizes train and for how much of their training.

Also the cheapest cell below a wanted error.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from stepladder.analysis.decide.backtest.backtest import backtest
from stepladder.analysis.decide.backtest.rules import DEFAULT, Rules
from stepladder.analysis.tables.numbers import human
from stepladder.configs.core.errors import UserError

# arXiv 2410.11840: from about the best one gets to what still separates many choices
LEVELS = 0.04, 0.10, 0.20
TENTHS = tuple(round(0.1 * i, 1) for i in range(1, 11))

# What a row of the map is called: (models of the cell, its smallest and largest N) -> label.
_LABELS: dict[str, Callable[[tuple[str, ...], float, float], str]] = {
    "smallest": lambda models, low, high: f"{len(models)} smallest",
    "window3": lambda models, low, high: f"{human(low)} to {human(high)}",
    "window4": lambda models, low, high: f"{human(low)} to {human(high)}",
}


@dataclass(frozen=True)
class ErrorMap:
    """The map of one family: are (average relative error) and flops [rows, fractions].

    The error is NaN where a cell is refused. `cells` has a row a cell, `cheapest` one a level.
    """

    family: str
    target: str
    rows: tuple[str, ...]
    fractions: tuple[float, ...]
    are: np.ndarray
    flops: np.ndarray
    cells: pd.DataFrame
    cheapest: pd.DataFrame


def error_map(
    points: pd.DataFrame,
    *,
    sets: str = "smallest",
    fractions: Sequence[float] = TENTHS,
    rules: Rules = DEFAULT,
) -> ErrorMap:
    """Back-test every (set of sizes, fraction) of one family, all in one batched fit.

    The error is the paper's average relative error (ARE, arXiv 2410.11840), as a fraction; flops
    sum 6 N * last token over the models.

    Args:
        points: as of `backtest`, one family.
        sets: "smallest" (the k smallest models), "window3" or "window4" (consecutive sizes).
        fractions: of the training that is used.
        rules: as of `backtest`.

    Raises:
        UserError: for another `sets`, or two families.
    """
    if sets not in _LABELS:
        raise UserError(f"sets={sets!r}: a map needs ordered sets; use one of {', '.join(_LABELS)}")
    if "family" in points and points["family"].nunique() != 1:
        raise UserError(
            f"family: {points['family'].nunique()} families; a map is of one, as errors of "
            "different losses are not comparable"
        )
    cells = backtest(points, sets=sets, fractions=fractions, rules=rules).table()
    if not len(cells):
        raise UserError(
            f"sets={sets!r}: the family has too few sizes for it; train more sizes or use "
            "'smallest'"
        )
    size = points.groupby("model", observed=True)["N"].first()
    names = {
        m: _LABELS[sets](m, min(size[list(m)]), max(size[list(m)]))
        for m in dict.fromkeys(cells["models"])
    }
    shape = (len(names), len(fractions))
    return ErrorMap(
        family=cells["family"].iloc[0],
        target=cells["target"].iloc[0],
        rows=tuple(names.values()),
        fractions=tuple(fractions),
        are=cells["are"].to_numpy().reshape(shape),
        flops=cells["flops"].to_numpy().reshape(shape),
        cells=cells,
        cheapest=cheapest(cells),
    )


def cheapest(cells: pd.DataFrame, levels: Sequence[float] = LEVELS) -> pd.DataFrame:
    """The cheapest identified cell below each level of error: one row a level.

    It is NaN where no cell is below the level.

    It is picked with the answer known, so `steady` says how much luck is in it: the share of the
    cells that cost as much or more and are below the level too. `share` is its cost over that of
    the dearest cell.
    """
    rows = []
    for level in levels:
        good = cells[cells["identified"] & (cells["are"] < level)]
        if not len(good):
            rows.append({"level": level})
            continue
        best = good.iloc[int(np.argmin(good["flops"].to_numpy()))]
        dearer = cells[
            cells["identified"] & cells["are"].notna() & (cells["flops"] >= best["flops"])
        ]
        rows.append(
            {
                "level": level,
                "num_models": best["num_models"],
                "largest": best["largest"],
                "fraction": best["fraction"],
                "are": best["are"],
                "flops": best["flops"],
                "share": best["flops"] / cells["flops"].max(),
                "steady": (dearer["are"] < level).mean(),
            }
        )
    return pd.DataFrame(
        rows,
        columns=["level", "num_models", "largest", "fraction", "are", "flops", "share", "steady"],
    )
