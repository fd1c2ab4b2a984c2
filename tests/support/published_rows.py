"""What the published tests read and found: the public tables, and one row a number for the table at
the end of a test session.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest


@dataclass(frozen=True)
class Row:
    table: str
    quantity: str
    ours: float
    published: float
    tolerance: float  # absolute, in the unit of the value

    @property
    def within(self) -> bool:
        return abs(self.ours - self.published) <= self.tolerance


ROWS: list[Row] = []


def record_row(table: str, quantity: str, ours: float, published: float, tolerance: float) -> Row:
    """Append a row before asserting on it, so that a failing one is in the table too.

    A repeated (table, quantity) replaces the former.
    """
    row = Row(table, quantity, float(ours), float(published), float(tolerance))
    ROWS[:] = [r for r in ROWS if (r.table, r.quantity) != (table, quantity)] + [row]
    return row


def path(name: str) -> Path:
    """A file or folder of the public tables.

    Skipped, with the reason, only where STEPLADDER_DATA is unset; set and without it, that fails.
    """
    folder = os.environ.get("STEPLADDER_DATA")
    if not folder:
        pytest.skip("STEPLADDER_DATA is not set: it names the folder with the public tables")
    found = Path(folder) / name
    if not found.exists():
        pytest.fail(
            f"STEPLADDER_DATA={folder}: no {name} in it; get the table, or unset STEPLADDER_DATA "
            "to skip what needs it"
        )
    return found


def table(name: str) -> pd.DataFrame:
    """A public table."""
    return pd.read_csv(path(name))


def check(where: str, quantity: str, ours: float, published: float, tolerance: float) -> None:
    """Record a row, then assert it."""
    row = record_row(where, quantity, ours, published, tolerance)
    assert row.within, (
        f"{where}, {quantity}: ours {ours:.9g}, published {published:.9g} +- {tolerance:.2g}"
    )


def text(rows: list[Row] | None = None) -> str:
    """The rows as aligned lines; '' when there are none."""
    rows = ROWS if rows is None else rows
    if not rows:
        return ""
    cells = [("table", "quantity", "ours", "published", "tolerance", "")]
    cells += [
        (
            r.table,
            r.quantity,
            f"{r.ours:.7g}",
            f"{r.published:.7g}",
            f"{r.tolerance:.2g}",
            "" if r.within else "OUTSIDE",
        )
        for r in rows
    ]
    widths = [max(len(row[i]) for row in cells) for i in range(6)]
    return "\n".join(
        "  ".join(
            v.ljust(w) if i < 2 else v.rjust(w) for i, (v, w) in enumerate(zip(row, widths))
        ).rstrip()
        for row in cells
    )
