"""From any table of runs to the study's own: columns are found and checked, arms named, and every
row that is left out is listed.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from stepladder.analysis.tables.checks import joined
from stepladder.analysis.tables.columns import (
    PROXY_TRANSFER_ALIASES,
    first_usual_columns,
    numbers,
)
from stepladder.configs.core.errors import UserError, nearest

MEAN = "mean"  # the domain that is the plain mean over all others
MAIN = "main"  # the arm of the learning-rate grid
PROXY, TARGET = "proxy", "target"
NEEDED = ("recipe", "learning_rate", "loss")
_NUMBERS = tuple("N D learning_rate weight_decay batch_size loss loss_se loss_init steps".split())
_DEFAULTS: Mapping[str, str | int] = {
    "domain": "all",
    "seed": 0,
    "arm": MAIN,
    "state": "",
    "precision": "",
    "run_id": "",
    "role": "",
}
CELL = ("role", "size", "arm", "recipe", "learning_rate", "weight_decay", "seed", "domain")
EXCLUDED = ("run_id", "recipe", "size", "learning_rate", "seed", "domain", "arm", "reason")
# What makes a run of the main arm another arm: column -> the arm's name, from the run's row and the
# column's usual value.
_DEVIATIONS = {
    "weight_decay": lambda row, usual: f"wd{row.weight_decay:g}",
    "batch_size": lambda row, usual: (
        f"batch*{row.batch_size / usual:g}"
        if row.batch_size > usual
        else f"batch/{usual / row.batch_size:g}"
    ),
    "D": lambda row, usual: (
        f"tokens{row.D / row.N:.3g}" if np.isfinite(row.N) else f"tokens*{row.D / usual:.3g}"
    ),
    "steps": lambda row, usual: f"steps{row.steps:g}",
}


@dataclass(frozen=True)
class CheckedTable:
    """The checked table, and what was decided about it.

    Attributes:
        frame: a row a CELL with `loss` in nats per token, infinite where the run diverged.
        target: the target's size.
        excluded: the rows that were left out, columns EXCLUDED.
        diverged: the rows that diverged, same columns; they count as worst.
    """

    frame: pd.DataFrame
    target: str
    excluded: pd.DataFrame
    diverged: pd.DataFrame
    notes: tuple[str, ...]


def check_table(table: pd.DataFrame, *, target: str | None = None) -> CheckedTable:
    """Check a table of runs.

    A row whose state is "diverged" or whose loss is infinite is kept with loss infinity. Without a
    role column the largest N is the target. Runs of the main arm that differ from their size's
    usual weight decay, batch, tokens or steps become arms of their own.

    Args:
        table: columns as in PROXY_TRANSFER_ALIASES; recipe, learning_rate and loss are needed, and
            N, size or role to tell proxy from target.
        target: size of the target.

    Raises:
        UserError: when a column is missing, no row is left, or no proxy or no target is there.
    """
    frame, notes = _columns(table)
    diverged = frame["state"].eq("diverged") | np.isposinf(frame["loss"])
    frame["loss"] = frame["loss"].where(~diverged, np.inf)
    frame, excluded = _unusable(frame)
    if not len(frame):
        raise UserError(
            "table: no row is left; every exclusion has its reason, e.g. " + _first_reason(excluded)
        )
    frame["learning_rate"] = [float(f"{v:.6g}") for v in frame["learning_rate"]]
    frame = _sizes(frame)
    frame, chosen, more = _roles(frame, target)
    excluded += more
    if set(frame["domain"]) - {"all"} and (whole := frame["domain"].eq("all")).any():
        notes.append(
            f"{int(whole.sum())} rows of domain 'all' are not used: the mean is taken over the "
            f"{frame['domain'].nunique() - 1} domains"
        )
        frame = frame[~whole]
    frame, said = _arms(frame)
    notes += said
    repeated = frame.duplicated(list(CELL), keep="last")
    excluded.append(
        frame[repeated].assign(reason="a second row of the same cell; the last one stands")
    )
    frame = frame[~repeated].reset_index(drop=True)
    out = joined([frame.iloc[:0].assign(reason=""), *excluded])
    return CheckedTable(
        frame, chosen, out[list(EXCLUDED)], _listed(frame[np.isinf(frame["loss"])]), tuple(notes)
    )


def _unusable(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[pd.DataFrame]]:
    """The rows without a loss, learning rate or recipe, taken out; each has the first reason that
    holds.
    """
    loss, rate = (frame[name].to_numpy(float) for name in ("loss", "learning_rate"))
    wrong = {
        "the loss is missing or not a number": ~(np.isfinite(loss) | np.isposinf(loss)),
        "the learning rate is missing or not positive": ~(np.isfinite(rate) & (rate > 0)),
        "the recipe has no name": frame["recipe"].isin(["", "nan", "None"]).to_numpy(),
    }
    reason = np.select(list(wrong.values()), list(wrong), default="")
    return frame[reason == ""], [frame[reason == text].assign(reason=text) for text in wrong]


def _columns(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The table under the study's own column names, with defaults; and notes on what was done."""
    columns = first_usual_columns(table, PROXY_TRANSFER_ALIASES)
    notes = [f"{name} is column {str(c)!r}" for name, c in columns.items() if str(c) != name]
    found = {name: table[column] for name, column in columns.items()}
    for name in NEEDED:
        if name not in found:
            raise UserError(
                f"columns={', '.join(map(str, table.columns))}: no column of {name}; "
                f"{nearest(name, map(str, table.columns))}, rename it"
            )
    frame = pd.DataFrame(found).reset_index(drop=True)
    for name in _NUMBERS:
        frame[name] = numbers(frame[name])[0] if name in frame else np.nan
    for name, default in _DEFAULTS.items():
        if name in frame:
            frame[name] = frame[name].fillna(default)
        else:
            frame[name] = default
    frame["arm"] = frame["arm"].replace("", MAIN)
    for name in ("recipe", "domain", "arm", "state", "role", "seed"):
        frame[name] = frame[name].astype(str)
    if MEAN in set(frame["domain"]) and frame["domain"].nunique() > 1:
        notes.append(
            f"the table's own domain {MEAN!r} is left out: the mean is computed from the domains"
        )
        frame = frame[frame["domain"] != MEAN].reset_index(drop=True)
    return frame, notes


def _sizes(frame: pd.DataFrame) -> pd.DataFrame:
    """Every size has one name and one N: a size without a name is called after its N, and a name
    with two N becomes two sizes, called after both.
    """
    if "size" not in frame:
        if frame["N"].isna().any():
            raise UserError(
                "columns: neither size nor N says which model a row is of; add a column size or N"
            )
        return frame.assign(size=[f"{n:.4g}" for n in frame["N"]])
    frame = frame.assign(size=frame["size"].astype(str))
    several = frame.groupby("size")["N"].nunique()
    twice = frame["size"].isin(several[several > 1].index)
    return frame.assign(
        size=np.where(
            twice, [f"{s} (N={n:.4g})" for s, n in zip(frame["size"], frame["N"])], frame["size"]
        )
    )


def _roles(frame: pd.DataFrame, target: str | None) -> tuple[pd.DataFrame, str, list[pd.DataFrame]]:
    """Rows as proxy or target, the target's size, and the rows of other roles and other targets."""
    if target is not None and target not in set(frame["size"]):
        raise UserError(f"target={target!r}: no such size; {nearest(target, set(frame['size']))}")
    if not frame["role"].isin([PROXY, TARGET]).any():
        if frame["N"].isna().any() and target is None:
            raise UserError(
                "columns: neither role nor N says which size is the target; add a column role "
                "(proxy, target) or N"
            )
        largest = frame["size"].iloc[int(frame["N"].argmax())] if target is None else target
        frame = frame.assign(role=np.where(frame["size"] == largest, TARGET, PROXY))
    out = [
        frame[~frame["role"].isin([PROXY, TARGET])].assign(
            reason="its role is neither proxy nor target"
        )
    ]
    frame = frame[frame["role"].isin([PROXY, TARGET])]
    sizes = frame[frame["role"] == TARGET].groupby("size")["N"].max().fillna(0)
    if not len(sizes) or frame["role"].eq(PROXY).sum() == 0:
        raise UserError(
            f"role={', '.join(sorted(set(frame['role'])))}: the study needs runs of a target and "
            "of at least one smaller proxy; add them"
        )
    chosen = str(target if target is not None else sizes.idxmax())
    if chosen not in sizes.index:
        there = nearest(chosen, map(str, sizes.index))
        raise UserError(f"target={chosen}: no run of it has the role target; {there}")
    other = (frame["role"] == TARGET) & (frame["size"] != chosen)
    out.append(
        frame[other].assign(reason=f"another target than {chosen}, which the study is about")
    )
    return frame[~other], chosen, out


def _arms(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Main runs that differ from the usual setting of their size are arms of their own."""
    notes, arm = [], frame["arm"].copy()
    for (_, size), rows in frame[frame["arm"] == MAIN].groupby(["role", "size"], sort=True):
        for column, named in _DEVIATIONS.items():
            rows = rows[arm[rows.index] == MAIN]
            values = rows[column].dropna()
            if values.nunique() < 2:
                continue
            usual = values.round(12).mode().iloc[-1]
            away = rows[(np.abs(rows[column] - usual) > 0.01 * abs(usual)) & rows[column].notna()]
            arm[away.index] = [named(row, usual) for row in away.itertuples()]
            if len(away):
                notes.append(
                    f"{size}: {column} {usual:g} is the main arm; others became the arms "
                    f"{', '.join(sorted(set(arm[away.index])))}"
                )
    return frame.assign(arm=arm), notes


def _listed(rows: pd.DataFrame) -> pd.DataFrame:
    """Diverged rows, with what becomes of them."""
    return rows.assign(reason="diverged: counts as worse than every finite loss")[
        list(EXCLUDED)
    ].reset_index(drop=True)


def _first_reason(excluded: list[pd.DataFrame]) -> str:
    return next((t["reason"].iloc[0] for t in excluded if len(t)), "none")
