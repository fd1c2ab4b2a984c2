"""Any table of runs to clean points for a fit.

Whatever is left out is listed, and whatever looks wrong is refused by name.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stepladder.analysis.records.arithmetic import COLUMN, refuse_mixed
from stepladder.analysis.records.final_points import final_points
from stepladder.analysis.records.load import COUNTS, load
from stepladder.analysis.tables.checks import joined
from stepladder.analysis.tables.columns import ALIASES, Columns
from stepladder.analysis.tables.file import extension, read_file, refuse_empty
from stepladder.analysis.tables.rows import (
    Rows,
    drop_bad_values,
    drop_duplicates,
    keep_where,
    leave_out_highest,
    short_text,
)
from stepladder.analysis.tables.suspicious import refuse_constant, unit_notes
from stepladder.configs.core.errors import UserError, nearest

DUPLICATES = ("refuse", "drop", "keep")


@dataclass(frozen=True)
class Points:
    """Clean points.

    frame: a row a point, indexed by its row in the source (from 0, the header not counted; a
    DataFrame's own index; a workdir's run id): the inputs, "loss" and, when asked for, "group".
    excluded: row, reason. counts: rows left after each step, in order.
    """

    source: str
    frame: pd.DataFrame
    excluded: pd.DataFrame
    notes: tuple[str, ...]
    counts: Mapping[str, int]

    def to_frame(self) -> pd.DataFrame:
        """A copy of `frame`."""
        return self.frame.copy()

    def __str__(self) -> str:
        numeric = [name for name in self.frame.columns if name != "group"]
        ranges = [
            (
                f"{n} {self.frame[n].min():.4g} to {self.frame[n].max():.4g} "
                f"({self.frame[n].nunique()} different)"
            )
            for n in numeric
        ]
        lines = [f"{len(self.frame)} points from {self.source}: {', '.join(ranges)}"]
        if "group" in self.frame:
            groups = [f"{g} ({c})" for g, c in self.frame["group"].value_counts().items()]
            more = f" and {len(groups) - 10} more" if len(groups) > 10 else ""
            lines.append(f"  {len(groups)} groups: {', '.join(groups[:10])}{more}")
        lines.append(
            "  rows: " + ", ".join(f"{count} {step}" for step, count in self.counts.items())
        )
        why = self.excluded["reason"].astype(str).str.split(": ").str[0]
        for reason, rows in self.excluded.groupby(why, sort=False)["row"]:
            more = (
                f" and {len(rows) - 10} more (all of them in .excluded)" if len(rows) > 10 else ""
            )
            lines.append(
                f"  left out, {reason}: {'row' if len(rows) == 1 else 'rows'} "
                f"{', '.join(map(str, rows[:10]))}{more}"
            )
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])


def read_points(
    source: str | Path | pd.DataFrame,
    inputs: Iterable[str] = ("N", "D"),
    output: str = "loss",
    *,
    columns: Mapping[str, str] | None = None,
    group: str | None = None,
    derive: Mapping[str, str] | None = None,
    where: Iterable[str] = (),
    drop_highest: int = 0,
    units: Mapping[str, str | float] | None = None,
    drop_bad: bool = False,
    duplicates: str = "refuse",
    units_checked: bool = False,
    domain: str = "all",
    mixed_arithmetic: bool = False,
) -> Points:
    """Read the points of a law from anyone's table.

    Args:
        source: a CSV, TSV, JSON or JSON-lines file (each also .gz), a Parquet file, a DataFrame, or
            a workdir, whose decayed points are taken.
        inputs: names of the law's inputs. Columns are found by their usual names (`ALIASES`), and
            missing ones of N, D, C from the other two by C = 6 N D.
        output: name of its output.
        columns: names -> the source's columns, e.g. {"N": "Model Size"}; of a workdir {"N":
            "params_non_embedding"}.
        group: a column of families, one fit each.
        derive: new columns -> expressions, e.g. {"D": "batch * steps"}.
        where: filters such as "loss<5" or "family=opt".
        drop_highest: how many of the highest losses to leave out (5 in arXiv 2404.10102).
        units: a column's factor, or a name of `UNITS`.
        drop_bad: leave out bad values, and list them.
        duplicates: "refuse", "drop" or "keep" exact duplicates.
        units_checked: accept a column that seems to be written in two units.
        domain: of a workdir's evaluations.
        mixed_arithmetic: accept runs of several arithmetics (column `arithmetic`) as one fit.

    Raises:
        UserError: for whatever is missing, misspelt, or looks wrong and is not allowed above.
    """
    inputs, where = _tuple(inputs), tuple(text.strip() for text in _tuple(where))
    _check_names(inputs, output, duplicates)
    mapping = {k: str(v) for k, v in (columns or {}).items()}
    table, name, rows = _open(source, mapping, domain)
    data = Columns(table, name, mapping, dict(units or {}))
    needed = _needed(data, inputs, output, dict(derive or {}), where)
    groups = None if group is None else data.any(group)[2].to_numpy(object)
    for expression in where:
        keep_where(data, rows, expression, needed)
    _refuse_unused("units", data.units, set(data.values), ())
    rows.refuse_none(name)
    drop_bad_values(data, rows, needed, drop_bad, group, groups)
    named = {**{n: n for n in inputs}, "loss": output}
    frame = pd.DataFrame({k: data.values[n] for k, n in named.items()}, index=rows.index)
    if groups is not None:
        frame["group"] = [str(g) for g in groups]
    drop_duplicates(frame, rows, duplicates)
    leave_out_highest(frame["loss"].to_numpy(), rows, drop_highest)
    rows.refuse_none(name)
    if not mixed_arithmetic and group != COLUMN:
        refuse_mixed(table[rows.kept])
    labels = {k: data.labels[n] for k, n in named.items()}
    return _points(frame[rows.kept], rows, data, labels, output, units_checked)


def _points(
    frame: pd.DataFrame,
    rows: Rows,
    data: Columns,
    labels: Mapping[str, str],
    output: str,
    units_checked: bool,
) -> Points:
    """The points left, once they look right."""
    frame = frame.rename_axis("row")
    refuse_constant(frame, labels)
    notes = data.notes if output == "loss" else [*data.notes, f"loss is {output!r}"]
    return Points(
        source=data.source,
        frame=frame,
        excluded=pd.DataFrame(rows.excluded, columns=["row", "reason"]),
        notes=(*notes, *([] if units_checked else unit_notes(frame, labels))),
        counts=rows.counts,
    )


def _check_names(inputs: tuple[str, ...], output: str, duplicates: str) -> None:
    if duplicates not in DUPLICATES:
        raise UserError(f"duplicates={duplicates!r}: unknown; use one of {', '.join(DUPLICATES)}")
    if not inputs or len({*inputs, output}) <= len(inputs):
        raise UserError(
            f"inputs={','.join(inputs)}: not different names beside the output {output!r}; give "
            "e.g. N,D"
        )


def _needed(
    data: Columns,
    inputs: tuple[str, ...],
    output: str,
    derive: Mapping[str, str],
    where: tuple[str, ...],
) -> list[str]:
    """The columns of the fit and those they are derived from, all of them read."""
    known = {*inputs, output, *ALIASES}
    _refuse_unused("columns", data.mapping, known, (*where, *derive.values()))
    for new, expression in derive.items():
        data.derive(new, expression)
    needed = [*inputs, output]
    for wanted in tuple(needed):
        needed += [n for n in data.need(wanted) if n not in needed]
    _refuse_shared(data, needed)
    return needed


def _tuple(value: str | Iterable[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _refuse_unused(
    option: str, given: Mapping[str, Any], known: set[str], texts: Iterable[str]
) -> None:
    """A misspelt key would do nothing, and say nothing."""
    for key, value in given.items():
        if key not in known and not any(
            re.search(rf"\b{re.escape(key)}\b", text) for text in texts
        ):
            raise UserError(
                f"{option}={key}={value}: nothing here is called {key!r}; {nearest(key, known)}"
            )


def _refuse_shared(data: Columns, needed: list[str]) -> None:
    """Raises UserError for one column under two names.

    It is a slip of the mapping, and a column would fit itself perfectly.
    """
    read = [name for name in needed if name not in data.derived]
    for i, name in enumerate(read):
        for other in read[:i]:
            if data.labels[name] == data.labels[other]:
                raise UserError(
                    f"columns={other}={data.labels[name]}: also read as {name}; name another "
                    "column for one of them"
                )


def _open(source: object, mapping: dict[str, str], domain: str) -> tuple[pd.DataFrame, str, Rows]:
    """The raw table, its name, and the rows to begin with."""
    excluded: list[tuple[Any, str]] = []
    if not isinstance(source, (str, Path, pd.DataFrame)):
        raise UserError(
            f"source={short_text(source)}: of type {type(source).__name__}, not a table; give a "
            "file, a workdir or a pandas DataFrame"
        )
    if isinstance(source, pd.DataFrame):
        table = source if source.index.is_unique else source.reset_index(drop=True)
        name = "the DataFrame"
    elif not extension(source) and (Path(source).is_dir() or "://" in str(source)):
        name = str(source)
        table = _workdir(name, mapping, domain, excluded)
    else:
        table, name = read_file(source), str(source)
    refuse_empty(table, name)
    kept = np.ones(len(table), bool)
    return table, name, Rows(table.index, excluded, kept, {"read": len(table)})


def _workdir(
    workdir: str, mapping: dict[str, str], domain: str, excluded: list[tuple[Any, str]]
) -> pd.DataFrame:
    """The decayed points of a workdir by run id; what is left out goes to `excluded`.

    N names the count of parameters in `mapping`, and is taken out of it.
    """
    n = mapping.pop("N") if mapping.get("N") in COUNTS else COUNTS[0]
    try:
        runs = load(workdir, n=n)
    except ImportError as error:  # the client of a bucket
        raise UserError(
            f"source={workdir!r}: {str(error).splitlines()[0]}; install it, or copy the workdir "
            "here"
        ) from None
    used, left = final_points(runs, domain=domain)
    for r in joined([runs.excluded, left]).to_dict("records"):
        at = "" if pd.isna(r["step"]) else f"@{r['step']:g}"
        of = f" {r['domain']}" if r["domain"] else ""
        excluded.append((f"{r['run_id']}{at}{of}", str(r["reason"])))
    if not len(used):
        first = f", first {excluded[0][0]}: {excluded[0][1]}" if excluded else ""
        raise UserError(
            f"source={workdir!r}: no rows: no decayed evaluation of a finished run on domain "
            f"{domain!r}, {len(excluded)} exclusions{first}; finish runs, see `stepladder status`"
        )
    return used.set_index("run_id", drop=False).rename_axis(None)
