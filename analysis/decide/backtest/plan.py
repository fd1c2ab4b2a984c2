"""What one family's back-test trains on and hides: its cells, and the weights of their rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from stepladder.analysis.decide.backtest.rules import HIDE, SETS, WEIGHTS, Rules
from stepladder.analysis.tables.checks import distinct
from stepladder.configs.core.errors import UserError, nearest

Sets = str | Sequence[Sequence[str]] | Mapping[str, Sequence[Sequence[str]]]


@dataclass(frozen=True)
class Plan:
    """The cells of one family [K], K' of which are fitted, over its points [n]."""

    family: str
    points: pd.DataFrame
    hidden: np.ndarray  # [n]
    used: np.ndarray  # [K, n]
    cells: tuple[tuple[tuple[str, ...], float], ...]
    reasons: tuple[str, ...]
    fitted: np.ndarray  # [K'], indices of the cells that are fitted
    w: np.ndarray  # [K', n], their weights
    known: np.ndarray  # [n], the borrowed term A / N^alpha, or 0


def plan_of(
    family: str, points: pd.DataFrame, sets: Sets, fractions: Sequence[float], rules: Rules
) -> Plan:
    """Plan the cells of every set and fraction.

    Raises UserError for a set that names an unknown model.
    """
    may_train, hidden = HIDE[rules.hide](points, rules)
    d, n, loss = (points[c].to_numpy(float) for c in ("D", "N", "loss"))
    usable = may_train & (d > max(rules.cut, rules.cut_share * d[may_train].max(initial=0.0)))
    groups = _groups(family, points, sets, may_train, usable, hidden)
    cells = tuple((group, float(p)) for group in groups for p in fractions)
    used = _used(points, usable, cells, rules)
    known = rules.borrow[0] / n ** rules.borrow[1] if rules.borrow else np.zeros(len(n))
    reasons = tuple(_reason(n[row], d[row], (loss - known)[row], rules) for row in used)
    report = rules.unidentified == "report"
    fitted = [i for i, why in enumerate(reasons) if used[i].any() and (report or not why)]
    code, _ = pd.factorize(points["model"])
    w = np.zeros((len(fitted), len(points)))
    for row, mine in zip(w, used[fitted]):
        models = code[mine]
        weight = WEIGHTS[rules.weights](d[mine], np.bincount(models)[models].astype(float))
        row[mine] = weight / weight.mean()
    return Plan(family, points, hidden, used, cells, reasons, np.array(fitted, int), w, known)


def _groups(
    family: str,
    points: pd.DataFrame,
    sets: Sets,
    may_train: np.ndarray,
    usable: np.ndarray,
    hidden: np.ndarray,
) -> list[tuple[str, ...]]:
    """The training models of each set.

    A hidden model whose early rows may train is in every set.
    """
    model = points["model"]
    sizes = points[usable].groupby("model", sort=False)["N"].first().sort_values(kind="stable")
    always = tuple(model[usable & model.isin(model[hidden]).to_numpy()].unique())
    if isinstance(sets, str):
        others = [(str(m), float(n)) for m, n in sizes.items() if m not in always]
        groups = _named(sets, SETS)(others)
    else:
        chosen = _named(family, sets) if isinstance(sets, Mapping) else sets
        groups = [tuple(map(str, group)) for group in chosen]
    seen = set(model[may_train])
    for name in sorted({m for group in groups for m in group} - seen):
        raise UserError(
            f"sets={name!r}: no model of family {family!r} with that name may train; "
            f"{nearest(name, seen)}"
        )
    return [tuple(dict.fromkeys((*group, *always))) for group in groups]


def _named(name: str, table: Mapping[str, Any]) -> Any:
    if name not in table:
        raise UserError(f"sets: {name!r} is not among them; {nearest(name, table)}")
    return table[name]


def _used(
    points: pd.DataFrame,
    usable: np.ndarray,
    cells: Sequence[tuple[tuple[str, ...], float]],
    rules: Rules,
) -> np.ndarray:
    """Which rows train in which cell: bool [cells, n]."""
    d = points["D"].to_numpy(float)
    code, names = pd.factorize(points["model"])
    where = {name: i for i, name in enumerate(names)}
    end = np.zeros(len(names))  # the last usable token count of each model
    np.maximum.at(end, code[usable], d[usable])
    used = np.zeros((len(cells), len(points)), bool)
    for row, (group, fraction) in zip(used, cells):
        chosen = np.zeros(len(names), bool)
        chosen[[where[name] for name in group]] = True
        longest = np.full(len(names), end[chosen].max(initial=0.0))
        limit = fraction * (end if rules.pool == "own" else longest)[code]
        row[:] = usable & chosen[code] & (d < limit if rules.strict else d <= limit)
    return used


def _reason(n: np.ndarray, d: np.ndarray, left: np.ndarray, rules: Rules) -> str:
    """Why these rows cannot identify the parameters, or nothing."""
    needs = (
        ("sizes", distinct(n), 1 if rules.borrow else 3, "E, A and alpha"),
        ("token counts", distinct(d), 3, "E, B and beta"),
        ("rows", len(d), 3 if rules.borrow else 5, "the parameters"),
    )
    if len(left) and left.min() <= 0:
        return "the borrowed A / N^alpha alone is above the loss"
    return "; ".join(
        f"{have} {what}: {which} need {least}" for what, have, least, which in needs if have < least
    )
