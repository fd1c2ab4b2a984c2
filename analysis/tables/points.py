"""Any table of runs to clean points for a fit: whatever is left out is listed, and whatever looks
wrong is refused by name.
"""

import operator
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from stepladder.analysis.records.final_points import final_points
from stepladder.analysis.records.load import COUNTS, load
from stepladder.analysis.tables.columns import ALIASES, Columns
from stepladder.analysis.tables.file import extension, read_file, refuse_empty
from stepladder.configs.core.errors import UserError, nearest

DUPLICATES = ("refuse", "drop", "keep")
# A column with values on both sides of (low, high) was probably written in two units: 70 and 7e9
# are not both numbers of parameters.
_TWO_UNITS = {"N": (1e3, 1e6), "D": (1e3, 1e6), "C": (1e6, 1e12)}
# losses in two units: two clusters this factor apart, each with this share of the rows and two of
# them at least
_GAP, _SIDE = 2.0, 0.05
_LN_VOCABULARY = 12.5  # nats a token of a uniform guess over 270,000 tokens
_COMPARE = {
    "<=": operator.le,
    ">=": operator.ge,
    "!=": operator.ne,
    "==": operator.eq,
    "=": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}
_FILTER = re.compile(r"\s*([^<>=!]+?)\s*(<=|>=|!=|==|=|<|>)\s*([^<>=!]+?)\s*")


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
        why = (
            self.excluded["reason"].str.split(": ").str[0]
            if len(self.excluded)
            else self.excluded["reason"]
        )
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
) -> Points:
    """Read a CSV, TSV, JSON or JSON-lines file (each also .gz), a Parquet file, a DataFrame, or the
    decayed points of a workdir.

    `columns` maps names to the source's columns, e.g. {"N": "Model Size"} (of a workdir {"N":
    "params_non_embedding"}); unmapped names are found by `ALIASES`, and missing ones of N, D, C
    from the other two by C = 6 N D. `units` gives a column's factor or a name of `UNITS`. `derive`
    maps new columns to expressions, e.g. {"D": "batch * steps"}; `where` holds filters such as
    "loss<5" or "family=opt"; `drop_highest` then leaves out so many of the highest losses, over all
    groups (arXiv 2404.10102 drops 5). Bad values, exact duplicates and columns in two units are
    refused unless `drop_bad`, `duplicates` ("drop", "keep"), `units_checked` say otherwise. Raises
    UserError.
    """
    inputs, where = _tuple(inputs), _tuple(where)
    if duplicates not in DUPLICATES:
        raise UserError(f"duplicates={duplicates!r}: unknown; use one of {', '.join(DUPLICATES)}")
    if not inputs or len({*inputs, output}) <= len(inputs):
        raise UserError(
            f"inputs={','.join(inputs)}: not different names beside the output {output!r}; give "
            "e.g. N,D"
        )
    where = tuple(expression.strip() for expression in where)
    mapping = {k: str(v) for k, v in (columns or {}).items()}
    derive = dict(derive or {})
    units = dict(units or {})
    table, name, rows = _open(source, mapping, domain)
    data = Columns(table, name, mapping, units)
    _refuse_unused("columns", mapping, {*inputs, output, *ALIASES}, (*where, *derive.values()))
    for new, expression in derive.items():
        data.derive(new, expression)
    needed = [*inputs, output]
    for wanted in tuple(needed):
        needed += [n for n in data.need(wanted) if n not in needed]
    _refuse_shared(data, needed)
    groups = None if group is None else data.any(group)[2].to_numpy(object)
    for expression in where:
        _filter(data, rows, expression, needed)
    _refuse_unused("units", units, set(data.values), ())
    rows.refuse_none(name)
    _bad_values(data, rows, needed, drop_bad, group, groups)
    frame = pd.DataFrame(
        {n: data.values[n] for n in inputs} | {"loss": data.values[output]}, index=rows.index
    )
    if groups is not None:
        frame["group"] = [str(g) for g in groups]
    _duplicates(frame, rows, duplicates)
    _highest(frame["loss"].to_numpy(), rows, drop_highest)
    rows.refuse_none(name)
    frame = frame[rows.kept].rename_axis("row")
    labels = {n: data.labels[n] for n in inputs} | {"loss": data.labels[output]}
    _refuse_constant(frame, labels)
    notes = data.notes if output == "loss" else [*data.notes, f"loss is {output!r}"]
    notes += [] if units_checked else _suspicious(frame, labels)
    return Points(
        name,
        frame,
        pd.DataFrame(rows.excluded, columns=["row", "reason"]),
        tuple(notes),
        rows.counts,
    )


@dataclass
class _Rows:
    """Which rows are still in, why the others are not, and how many were left after each step."""

    index: pd.Index
    excluded: list[tuple]
    kept: np.ndarray
    counts: dict[str, int] = field(default_factory=dict)

    def drop(self, step: str, out: np.ndarray, reason) -> None:
        """Leave out the kept rows of the mask `out`; `reason` gives the text of a position."""
        gone = np.flatnonzero(out & self.kept)
        self.excluded += [(self.index[i], reason(i)) for i in gone]
        self.kept[gone] = False
        self.counts[step] = int(self.kept.sum())

    def refuse_none(self, name: str) -> None:
        if not self.kept.any():
            counted = ", ".join(f"{count} {step}" for step, count in self.counts.items())
            raise UserError(
                f"where: no row of {name} is left ({counted}); loosen or remove a filter"
            )


def _tuple(value: str | Iterable[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _refuse_unused(option: str, given: Mapping, known: set[str], texts: Iterable[str]) -> None:
    """A misspelt key would do nothing, and say nothing."""
    for key, value in given.items():
        if key not in known and not any(
            re.search(rf"\b{re.escape(key)}\b", text) for text in texts
        ):
            raise UserError(
                f"{option}={key}={value}: nothing here is called {key!r}; {nearest(key, known)}"
            )


def _refuse_shared(data: Columns, needed: list[str]) -> None:
    """One column under two names is a slip of the mapping: the fit of a column by itself is
    perfect.
    """
    read = [name for name in needed if name not in data.derived]
    for i, name in enumerate(read):
        for other in read[:i]:
            if data.labels[name] == data.labels[other]:
                raise UserError(
                    f"columns={other}={data.labels[name]}: also read as {name}; name another "
                    "column for one of them"
                )


def _open(
    source: str | Path | pd.DataFrame, mapping: dict[str, str], domain: str
) -> tuple[pd.DataFrame, str, _Rows]:
    """The raw table, its name, and the rows to begin with.

    Of a workdir the mapping's parameter count is used up here.
    """
    excluded: list[tuple] = []
    if not isinstance(source, (str, Path, pd.DataFrame)):
        raise UserError(
            f"source={_short(source)}: of type {type(source).__name__}, not a table; give a file, "
            "a workdir or a pandas DataFrame"
        )
    if isinstance(source, pd.DataFrame):
        table = source if source.index.is_unique else source.reset_index(drop=True)
        name = "the DataFrame"
    elif not extension(source) and (Path(source).is_dir() or "://" in str(source)):
        try:
            runs = load(source, n=mapping.pop("N") if mapping.get("N") in COUNTS else COUNTS[0])
        except ImportError as error:  # the client of a bucket
            raise UserError(
                f"source={str(source)!r}: {str(error).splitlines()[0]}; install it, or copy the "
                "workdir here"
            ) from None
        used, left = final_points(runs, domain=domain)
        table, name = used.set_index("run_id", drop=False).rename_axis(None), str(source)
        for part in (runs.excluded, left):
            for r in part.itertuples():
                at = "" if pd.isna(r.step) else f"@{r.step:g}"
                excluded.append(
                    (f"{r.run_id}{at}" + (f" {r.domain}" if r.domain else ""), r.reason)
                )
        if not len(table):
            raise UserError(
                (
                    f"source={name!r}: no rows: no decayed evaluation of a finished run on domain "
                    f"{domain!r}, {len(excluded)} exclusions"
                )
                + (f", first {excluded[0][0]}: {excluded[0][1]}" if excluded else "")
                + "; finish runs, see `stepladder status`"
            )
    else:
        table, name = read_file(source), str(source)
    refuse_empty(table, name)
    return (
        table,
        name,
        _Rows(table.index, excluded, np.ones(len(table), bool), {"read": len(table)}),
    )


def _filter(data: Columns, rows: _Rows, expression: str, needed: list[str]) -> None:
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


def _bad_values(
    data: Columns,
    rows: _Rows,
    needed: list[str],
    drop: bool,
    group: str | None,
    groups: np.ndarray | None,
) -> None:
    """Text, missing, infinite and non-positive entries: refused, or left out and listed."""
    what: dict[int, tuple[str, object, str]] = {}
    for name in needed:
        values, text = data.values[name], data.text[name]
        for i in np.flatnonzero(~(np.isfinite(values) & (values > 0)) & rows.kept):
            kind = (
                "text"
                if i in text
                else "missing"
                if np.isnan(values[i])
                else "infinite"
                if np.isinf(values[i])
                else "not positive"
            )
            what.setdefault(int(i), (data.labels[name], text.get(int(i), values[i]), kind))
    if groups is not None:
        for i in np.flatnonzero(pd.isna(groups) & rows.kept):
            what.setdefault(int(i), (group, groups[i], "missing"))
    if what and not drop:
        first = min(what)
        label, value, kind = what[first]
        more = f" and {len(what) - 1} more rows with bad values" if len(what) > 1 else ""
        raise UserError(
            f"column {label!r}={_short(value)}: {kind} (row {rows.index[first]}{more}); mend the "
            "table, or --drop-bad (drop_bad=True) leaves such rows out and lists them"
        )
    if drop:

        def reason(i: int) -> str:
            label, value, kind = what[i]
            return f"bad value: {label!r}={_short(value)} is {kind}"

        rows.drop("after drop-bad", np.isin(np.arange(len(rows.index)), list(what)), reason)
        rows.refuse_none(data.source)


def _short(value: object) -> str:
    text = repr(value) if isinstance(value, str) else " ".join(str(value).split())
    return text if len(text) <= 40 else text[:37] + "..."


def _duplicates(frame: pd.DataFrame, rows: _Rows, how: str) -> None:
    """Rows equal in inputs, loss and group: one run listed twice would count twice and narrow every
    interval.
    """
    kept = frame[rows.kept]
    place = pd.Series(np.flatnonzero(rows.kept), kept.index)
    again = kept.duplicated().to_numpy()
    if how == "keep" or not again.any():
        return
    first = dict(
        zip(place[again], place.groupby([kept[c] for c in kept.columns]).transform("first")[again])
    )
    if how == "refuse":
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


def _highest(loss: np.ndarray, rows: _Rows, count: int) -> None:
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


def _refuse_constant(frame: pd.DataFrame, labels: Mapping[str, str]) -> None:
    for name, label in labels.items():
        # Equal up to one part in a million, as in `fit`: D of runs that differ by the rounding of a
        # step is one D.
        if np.ptp(np.log(frame[name])) < 1e-6:
            what = "one size only" if name == "N" else "constant"
            fix = (
                "check that this is the column of losses"
                if name == "loss"
                else f"add runs with other {name}, or leave it out of inputs"
            )
            raise UserError(
                f"column {label!r}={frame[name].iloc[0]:g}: {what} in all {len(frame)} rows left; "
                f"{fix}"
            )


def _suspicious(frame: pd.DataFrame, labels: Mapping[str, str]) -> list[str]:
    """Refuses a column that seems to mix two units; gives a note on one that seems to be in another
    unit throughout.
    """
    notes = []
    override = "or --units-checked (units_checked=True) if they are right"
    for name, (low, high) in _TWO_UNITS.items():
        values = frame.get(name, pd.Series([], dtype=float))
        small, large = values[values < low], values[values > high]
        if len(small) and len(large):
            raise UserError(
                f"column {labels[name]!r}={small.iloc[0]:g} (row {small.index[0]}) and "
                f"{large.iloc[0]:g} (row {large.index[0]}): looks like two units ({len(small)} "
                f"rows below {low:g}, {len(large)} above {high:g}); write all of them in one, "
                f"{override}"
            )
        if len(values) and len(small) == len(values):
            notes.append(
                f"every {name} is below {low:g}: in millions or billions? then say units "
                f"{name}=billions"
            )
    # Families may each have their own unit; within one it is a mistake.
    for _, loss in (
        frame.groupby("group", sort=False)["loss"] if "group" in frame else [("", frame["loss"])]
    ):
        _refuse_two_scales(loss.sort_values(), labels["loss"], override)
    if frame["loss"].min() > _LN_VOCABULARY:
        notes.append(
            f"every loss is above {_LN_VOCABULARY} nats: perplexities? then say units "
            "loss=perplexity"
        )
    return notes


def _refuse_two_scales(loss: pd.Series, label: str, override: str) -> None:
    """`loss` is sorted: two clusters a wide gap apart, neither of them a few outliers."""
    ratio = loss.to_numpy()[1:] / loss.to_numpy()[:-1]
    cut = int(np.argmax(ratio)) + 1 if len(ratio) else 0
    if cut and ratio[cut - 1] >= _GAP and min(cut, len(loss) - cut) >= max(2, _SIDE * len(loss)):
        below, above = loss.iloc[cut - 1], loss.iloc[cut]
        raise UserError(
            f"column {label!r}={below:g} (row {loss.index[cut - 1]}) and {above:g} (row "
            f"{loss.index[cut]}): looks like two units, e.g. nats and perplexity ({cut} rows up to "
            f"{below:g}, {len(loss) - cut} from {above:g}); convert one kind, keep one by a filter "
            f"such as loss<{np.sqrt(below * above):.3g}, {override}"
        )
