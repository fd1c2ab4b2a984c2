"""Final losses with their learning rates, from a workdir or from anyone's table.

Diverged runs are data here, and what is left out is listed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stepladder.analysis.records.final_points import final_points
from stepladder.analysis.records.load import EXCLUDED, Runs, load
from stepladder.analysis.tables.checks import joined
from stepladder.analysis.tables.columns import (
    LEARNING_RATE_ALIASES,
    Columns,
    numbers,
    usual_column,
)
from stepladder.analysis.tables.file import extension, read_file
from stepladder.analysis.tables.numbers import human
from stepladder.configs.core import record
from stepladder.configs.core.errors import UserError

# What two runs must share to lie on one curve, where the source has it; they differ in the rate and
# the seeds alone.
SETTINGS = tuple(
    (
        "N D recipe parametrization study arm width depth schedule weight_decay batch_size "
        "warmup_steps arithmetic"
    ).split()
)
_TEXT = tuple(
    "recipe parametrization study arm schedule size state run_id seed domain arithmetic".split()
)
_NUMBERS = tuple(
    (
        "width depth weight_decay batch_size warmup_steps loss_se initial_loss vocab_size seq_len "
        "step"
    ).split()
)
_TRUE, _FALSE = {"true", "1", "1.0", "yes"}, {"false", "0", "0.0", "no", "", "nan", "none"}


@dataclass(frozen=True)
class RatePoints:
    """A row a run.

    frame: run_id, learning_rate, loss (nats per token; NaN where diverged), diverged, size, and
    those of SETTINGS, loss_se, seed, initial_loss (nats per token), vocab_size and seq_len that the
    source has. excluded: run_id, step, domain, reason.
    """

    source: str
    frame: pd.DataFrame
    excluded: pd.DataFrame
    notes: tuple[str, ...]

    @property
    def settings(self) -> list[str]:
        """The columns of SETTINGS that are there."""
        return [name for name in SETTINGS if name in self.frame]

    def groups(self) -> list[pd.DataFrame]:
        """Runs that differ in the rate and the seeds alone, smallest N first."""
        return [rows for _, rows in self.frame.groupby(self.settings, sort=True, dropna=False)]


def rate_points(
    source: Runs | RatePoints | pd.DataFrame | str | Path,
    *,
    columns: Mapping[str, str] | None = None,
) -> RatePoints:
    """Final losses with their learning rates.

    A table needs N, D, learning_rate and loss, by these or usual names. A run is diverged when its
    state says so, a column `diverged` does, or its loss is infinite.

    Args:
        source: a workdir or its records, a table (CSV, TSV, JSON, JSON lines, Parquet) or a
            DataFrame.
        columns: names -> columns of the table, e.g. {"loss": "val loss"}.

    Raises:
        UserError: when nothing can be read.
    """
    if isinstance(source, RatePoints):
        return source
    if (
        isinstance(source, (str, Path))
        and not extension(source)
        and (Path(source).is_dir() or "://" in str(source))
    ):
        source = load(source)
    return _of_runs(source) if isinstance(source, Runs) else _of_table(source, dict(columns or {}))


def why(rows: pd.DataFrame, reason: str) -> pd.DataFrame:
    """`rows` as exclusions for one reason."""
    known = {"step": np.nan, "domain": ""}
    return rows.assign(reason=reason, **{k: v for k, v in known.items() if k not in rows})[
        list(EXCLUDED)
    ]


def _of_runs(runs: Runs) -> RatePoints:
    points, excluded = final_points(runs, roles={"target": "the target"})
    table = runs.runs.set_index("run_id")
    done = points[["run_id", "step", "domain", "D", "loss", "loss_se"]].assign(diverged=False)
    lost = runs.runs[(runs.runs["state"] == record.DIVERGED) & (runs.runs["role"] != "target")]
    lost = lost[["run_id", "step", "D"]].assign(
        domain="all", loss=np.nan, loss_se=np.nan, diverged=True
    )
    frame = joined([done, lost])
    more = [
        n
        for n in (*SETTINGS, "size", "learning_rate", "seed", "vocab_size", "seq_len", "parent")
        if n not in ("D",) and n in table
    ]
    frame = frame.assign(**{name: table[name].reindex(frame["run_id"]).to_numpy() for name in more})
    first = runs.points[(runs.points["step"] == 0) & (runs.points["domain"] == "all")].set_index(
        "run_id"
    )["loss"]
    frame["initial_loss"] = frame["run_id"].map(first).astype(float)
    branch = frame["parent"].notna()
    excluded = joined(
        [excluded, why(frame[branch], "a cooldown branch: its rate was tuned for the trunk")]
    )
    # Evaluations of diverged runs before they diverged are listed as left out, while the run itself
    # is in: it lost.
    excluded = excluded.assign(
        reason=excluded["reason"].replace(
            "run diverged", "before the run diverged: the run counts as diverged"
        )
    )
    for name in set(_TEXT) & set(frame):
        frame[name] = frame[name].fillna("").astype(str)
    return RatePoints(
        runs.workdir, frame[~branch].drop(columns="parent").reset_index(drop=True), excluded, ()
    )


def _of_table(source: pd.DataFrame | str | Path, mapping: dict[str, str]) -> RatePoints:
    name = (
        str(source.attrs.get("source", "the DataFrame"))
        if isinstance(source, pd.DataFrame)
        else str(source)
    )
    table = read_file(source).reset_index(drop=True)
    known = {"N", "D", "C", "loss", "learning_rate", "diverged", *_TEXT, *_NUMBERS}
    for wanted in mapping:
        if wanted not in known:
            raise UserError(
                f"columns={wanted}={mapping[wanted]}: nothing here is called {wanted!r}; known: "
                f"{', '.join(sorted(known))}"
            )
    for wanted in sorted((known & LEARNING_RATE_ALIASES.keys()) - {*mapping, *table.columns}):
        if column := usual_column(table, wanted, LEARNING_RATE_ALIASES):
            mapping[wanted] = column
    data = Columns(table, name, mapping)
    for wanted in ("N", "D", "learning_rate", "loss"):
        data.need(wanted)
    frame = pd.DataFrame({n: data.values[n] for n in ("N", "D", "learning_rate", "loss")})
    for wanted in (*_NUMBERS, *_TEXT):
        if wanted in mapping or wanted in table:
            column = data.any(wanted)[2]
            frame[wanted] = (
                numbers(column)[0]
                if wanted in _NUMBERS
                else column.map(lambda v: "" if pd.isna(v) else str(v))
            )
    if "run_id" not in frame:
        frame["run_id"] = [f"row {i}" for i in table.index]
    if "size" not in frame:
        frame["size"] = [human(n) if np.isfinite(n) else "" for n in frame["N"]]
    frame["diverged"] = _diverged(frame, mapping.get("diverged", "diverged"), table)
    reasons = _bad(frame, {n: data.text[n] for n in ("N", "D", "learning_rate", "loss")})
    excluded = (
        joined([why(frame.loc[[i]], text) for i, text in reasons.items()])
        if reasons
        else pd.DataFrame(columns=list(EXCLUDED))
    )
    kept = frame.drop(index=list(reasons)).reset_index(drop=True)
    if not len(kept):
        raise UserError(
            f"source={name}: no row is left, {len(excluded)} excluded, first: "
            f"{excluded['reason'].iloc[0]}; mend the table"
        )
    return RatePoints(
        name, kept.assign(loss=kept["loss"].where(~kept["diverged"])), excluded, tuple(data.notes)
    )


def _diverged(frame: pd.DataFrame, column: str, table: pd.DataFrame) -> np.ndarray:
    lost = np.isinf(frame["loss"].to_numpy())
    if "state" in frame:
        lost |= (frame["state"] == record.DIVERGED).to_numpy()
    if column in table:
        said = table[column].astype(str).str.strip().str.lower()
        for i in np.flatnonzero(~said.isin(_TRUE | _FALSE)):
            raise UserError(
                f"column {column!r}={table[column].iloc[i]!r}: neither true nor false (row {i}); "
                "write true or false"
            )
        lost |= said.isin(_TRUE).to_numpy()
    return lost


def _bad(frame: pd.DataFrame, text: Mapping[str, dict[int, Any]]) -> dict[int, str]:
    """Row -> why it cannot be used.

    A loss that is missing is not taken for a divergence: nobody said so.
    """
    reasons: dict[int, str] = {}
    for name in ("N", "D", "learning_rate"):
        values = frame[name].to_numpy()
        for i in np.flatnonzero(~(np.isfinite(values) & (values > 0))):
            reasons.setdefault(
                int(i), f"{name} is {text[name].get(int(i), values[i])}: not a positive number"
            )
    for i in np.flatnonzero(~frame["diverged"] & ~(frame["loss"] > 0)):
        what = text["loss"].get(int(i), frame["loss"].iloc[i])
        hint = ""
        if isinstance(what, float) and not np.isfinite(what):
            hint = "; of a run that diverged say so in a column `diverged` or `state`"
        reasons.setdefault(int(i), f"loss is {what}: not a positive number{hint}")
    if "state" in frame:
        for i in np.flatnonzero(~frame["state"].isin(["", record.DONE, record.DIVERGED])):
            reasons.setdefault(int(i), f"state is {frame['state'].iloc[i]}")
    # One run listed twice would count twice and narrow every interval; without a name its settings
    # and loss tell it.
    same = [c for c in frame if c != "run_id" or not frame["run_id"].str.startswith("row ").all()]
    for i in np.flatnonzero(frame[same].duplicated() & ~frame["diverged"]):
        reasons.setdefault(int(i), "an exact duplicate of an earlier row")
    return reasons
