"""The choices of a back-test, each explicit.

They say what is hidden, which models train, which of their rows, and with which weights.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from stepladder.analysis.fit.objective import OBJECTIVES
from stepladder.analysis.tables.checks import positive_values, require_columns
from stepladder.configs.core.errors import UserError, nearest

COLUMNS = ("model", "N", "D", "loss")


@dataclass(frozen=True)
class Rules:
    """Every choice that moves a back-test's number.

    The defaults are the authors', except that no early part is cut (their cut is 1e10).
    """

    hide: str = "target_end"  # a key of HIDE
    # hidden rows are those with tokens >= this share of the hidden run's last
    test_from: float = 0.7
    # hide="own_end": the target's rows with tokens < this share of its last are seen
    known: float = 0.3
    cut: float = 0.0  # tokens; training rows with tokens <= cut are dropped, hidden rows never
    # the same, with tokens <= this share of the longest training run: needs no idea of a family's
    # scale
    cut_share: float = 0.0
    # training rows with tokens < p T; False: tokens <= p T (strict and p = 1 drop the rows at T)
    strict: bool = True
    # T is the last token count over the "selected" models together, or of each model on its "own"
    pool: str = "selected"
    weights: str = "rows"  # a key of WEIGHTS
    objective: str = "squared"  # a key of objective.OBJECTIVES
    delta: float = 1e-3  # Huber's threshold in log loss
    # (A, alpha) of another family, in the units of N and the loss; fits E, B and beta only
    borrow: tuple[float, float] | None = None
    fitter: str = "batched"  # a key of FITTERS
    # "report": fit cells that cannot identify the parameters too, and say why they cannot
    unidentified: str = "refuse"


DEFAULT = Rules()
REFERENCE = Rules(cut=1e10, fitter="reference", unidentified="report")  # what arXiv 2410.11840 does
# What `choose` chooses from: objective, weights of the models and early cut, the first where
# nothing can be judged. Chosen inside the training models they beat the authors' fit on the public
# families that identify the law: benchmarks/colpret_methods.py.
CANDIDATES = tuple(
    Rules(objective=objective, weights=weights, cut_share=share)
    for objective in ("squared", "squared_log", "huber_log")
    for weights in ("rows", "models", "tokens", "tokens_models")
    for share in (0.03, 0.0, 0.01, 0.1, 0.2, 0.3, 0.5)
)


# --- what is hidden: (points, rules) -> (rows that may train, hidden rows), two masks


def _target_end(points: pd.DataFrame, rules: Rules) -> tuple[np.ndarray, np.ndarray]:
    largest = (points["N"] == points["N"].max()).to_numpy()
    return ~largest, _end(points, largest, rules)


def _longest(points: pd.DataFrame, rules: Rules) -> tuple[np.ndarray, np.ndarray]:
    last = points.groupby("model")["D"].transform("max")
    longest = (last >= 0.999 * last.max()).to_numpy()
    return ~longest, _end(points, longest, rules)


def _own_end(points: pd.DataFrame, rules: Rules) -> tuple[np.ndarray, np.ndarray]:
    largest = (points["N"] == points["N"].max()).to_numpy()
    early = (points["D"] < rules.known * points["D"][largest].max()).to_numpy()
    return ~largest | early, _end(points, largest, rules)


def _end(points: pd.DataFrame, hidden: np.ndarray, rules: Rules) -> np.ndarray:
    return hidden & (points["D"] >= rules.test_from * points["D"][hidden].max()).to_numpy()


HIDE: dict[str, Callable[[pd.DataFrame, Rules], tuple[np.ndarray, np.ndarray]]] = {
    "target_end": _target_end,  # the largest size is unseen; forecast its last 30 %
    "longest": _longest,  # the runs with the most tokens are unseen; forecast their last 30 %
    # the beginning of the target is seen too, in every cell; forecast its last 30 %
    "own_end": _own_end,
}

# --- which models train: (model, N) from the smallest to the largest -> sets of models


Models = Sequence[tuple[str, float]]


def _windows(width: int) -> Callable[[Models], list[tuple[str, ...]]]:
    def choose(models: Models) -> list[tuple[str, ...]]:
        sizes = sorted({n for _, n in models})
        return [
            tuple(m for m, n in models if n in sizes[i : i + width])
            for i in range(len(sizes) - width + 1)
        ]

    return choose


SETS: dict[str, Callable[[Models], list[tuple[str, ...]]]] = {
    "all": lambda models: [tuple(m for m, _ in models)],
    "smallest": lambda models: [tuple(m for m, _ in models[:k]) for k in range(2, len(models) + 1)],
    "window3": _windows(3),
    "window4": _windows(4),
    "one": lambda models: [(m,) for m, _ in models],
}

# --- weight of a training row: (tokens, number of training rows of its model) -> weight; scaled to
# mean 1 in every cell

WEIGHTS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "rows": lambda d, count: np.ones_like(d),
    "models": lambda d, count: 1 / count,
    "tokens": lambda d, count: d,
    "tokens_models": lambda d, count: d / count,
}


def check(points: pd.DataFrame, rules: Rules) -> None:
    """Check points and rules.

    Raises UserError for an unknown key, hidden rows that would be seen, a missing column or a bad
    value.
    """
    tables = {
        "hide": HIDE,
        "weights": WEIGHTS,
        "objective": OBJECTIVES,
        "fitter": ("batched", "reference"),
        "pool": ("selected", "own"),
        "unidentified": ("refuse", "report"),
    }
    for field, table in tables.items():
        if (value := getattr(rules, field)) not in table:
            raise UserError(f"{field}={value!r}: unknown; {nearest(value, table)}")
    if not 0 < rules.known <= rules.test_from <= 1:
        raise UserError(
            f"known={rules.known}, test_from={rules.test_from}: need 0 < known <= test_from <= 1, "
            "or hidden rows would be seen"
        )
    if rules.fitter == "reference" and (rules.objective, rules.weights) != ("squared", "rows"):
        raise UserError(
            f"fitter='reference': fits 'squared' and 'rows', not {rules.objective!r} and "
            f"{rules.weights!r}; use 'batched'"
        )
    if rules.borrow and rules.objective != "squared":
        raise UserError(
            f"objective={rules.objective!r}: borrowed parameters are subtracted in loss units; use "
            "objective='squared'"
        )
    require_columns(points, COLUMNS)
    for column in ("model", *(["family"] if "family" in points else [])):
        if (missing := points[column].isna()).any():
            raise UserError(
                f"column {column!r}: no name in row {missing.idxmax()}; name it, or remove the row"
            )
    positive_values(points, ("N", "D", "loss"))
