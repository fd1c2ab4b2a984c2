"""Checks that every reader of a table shares: columns that are there, numbers that can be used."""

from collections.abc import Collection, Iterable, Sequence

import numpy as np
import pandas as pd

from stepladder.configs.core.errors import UserError, nearest


def require_columns(table: pd.DataFrame, columns: Iterable[str], where: str = "the table") -> None:
    """Raises UserError with the nearest name when one of `columns` is missing."""
    for name in columns:
        if name not in table:
            raise UserError(
                f"column {name!r}: missing from {where}; {nearest(name, map(str, table.columns))}"
            )


def positive_values(
    table: pd.DataFrame, columns: Sequence[str], *, may_be_zero: Collection[int] = ()
) -> np.ndarray:
    """The columns as floats [rows, columns], all of them positive and finite.

    `may_be_zero` holds the positions in `columns` of those that may be 0. Raises UserError for a
    missing column, and with the row for a bad value.
    """
    require_columns(table, columns)
    # what is no number becomes NaN, which is refused
    numbers = [pd.to_numeric(table[name], errors="coerce") for name in columns]
    values = np.column_stack([n.to_numpy(float, na_value=np.nan) for n in numbers])
    zero = np.isin(np.arange(len(columns)), list(may_be_zero))
    good = np.isfinite(values) & ((values > 0) | (zero & (values == 0)))
    if not good.all():
        row, column = np.argwhere(~good)[0]
        wanted = "finite number of 0 or more" if zero[column] else "positive finite number"
        raise UserError(
            f"column {columns[column]!r}={table[columns[column]].iloc[row]}: not a {wanted} (row "
            f"{table.index[row]}); remove or mend that row"
        )
    return values


def distinct(values: np.ndarray | pd.Series) -> int:
    """How many different values there are, equal meaning equal up to one part in a million.

    The tokens of two runs that differ by the rounding of a step are one D to a law.
    """
    with np.errstate(divide="ignore"):
        logs = np.unique(np.log(np.asarray(values, float)))
        return int((np.diff(logs) > 1e-6).sum()) + min(1, len(logs))


def joined(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """One table of all rows, numbered anew; empty tables give no row, and no type to a column."""
    return pd.concat([t for t in tables if len(t)] or list(tables[:1]), ignore_index=True)
