"""From any table of evaluated models to the study's own: columns are checked, and every row that is
left out is listed with its reason.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from stepladder.analysis.tables.checks import joined, require_columns
from stepladder.analysis.tables.columns import ALIASES, numbers, usual_column
from stepladder.configs.core.errors import UserError, nearest

NEEDED = ("N", "D", "D2", "domain", "own", "loss")
OPTIONAL = ("loss_se", "oracle_loss", "K", "recall", "floor_bigram", "floor_5gram")
TEXT = {"domain": "", "own": "", "arm": "", "router": "", "seed": "0", "run_id": ""}
SHARED, UNSHARED, DENSE = "shared", "unshared", "dense"
ARMS = {
    SHARED: "all experts start from one trunk",
    UNSHARED: "every expert has a trunk of its own",
    DENSE: "one model for all domains",
}
ORACLE, PREFIX = "oracle", "prefix"
ROUTERS = {ORACLE: "the expert of the text's own domain", PREFIX: "chosen by the text's beginning"}
PHONEBOOK = "phonebook"  # domains with this in their name are of the toy
CELL = ("arm", "N", "T", "s", "own", "domain", "router", "seed")
EXCLUDED = ("run_id", "N", "D", "D2", "domain", "own", "seed", "arm", "reason")
SAME_BUDGET = 0.01  # totals of one size that are nearer than this are one
SAME_SHARE = 0.01  # split fractions nearer than this are one
FEWEST_SHARES = 3
FEWEST_ROWS = 6  # of an own domain, experts and dense models together


@dataclass(frozen=True)
class CheckedTable:
    """The checked table, and what was decided about it.

    Attributes:
        frame: a row an evaluated model and domain: the columns of NEEDED, OPTIONAL and TEXT, T (the
            total D + D2) and s (the split fraction D / T, 1 for a dense model).
        experts: of how many a split model consists (K).
        excluded: the rows that were left out, columns EXCLUDED.
    """

    frame: pd.DataFrame
    experts: float
    excluded: pd.DataFrame
    notes: tuple[str, ...]


def check_table(table: pd.DataFrame) -> CheckedTable:
    """Check a table of evaluated models.

    Args:
        table: a row an evaluated model and domain. N parameters; D general tokens and D2 tokens of
            specialisation; domain, the evaluated one; own, the expert's own domain, empty for a
            dense model; loss in nats per token; oracle_loss, in a row of the prefix router, the
            loss of the domain's own expert on the same tokens (missing: its own row's loss).

    Raises:
        UserError: for a missing column, an unknown arm or router, no row that is left, or fewer
            than three split fractions.
    """
    frame, notes = _columns(table)
    _known(frame)
    frame, excluded = _usable(frame)
    _some_left(frame, excluded)
    frame, more = _levels(frame)
    few = _too_few(frame)
    frame, small = frame[~few].reset_index(drop=True), frame[few]
    text = f"own domain with fewer than {FEWEST_ROWS} rows: too few for a curve"
    excluded = joined([excluded, small.assign(reason=text).reindex(columns=list(EXCLUDED))])
    _some_left(frame, excluded)
    twice = frame.duplicated(list(CELL), keep="last")
    repeated = frame[twice].assign(
        reason="a second row of the same model and domain: the last stands"
    )
    frame = frame[~twice].reset_index(drop=True)
    _enough_shares(frame)
    experts, said = _experts(frame)
    left = joined([excluded, repeated.reindex(columns=list(EXCLUDED))])
    return CheckedTable(frame, experts, left, (*notes, *more, *said, *_unused(frame)))


def _columns(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The table under the study's own names, with defaults; and notes on what was done."""
    found, notes = {}, []
    for name in (*NEEDED, *OPTIONAL, *TEXT):
        known = name if name in table else usual_column(table, name, {**ALIASES, "D2": ()})
        if known:
            found[name] = table[known]
            notes += [f"{name} is column {known!r}"] if known != name else []
    frame = pd.DataFrame(found, index=table.index).reset_index(drop=True)
    require_columns(frame, NEEDED)
    for name in (n for n in (*NEEDED, *OPTIONAL) if n not in TEXT):
        frame[name] = numbers(frame[name])[0] if name in frame else np.nan
    if "seed" not in found:
        notes.append("no column of seeds: all models count as of one seed")
    for name, default in TEXT.items():
        column = (
            frame[name].astype(object).fillna(default)
            if name in frame
            else pd.Series(default, frame.index)
        )
        frame[name] = [_text(v) for v in column]
    blank = frame["arm"] == ""
    frame["arm"] = frame["arm"].mask(blank & (frame["own"] == ""), DENSE).replace("", SHARED)
    frame["router"] = frame["router"].replace("", ORACLE)
    return frame, notes


def _text(value: object) -> str:
    """3 and 3.0 are one seed: a column with an empty entry is read as floats."""
    number = isinstance(value, float) and value.is_integer()
    return (f"{value:.0f}" if number else str(value)).strip()


def _known(frame: pd.DataFrame) -> None:
    for name, known in {"arm": ARMS, "router": ROUTERS}.items():
        for value in frame[name].unique():
            if value not in known:
                raise UserError(f"{name}={value!r}: unknown; {nearest(value, known)}")


def _usable(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows that can be used, and the others with the first reason that fits."""
    dense = frame["own"] == ""
    d, d2, loss = frame["D"], frame["D2"], frame["loss"]
    reasons: Mapping[str, pd.Series] = {
        "N is not a positive number": ~_at_least(frame["N"], strict=True),
        "D is negative or not a number": ~_at_least(d),
        "D2 is negative or not a number": ~_at_least(d2),
        "domain is empty": frame["domain"] == "",
        "arm dense, but with an own domain": (frame["arm"] == DENSE) & ~dense,
        "a model without own domain, but not of the arm dense": (frame["arm"] != DENSE) & dense,
        "a dense model with tokens of specialisation": dense & (d2 > 0),
        "an expert without tokens of specialisation": ~dense & (d2 == 0),
        "a model without tokens": (d == 0) & (d2 == 0),
        "diverged: the loss is infinite": pd.Series(np.isposinf(loss), frame.index),
        "the loss is missing or not a number": loss.isna(),
        "loss is not a positive number": ~_at_least(loss, strict=True),
    }
    reason = pd.Series("", frame.index)
    for text, where in reasons.items():
        reason = reason.mask(where & (reason == ""), text)
    bad = reason != ""
    left = frame[bad].assign(reason=reason[bad]).reindex(columns=list(EXCLUDED))
    return frame[~bad].reset_index(drop=True), left


def _at_least(values: pd.Series, *, strict: bool = False) -> pd.Series:
    return pd.Series(np.isfinite(values), values.index) & (
        (values > 0) if strict else (values >= 0)
    )


def _some_left(frame: pd.DataFrame, excluded: pd.DataFrame) -> None:
    if (frame["own"] != "").any():
        return
    why = f"; every exclusion has its reason, e.g. {excluded['reason'].iloc[0]}"
    raise UserError(
        f"table: no row of an expert is left (own is its domain, D2 its tokens of specialisation); "
        f"{len(excluded)} rows are left out{why if len(excluded) else ''}"
    )


def _levels(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Totals T and split fractions s; those that differ by a rounded step become one."""
    notes = []
    total = frame["D"] + frame["D2"]
    merged = total.copy()
    for n, rows in total.groupby(frame["N"]):
        log = np.log(rows.to_numpy(float))
        values, group = _groups(log, np.log1p(SAME_BUDGET))
        for g in range(group.max() + 1):
            mine = np.exp(values[group == g])
            if len(mine) > 1:
                notes.append(
                    f"N={n:g}: totals {', '.join(f'{v:.6g}' for v in mine)} count as one, "
                    f"{mine[-1]:.6g}"
                )
                near = np.isin(log, values[group == g])
                merged[rows.index[near]] = mine[-1]
    share = (frame["D"] / total).to_numpy()
    values, group = _groups(share, SAME_SHARE)
    level = {v: values[group == group[i]].mean() for i, v in enumerate(values)}
    rounded = np.array([round(float(level[v]), 3) for v in share])
    apart = np.abs(rounded - share) > 5e-4
    if apart.any():
        notes.append(
            f"{int(apart.sum())} rows have split fractions that differ from their level by a "
            f"rounded step (up to {np.abs(rounded - share).max():.2g})"
        )
    return frame.assign(T=merged, s=rounded), notes


def _groups(values: np.ndarray, gap: float) -> tuple[np.ndarray, np.ndarray]:
    """Different values, ascending, and the number of the group of each: gaps part groups."""
    different = np.unique(values)
    return different, np.r_[0, np.cumsum(np.diff(different) > gap)].astype(int)


def _too_few(frame: pd.DataFrame) -> pd.Series:
    """Rows of own domains that have too few."""
    on_own = (frame["own"] == frame["domain"]) | (frame["own"] == "")
    on_own &= frame["router"] == ORACLE
    counts = frame[on_own].groupby("domain").size()
    small = set(counts[counts < FEWEST_ROWS].index) & set(frame["own"])
    never = set(frame["own"]) - {""} - set(frame.loc[on_own, "domain"])
    return frame["own"].isin(small | never) | (
        (frame["own"] == "") & frame["domain"].isin(small | never)
    )


def _enough_shares(frame: pd.DataFrame) -> None:
    shares = sorted(frame["s"].unique())
    if len(shares) < FEWEST_SHARES:
        raise UserError(
            f"s={', '.join(f'{v:g}' for v in shares)}: {len(shares)} split fractions D / (D + D2); "
            f"a best one needs {FEWEST_SHARES} or more (a dense model counts as s = 1)"
        )


def _experts(frame: pd.DataFrame) -> tuple[float, list[str]]:
    """K, from its column or by counting."""
    given = frame["K"].dropna().unique()
    counted = float(frame.loc[frame["own"] != "", "own"].nunique())
    if len(given) > 1:
        raise UserError(
            f"K={', '.join(f'{v:g}' for v in sorted(given))}: more than one number of experts; "
            "report on each in a table of its own"
        )
    if not len(given):
        return counted, [f"no column K: a split model counts as {counted:g} experts"]
    if given[0] < 1:
        raise UserError(f"K={given[0]:g}: a split model has 1 expert or more")
    if given[0] != counted:
        return float(given[0]), [f"K = {given[0]:g}, of which {counted:g} own domains are here"]
    return float(given[0]), []


def _unused(frame: pd.DataFrame) -> list[str]:
    """Rows that no question asks about."""
    own = set(frame["own"]) - {""}
    other = (frame["own"] != "") & (frame["own"] != frame["domain"])
    dense = (frame["own"] == "") & ~frame["domain"].isin(own)
    said = []
    if other.any():
        said.append(
            f"{int(other.sum())} rows are of experts on domains that are not their own: no "
            "question of the study asks about them"
        )
    if dense.any():
        names = ", ".join(sorted(frame.loc[dense, "domain"].unique()))
        said.append(
            f"{int(dense.sum())} rows are of dense models on domains without an expert ({names})"
        )
    return said
