"""Which rows of a table become points, and why the others are left out."""

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from stepladder.analysis.tables.columns import Columns
from stepladder.configs.core.errors import UserError, nearest

_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "!=": operator.ne,
    "==": operator.eq,
    "=": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}
_FILTER = re.compile(r"\s*([^<>=!]+?)\s*(<=|>=|!=|==|=|<|>)\s*([^<>=!]+?)\s*")


@dataclass
class Rows:
    """Which rows are still in, why the others are not, and how many were left after each step."""

    index: pd.Index
    excluded: list[tuple[Any, str]]
    kept: np.ndarray
    counts: dict[str, int] = field(default_factory=dict)

    def drop(self, step: str, out: np.ndarray, reason: Callable[[int], str]) -> None:
        """Leave out the kept rows of the mask `out`; `reason` gives the text of a position."""
        gone = np.flatnonzero(out & self.kept)
        self.excluded += [(self.index[i], reason(i)) for i in map(int, gone)]
        self.kept[gone] = False
        self.counts[step] = int(self.kept.sum())

    def refuse_none(self, name: str) -> None:
        """Raises UserError when no row of the source `name` is left."""
        if not self.kept.any():
            counted = ", ".join(f"{count} {step}" for step, count in self.counts.items())
            raise UserError(
                f"where: no row of {name} is left ({counted}); loosen or remove a filter"
            )


def keep_where(data: Columns, rows: Rows, expression: str, needed: list[str]) -> None:
    """Keep the rows where `expression` holds.

    A missing entry of a column of the fit stays, to be refused as what it is.
    """
    match = _FILTER.fullmatch(expression)
    if not match:
        raise UserError(
            f"where={expression!r}: not <column><op><value> with one of {' '.join(_COMPARE)}; e.g. "
            "loss<5 or family=opt"
        )
    column, sign, wanted = match.groups()
    values, text, raw = data.any(column)
    present = np.isfinite(values) | np.isinf(values)
    for position in text:
        present[position] = True
    wanted = wanted.strip("'\"")
    try:
        value = float(wanted)
    except ValueError:
        value = None
    if value is not None and len(text) < present.sum():
        present[list(text)] = False  # text among numbers is neither above nor below
        with np.errstate(invalid="ignore"):
            passes = _COMPARE[sign](values, value)
    elif sign in ("=", "==", "!="):
        if not text:
            raise UserError(
                f"where={expression!r}: column {column!r} holds numbers and {wanted!r} is none; "
                "give a number"
            )
        entries = np.array([str(v) for v in raw], object)
        passes = _COMPARE[sign](entries, wanted).astype(bool)
        if sign != "!=" and not passes.any():
            raise UserError(
                f"where={expression!r}: no row of {data.source} has it; "
                f"{nearest(wanted, set(entries))}"
            )
    else:
        raise UserError(
            f"where={expression!r}: column {column!r} holds text or {wanted!r} is no number; "
            "compare text with = or !="
        )
    passes = np.where(present, passes, column in needed)
    rows.drop(
        f"after {expression}", ~passes, lambda i: f"where {expression}: {column} is {raw.iloc[i]}"
    )


def drop_bad_values(
    data: Columns,
    rows: Rows,
    needed: list[str],
    drop: bool,
    group: str | None,
    groups: np.ndarray | None,
) -> None:
    """Text, missing, infinite and non-positive entries: refused, or left out and listed."""
    what: dict[int, tuple[str | None, object, str]] = {}
    for name in needed:
        values, text = data.values[name], data.text[name]
        for i in map(int, np.flatnonzero(~(np.isfinite(values) & (values > 0)) & rows.kept)):
            entry = text.get(i, values[i])
            what.setdefault(i, (data.labels[name], entry, _kind(values[i], i in text)))
    if groups is not None:
        for i in np.flatnonzero(pd.isna(groups) & rows.kept):
            what.setdefault(int(i), (group, groups[i], "missing"))
    if what and not drop:
        first = min(what)
        label, value, kind = what[first]
        more = f" and {len(what) - 1} more rows with bad values" if len(what) > 1 else ""
        raise UserError(
            f"column {label!r}={short_text(value)}: {kind} (row {rows.index[first]}{more}); mend "
            "the table, or --drop-bad (drop_bad=True) leaves such rows out and lists them"
        )
    if drop:

        def reason(i: int) -> str:
            label, value, kind = what[i]
            return f"bad value: {label!r}={short_text(value)} is {kind}"

        rows.drop("after drop-bad", np.isin(np.arange(len(rows.index)), list(what)), reason)
        rows.refuse_none(data.source)


def _kind(value: float, text: bool) -> str:
    """What is wrong with an entry."""
    if text:
        return "text"
    if np.isnan(value):
        return "missing"
    return "infinite" if np.isinf(value) else "not positive"


def short_text(value: object) -> str:
    """A value for a message of one line."""
    text = repr(value) if isinstance(value, str) else " ".join(str(value).split())
    return text if len(text) <= 40 else text[:37] + "..."


def drop_duplicates(frame: pd.DataFrame, rows: Rows, duplicates: str) -> None:
    """Refuse, drop or keep rows that are equal in inputs, loss and group.

    One run listed twice would count twice and narrow every interval.
    """
    kept = frame[rows.kept]
    place = pd.Series(np.flatnonzero(rows.kept), kept.index)
    again = kept.duplicated().to_numpy()
    if duplicates == "keep" or not again.any():
        return
    first = dict(
        zip(place[again], place.groupby([kept[c] for c in kept.columns]).transform("first")[again])
    )
    if duplicates == "refuse":
        row = next(iter(first))
        values = ", ".join(
            f"{n}={v:g}" if n != "group" else f"group={v}" for n, v in frame.iloc[row].items()
        )
        raise UserError(
            f"row {rows.index[row]}: {values} is an exact duplicate of row "
            f"{rows.index[first[row]]} ({len(first)} such rows); --drop-duplicates "
            "(duplicates='drop') keeps the first of each, --keep-duplicates (duplicates='keep') all"
        )
    out = np.isin(np.arange(len(frame)), list(first))
    rows.drop("after drop-duplicates", out, lambda i: f"duplicate: of row {rows.index[first[i]]}")


def leave_out_highest(loss: np.ndarray, rows: Rows, count: int) -> None:
    """Leave out the `count` highest losses; of equal ones at the edge, the later rows."""
    if count < 0 or count != int(count):
        raise UserError(f"drop_highest={count}: not a count of rows; give 0 or more")
    if count:
        order = np.argsort(np.where(rows.kept, loss, -np.inf), kind="stable")[::-1][: int(count)]
        out = np.isin(np.arange(len(loss)), order)
        rows.drop(
            f"after drop_highest={count}",
            out,
            lambda i: f"one of the {count} highest losses: {loss[i]:.6g}",
        )
