"""From any table of changed models to the study's own: columns are checked, and every row that is
left out is listed with its reason.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from stepladder.analysis.studies.overtraining.changes import ARMS, FINETUNE, QUANTISED, parse
from stepladder.analysis.tables.checks import joined, require_columns
from stepladder.analysis.tables.columns import ALIASES, numbers, usual_column
from stepladder.configs.core.errors import UserError, nearest

NEEDED = ("N", "D", "arm", "change", "strength", "base_loss", "loss")
OPTIONAL = (
    "tuned_loss",
    "draw",
    "loss_se",
    "floor_bigram",
    "floor_5gram",
    "trace_sigma",
    "trace_sigma_se",
)
_NUMBERS = tuple(n for n in (*NEEDED, *OPTIONAL) if n not in ("arm", "change"))
MODEL = ("arm", "N", "D", "seed")  # what makes a pretrained model
CELL = (*MODEL, "change", "strength", "draw")
EXCLUDED = ("run_id", "N", "D", "seed", "arm", "change", "strength", "draw", "reason")
SAME_BUDGET = 0.01  # budgets of one size that are nearer than this are one
MOST_NATS = 700.0  # e^loss must be a float64
DIFFERENT_BASE = 0.01  # nats between two base losses of one model that are worth a note


@dataclass(frozen=True)
class CheckedTable:
    """The checked table, and what was decided about it.

    Attributes:
        frame: a row a changed model: the columns of NEEDED and OPTIONAL, seed (text), family, and
            delta (nats per token), ppl_base, ppl and delta_ppl (perplexities).
        excluded: the rows that were left out, columns EXCLUDED.
    """

    frame: pd.DataFrame
    excluded: pd.DataFrame
    notes: tuple[str, ...]


def check_table(table: pd.DataFrame) -> CheckedTable:
    """Check a table of changed models.

    Args:
        table: a row a changed model. N parameters, D tokens of pretraining, seed of the
            pretraining, arm (a key of ARMS), change (changes.py), strength (gamma, bits or learning
            rate), draw of the noise; base_loss, loss and tuned_loss in nats per token: on
            validation text of the pretraining before and after the change, and on that of the task.

    Raises:
        UserError: for a missing column, an unknown arm or change, no row that is left, or one
            budget only.
    """
    frame, notes = _columns(table)
    _known(frame)
    changes = frame["change"].map({c: parse(c) for c in frame["change"].unique()})
    frame["family"] = [c.family for c in changes]
    bits = np.array([float(c.bits or np.nan) for c in changes])
    frame["strength"] = frame["strength"].where(
        frame["strength"].notna() | np.isnan(bits), pd.Series(bits, frame.index)
    )
    frame, excluded = _usable(frame, np.array([c.kind for c in changes]), bits)
    if not len(frame):
        first = excluded["reason"].iloc[0]
        raise UserError(
            f"table: no row is left of {len(excluded)}; every exclusion has its reason, e.g. "
            f"{first}"
        )
    frame, more = _one_budget(frame)
    if frame.groupby("N")["D"].nunique().max() < 2:
        raise UserError(
            f"D={frame['D'].iloc[0]:g}: one budget only, so nothing can be said of longer "
            "pretraining; add models of other numbers of tokens"
        )
    twice = frame.duplicated(list(CELL), keep="last")
    repeated = frame[twice].assign(
        reason="a second row of the same model and change: the last stands"
    )
    frame = frame[~twice].reset_index(drop=True)
    left = joined([excluded, repeated.reindex(columns=list(EXCLUDED))])
    return CheckedTable(_derived(frame), left, (*notes, *more, *_bases(frame)))


def _columns(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The table under the study's own names, with defaults; and notes on what was done."""
    found, notes = {}, []
    for name in (*NEEDED, *OPTIONAL, "seed", "run_id"):
        column = name if name in table else usual_column(table, name, {**ALIASES, "loss": ()})
        if column:
            found[name] = table[column]
            notes += [f"{name} is column {column!r}"] if column != name else []
    frame = pd.DataFrame(found, index=table.index).reset_index(drop=True)
    require_columns(frame, NEEDED)
    for name in _NUMBERS:
        frame[name] = numbers(frame[name])[0] if name in frame else np.nan
    for name, default in {"seed": "0", "run_id": ""}.items():
        frame[name] = frame[name].fillna(default) if name in frame else default
    if "seed" not in found:
        notes.append("no column of seeds: all models count as of one pretraining seed")
    frame["seed"] = [_seed(v) for v in frame["seed"]]
    for name in ("run_id", "arm", "change"):
        frame[name] = frame[name].fillna("").astype(str).str.strip()
    return frame, notes


def _seed(value: object) -> str:
    """3 and 3.0 are one seed: a column with an empty entry is read as floats."""
    return f"{value:.0f}" if isinstance(value, float) and value.is_integer() else str(value)


def _known(frame: pd.DataFrame) -> None:
    for arm in frame["arm"].unique():
        if arm not in ARMS:
            raise UserError(f"arm={arm!r}: unknown; {nearest(arm, ARMS)}")


def _usable(
    frame: pd.DataFrame, kind: np.ndarray, bits: np.ndarray
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows that can be used, and the others with the first reason that fits."""
    tuned, strength = frame["tuned_loss"], frame["strength"]
    reasons: Mapping[str, pd.Series | np.ndarray] = {
        "N is not a positive number": ~_positive(frame["N"]),
        "D is not a positive number": ~_positive(frame["D"]),
        "strength is not a positive number": ~_positive(strength),
        "strength is not the number of bits of the change": (kind == QUANTISED)
        & (strength != bits),
        "the pretrained model diverged: its base loss is infinite": np.isposinf(frame["base_loss"]),
        "base_loss is missing: there is nothing to compare with": frame["base_loss"].isna(),
        "base_loss is not a positive number": ~_positive(frame["base_loss"]),
        "diverged: the loss after the change is infinite": np.isposinf(frame["loss"]),
        "the loss is missing or not a number": frame["loss"].isna(),
        "loss is not a positive number": ~_positive(frame["loss"]),
        f"a loss above {MOST_NATS:g} nats has no perplexity in float64": (
            frame[["loss", "base_loss"]].max(axis=1) > MOST_NATS
        ),
        "diverged: the loss on the task is infinite": (kind == FINETUNE) & np.isposinf(tuned),
        "tuned_loss is not a positive number": (kind == FINETUNE)
        & tuned.notna()
        & ~_positive(tuned),
    }
    reason = pd.Series("", frame.index)
    for text, where in reasons.items():
        reason = reason.mask(np.asarray(where) & (reason == ""), text)
    bad = reason != ""
    left = frame[bad].assign(reason=reason[bad]).reindex(columns=list(EXCLUDED))
    return frame[~bad].reset_index(drop=True), left


def _positive(values: pd.Series) -> np.ndarray:
    array = values.to_numpy(float)
    return np.isfinite(array) & (array > 0)


def _one_budget(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Budgets of one size within SAME_BUDGET become one: a number of steps has been rounded."""
    notes, budget = [], frame["D"].copy()
    for n, rows in frame.groupby("N"):
        values = np.sort(rows["D"].unique())
        group = np.r_[0, np.cumsum(np.diff(np.log(values)) > np.log1p(SAME_BUDGET))]
        for g in range(group[-1] + 1):
            mine = values[group == g]
            if len(mine) > 1:
                notes.append(
                    f"N={n:g}: D {', '.join(f'{v:.6g}' for v in mine)} count as one budget, "
                    f"{mine[-1]:.6g}"
                )
                budget[rows.index[rows["D"].isin(mine)]] = mine[-1]
    return frame.assign(D=budget), notes


def _derived(frame: pd.DataFrame) -> pd.DataFrame:
    base, after = frame["base_loss"], frame["loss"]
    return frame.assign(
        delta=after - base,
        ppl_base=np.exp(base),
        ppl=np.exp(after),
        delta_ppl=np.exp(base) * np.expm1(after - base),
    )


def _bases(frame: pd.DataFrame) -> list[str]:
    """Models that have two base losses."""
    spread = frame.groupby(list(MODEL))["base_loss"].agg(np.ptp)
    far = spread[spread > DIFFERENT_BASE]
    if not len(far):
        return []
    return [
        f"{len(far)} models have base losses that differ by up to {far.max():.3g} nats between "
        "their changes (other validation text?): each change is compared with its own"
    ]
