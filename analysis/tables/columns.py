"""Which column of anyone's table is which, and its numbers.

A column is found by the caller's mapping or by a usual name, or derived from other columns.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from stepladder.configs.core.errors import UserError, nearest

# Names taken without being told, compared without case, spaces and signs. The inputs and output of
# a law; only when exactly one column fits.
ALIASES = {
    "N": (
        "N",
        "params",
        "parameters",
        "num_params",
        "n_params",
        "model_params",
        "model_size",
        "params_total",
    ),
    "D": (
        "D",
        "tokens",
        "training_tokens",
        "train_tokens",
        "num_tokens",
        "n_tokens",
        "tokens_seen",
    ),
    "C": ("C", "flops", "flop", "training_flops", "training_flop", "train_flops", "compute"),
    "loss": ("loss", "val_loss", "validation_loss", "eval_loss", "test_loss", "final_loss"),
}
# What the learning-rate study reads beside them; the column's own name goes first.
LEARNING_RATE_ALIASES = {
    "learning_rate": ("lr", "peak_lr", "max_lr", "peak_learning_rate"),
    "batch_size": ("bs", "batch"),
    "weight_decay": ("wd",),
    "recipe": ("data_recipe", "mixture"),
    "parametrization": ("parameterization",),
    "width": ("d_model",),
    "depth": ("n_layers", "num_layers"),
    "initial_loss": ("l0", "loss_at_init"),
    "vocab_size": ("vocab",),
    "run_id": ("run", "exp_name"),
    "warmup_steps": ("warmup",),
}
# What the study of proxy transfer reads; of several columns that fit the earlier name wins.
PROXY_TRANSFER_ALIASES = {
    "recipe": ("recipe", "data", "dataset", "mixture"),
    "size": ("size", "model"),
    "N": ("N", "params", "parameters"),
    "D": ("D", "tokens"),
    "learning_rate": ("learning_rate", "lr", "eta", "peak_lr"),
    "weight_decay": ("weight_decay", "wd"),
    "batch_size": ("batch_size", "batch"),
    "seed": ("seed",),
    "domain": ("domain", "validation"),
    "loss": ("loss", "val_loss"),
    "loss_se": ("loss_se",),
    "loss_init": ("loss_init",),
    "role": ("role",),
    "steps": ("steps",),
    "arm": ("arm",),
    "state": ("state",),
    "precision": ("precision", "compute_dtype", "dtype"),
    "run_id": ("run_id",),
}
# arXiv 2001.08361: six FLOPs a parameter and token.
DERIVED: dict[str, tuple[str, str, str, Callable[[Any, Any], Any]]] = {
    "D": ("C", "N", "C / (6 N)", lambda c, n: c / (6 * n)),
    "N": ("C", "D", "C / (6 D)", lambda c, d: c / (6 * d)),
    "C": ("N", "D", "6 N D", lambda n, d: 6 * n * d),
}
UNITS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "thousands": lambda v: v * 1e3,
    "millions": lambda v: v * 1e6,
    "billions": lambda v: v * 1e9,
    "trillions": lambda v: v * 1e12,
    "nats": lambda v: v,
    "bits": lambda v: v * np.log(2),  # log2 perplexity
    "perplexity": np.log,
}


@dataclass
class Columns:
    """The columns of a table that were asked for so far."""

    table: pd.DataFrame
    source: str
    mapping: Mapping[str, str]  # names -> columns, as the caller says
    units: Mapping[str, str | float] = field(default_factory=dict)
    values: dict[str, np.ndarray] = field(default_factory=dict)  # [rows], NaN: not a number
    labels: dict[str, str] = field(default_factory=dict)  # names in the source
    text: dict[str, dict[int, Any]] = field(default_factory=dict)  # entries that are no numbers
    notes: list[str] = field(default_factory=list)  # what was decided without being told
    derived: set[str] = field(default_factory=set)

    def find(self, name: str) -> bool:
        """Whether `name` has a column of its own, read on the first call.

        Raises UserError when two columns could be it.
        """
        if name not in self.values:
            column = self._named(name)
            if column is None:
                return False
            self.values[name], self.text[name] = numbers(self.table[column])
            self.labels[name] = column
            if name in self.units:
                self.values[name] = convert(name, self.values[name], self.units[name])
                self.notes.append(f"{name} is read in {self.units[name]}")
        return True

    def need(self, name: str) -> tuple[str, ...]:
        """Make sure of `name`, deriving it when it must; returns the names it was derived from.

        Raises UserError.
        """
        if self.find(name):
            return ()
        one, two, formula, function = DERIVED.get(name, ("", "", "", None))
        if function is None or not (self.find(one) and self.find(two)):
            also = f", nor of {one} and {two} to derive it from" if function else ""
            raise UserError(
                f"columns: {self.source} has no column of {name}{also}; "
                f"{nearest(name, map(str, self.table.columns))}; say columns {name}=<column>"
            )
        with np.errstate(all="ignore"):  # zeros and infinities are refused by name later
            self._derived(name, function(self.values[one], self.values[two]), formula)
        return one, two

    def derive(self, name: str, expression: str) -> None:
        """Define `name` by an expression of columns, e.g. "6 * N * D" or "`Training FLOP` / 6"."""
        frame = self.table.copy()
        for known in {*ALIASES, *self.mapping} & set(re.findall(r"\w+", expression)):
            if known not in frame or known in self.mapping:
                self.need(known)
                frame[known] = self.values[known]
        try:
            if "@" in expression or "__" in expression:
                raise ValueError("only columns, numbers and functions")
            with np.errstate(all="ignore"):
                value = frame.eval(expression, engine="python")
            result = np.broadcast_to(np.asarray(value, float), (len(frame),)).copy()
        except Exception as error:  # whatever pandas makes of a user's expression
            said = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(
                f"derive={name}={expression}: cannot be computed ({said}); use columns of "
                f"{self.source}, +-*/**, log, exp; quote names with spaces in `"
            ) from None
        self._derived(name, result, expression)

    def any(self, name: str) -> tuple[np.ndarray, dict[int, Any], pd.Series]:
        """Values, text and raw entries of a column by its name here or in the source.

        Raises UserError with the nearest name.
        """
        if (
            name in self.values
            or name in self.mapping
            or (name in ALIASES and self.find(name))
            or self._can_derive(name)
        ):
            self.need(name)
            label = self.labels[name]
            raw = (
                pd.Series(self.values[name], self.table.index)
                if name in self.derived
                else self.table[label]
            )
            return self.values[name], self.text[name], raw
        if name not in self.table:
            raise UserError(
                f"column {name!r}: not in {self.source}; "
                f"{nearest(name, {*map(str, self.table.columns), *self.values})}"
            )
        return *numbers(self.table[name]), self.table[name]

    def _can_derive(self, name: str) -> bool:
        return name in DERIVED and self.find(DERIVED[name][0]) and self.find(DERIVED[name][1])

    def _derived(self, name: str, values: np.ndarray, formula: str) -> None:
        if name in self.units:
            raise UserError(
                f"units={name}={self.units[name]}: {name} is derived, not read; give the units of "
                f"the columns in {formula}"
            )
        self.values[name], self.labels[name], self.text[name] = values, name, {}
        self.derived.add(name)
        self.notes.append(f"{name} = {formula}")

    def _named(self, name: str) -> Any:
        """The column of `name`, or None."""
        names = {str(c): c for c in self.table.columns}
        if name in self.mapping:
            if self.mapping[name] not in names:
                raise UserError(
                    f"columns={name}={self.mapping[name]}: no such column in {self.source}; "
                    f"{nearest(str(self.mapping[name]), names)}"
                )
            return names[self.mapping[name]]
        taken = {name, *self.mapping.values()}
        fitting = [c for c in _matching(names, ALIASES.get(name, ())) if c not in taken]
        if name in names:
            if fitting:
                self.notes.append(
                    f"{name} is column {name!r}, not {' or '.join(map(repr, fitting))}"
                )
            return names[name]
        if len(fitting) > 1:
            raise _ambiguous(name, fitting, f" of {self.source}")
        if fitting:
            self.notes.append(f"{name} is column {fitting[0]!r}")
        return names[fitting[0]] if fitting else None


def _plain(name: object) -> str:
    return re.sub(r"[^a-z0-9]", "", str(name).lower())


def _matching(columns: Iterable[str], aliases: Iterable[str]) -> list[str]:
    """The columns that have one of the names, in the order of the table."""
    usual = {_plain(alias) for alias in aliases}
    return [column for column in columns if _plain(column) in usual]


def _ambiguous(name: str, columns: list[str], of: str = "") -> UserError:
    return UserError(
        f"columns: {' and '.join(map(repr, columns))}{of} could both be {name}; say columns "
        f"{name}={columns[0]!r}"
    )


def usual_column(table: pd.DataFrame, name: str, aliases: Mapping[str, tuple[str, ...]]) -> str:
    """The one column that has a usual name of `name`, its own included; "" where there is none.

    Raises UserError when several have.
    """
    fitting = _matching(map(str, table.columns), (name, *aliases.get(name, ())))
    if len(fitting) > 1:
        raise _ambiguous(name, fitting)
    return fitting[0] if fitting else ""


def first_usual_columns(
    table: pd.DataFrame, aliases: Mapping[str, tuple[str, ...]]
) -> dict[str, Any]:
    """Names -> the table's columns; of several the one whose alias stands first."""
    columns = {_plain(column): column for column in table.columns}
    found = {}
    for name, usual in aliases.items():
        hits = [columns[_plain(alias)] for alias in usual if _plain(alias) in columns]
        if hits:
            found[name] = hits[0]
    return found


def convert(name: str, values: np.ndarray, unit: str | float) -> np.ndarray:
    """`values` in plain numbers or nats. Raises UserError for an unknown unit."""
    try:
        factor = float(unit)
    except ValueError:
        if unit not in UNITS:
            raise UserError(
                f"units={name}={unit}: unknown; {nearest(str(unit), UNITS)} or a factor"
            ) from None
        with np.errstate(all="ignore"):
            return UNITS[unit](values)
    if not (np.isfinite(factor) and factor > 0):
        raise UserError(
            f"units={name}={unit}: not a positive factor; give e.g. 1e9 or one of "
            f"{', '.join(UNITS)}"
        )
    return values * factor


def numbers(column: pd.Series) -> tuple[np.ndarray, dict[int, Any]]:
    """A column as floats [rows], and the entries that are no numbers by position.

    The floats are NaN where an entry is missing or no number.

    Truth values are no numbers.
    """
    if (
        pd.api.types.is_numeric_dtype(column)
        and not pd.api.types.is_bool_dtype(column)
        and not pd.api.types.is_complex_dtype(column)
    ):
        return column.to_numpy(float, na_value=np.nan), {}
    values, text = np.full(len(column), np.nan), {}
    for position, entry in enumerate(column.astype(object)):
        if entry is None or entry is pd.NA or entry is pd.NaT:
            continue
        try:
            if isinstance(entry, (bool, np.bool_)):
                raise ValueError
            values[position] = float(entry)
        except (TypeError, ValueError, OverflowError):
            text[position] = entry
    return values, text
