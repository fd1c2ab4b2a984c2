"""The columns of the page's tables: each has a heading, and what stands in it."""

from collections.abc import Callable

from stepladder.analysis.report.page_parts import HUMAN, Cell, Column
from stepladder.analysis.studies.split.measures.best_split import ALL
from stepladder.analysis.studies.split.text import Results, bracketed
from stepladder.analysis.tables.numbers import human

Head = tuple[str | Column, Callable[[Results], Cell]]


def _value(heading: str | Column, key: str) -> Head:
    return heading, lambda r: r.get(key)


def _spanned(heading: str, key: str, form: str = ".3g") -> Head:
    return Column(heading, ""), lambda r: bracketed(r, key, form)


def _fractions(heading: str, key: str) -> Head:
    return heading, lambda r: ", ".join(f"{v:g}" for v in r[key])


def _tokens(row: Results, key: str) -> str:
    return "" if row[key] is None else human(row[key])


_KEY = (_value(Column("N", HUMAN), "N"), _value(Column("T", HUMAN), "T"))
_LAW = _value("law", "law")
_FIT: Head = ("fitted to", lambda r: "all" if r["fit"] == ALL else f"all but the {r['fit']}")

OBSERVED: tuple[Head, ...] = (
    *_KEY,
    _value(Column("T / N", ".3g"), "T_per_N"),
    _spanned("best split", "s"),
    _fractions("within one standard error", "near"),
    _spanned("loss there", "loss", ".4f"),
    ("", lambda r: "at the edge of the fractions" if r["edge"] else ""),
)
REGRETS: tuple[Head, ...] = (
    _LAW,
    _FIT,
    _value(Column("sizes and totals", "d"), "curves"),
    _spanned("mean regret, nats", "regret"),
    _value(Column("largest, nats", ".3g"), "largest"),
    (Column("within one s.e. of the best", ""), lambda r: f"{r['right']} of {r['curves']}"),
)
PREDICTED: tuple[Head, ...] = (
    _LAW,
    _FIT,
    *_KEY,
    _spanned("best split", "s"),
    _value("", "state"),
    _value(Column("choice", "g"), "choice"),
    _spanned("regret, nats", "regret"),
)
CELLS: tuple[Head, ...] = (
    *_KEY,
    _value(Column("s", "g"), "s"),
    _value(Column("D", HUMAN), "D"),
    _value(Column("D2", HUMAN), "D2"),
    _value(Column("seeds", "d"), "seeds"),
    _spanned("loss", "loss", ".4f"),
    ("by domain", lambda r: ", ".join(f"{k} {v:.4f}" for k, v in r["by_domain"].items())),
    _value(Column("s.e. of the windows", ".2g"), "windows_se"),
)
HELD_OUT: tuple[Head, ...] = (
    _value("hidden", "held_out"),
    _value(Column("place", "d"), "rank"),
    _LAW,
    _value(Column("cells", "d"), "cells"),
    _spanned("error, nats", "rmse"),
    _spanned("relative error", "mre"),
    _spanned("Huber of logs", "huber"),
    _spanned("above the best law", "above_best"),
    _spanned("above the nearest cell", "above_nearest"),
    _value(Column("first", ".0%"), "first"),
    _value(Column("own cells", "d"), "own_cells"),
    _spanned("own error, nats", "own_rmse"),
)
LAW_FITS: tuple[Head, ...] = (
    _LAW,
    _value("of", "of"),
    _value(Column("cells", "d"), "cells"),
    _value(Column("parameters", "d"), "parameters"),
    _spanned("R^2", "r2", ".4f"),
    _spanned("relative error", "mre"),
    _spanned("Huber of logs", "huber"),
    _spanned("error, nats", "rmse"),
)
PARAMS: tuple[Head, ...] = (
    _LAW,
    _value("parameter", "parameter"),
    _spanned("value", "value", ".4g"),
)
ALLOCATION: tuple[Head, ...] = (
    _LAW,
    _value("accounting", "accounting"),
    *_KEY,
    (Column("C, FLOPs", ""), lambda r: f"{r['C']:.3g}"),
    (Column("D", ""), lambda r: _tokens(r, "D")),
    (Column("D2", ""), lambda r: _tokens(r, "D2")),
    _spanned("s = D / (D + D2)", "s"),
    _value(Column("loss", ".4f"), "loss"),
    _value("", "state"),
    ("", lambda r: "" if r["within"] or r["D"] is None else "outside of the trained tokens"),
)
CLOSED: tuple[Head, ...] = (
    _value("accounting", "accounting"),
    _value(Column("D / D2, numerical", ".7g"), "numerical"),
    _value(Column("closed form", ".7g"), "closed_form"),
    _value(Column("relative difference", ".1e"), "relative_difference"),
)
MEANS: tuple[Head, ...] = (
    _value("comparison", "comparison"),
    _value(Column("sizes and totals", "d"), "curves"),
    _spanned("mean difference, nats", "difference"),
    _spanned("share where the first is better", "wins", ".2g"),
)
COMPARISONS: tuple[Head, ...] = (
    _value("comparison", "comparison"),
    *_KEY,
    _value(Column("s of the first", "g"), "s"),
    (Column("dense tokens", ""), lambda r: _tokens(r, "dense_tokens")),
    _spanned("difference, nats", "difference"),
)
ARMS: tuple[Head, ...] = (
    *_KEY,
    _value(Column("splits", "d"), "splits"),
    _spanned("difference, nats", "difference"),
)
ROUTERS: tuple[Head, ...] = (
    _value(Column("N", HUMAN), "N"),
    _value(Column("pairs", "d"), "pairs"),
    _spanned("difference, nats", "difference"),
)
PHONEBOOK: tuple[Head, ...] = (
    *_KEY,
    _value("by", "of"),
    _spanned("best split", "s"),
    _fractions("within one standard error", "near"),
    _value(Column("there", ".3g"), "best"),
    _value(Column("seeds and books", "d"), "pairs"),
)
