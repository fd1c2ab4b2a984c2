"""What the study returns: rows for every question, and the grid behind them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd

from stepladder.analysis.report.jsonable import plain
from stepladder.analysis.studies.split.measures import Row
from stepladder.analysis.studies.split.measures.cells import Cells
from stepladder.analysis.studies.split.measures.laws import LawFits
from stepladder.configs.core.errors import UserError, nearest

Rows = list[Row]


@dataclass(frozen=True)
class Found:
    """The numbers, one list of rows a question; the names are the keys of results.json."""

    level: float
    cells: Rows  # every mean over domains with its interval
    law_fits: Rows  # (1) in-sample agreement
    law_params: Rows
    law_held_out: Rows  # (2) errors on what was not seen
    observed: Rows  # (3) best split of every size and total
    predicted: Rows
    regrets: Rows
    allocation: Rows  # (4) under the three accountings
    closed_form: Rows
    comparisons: Rows  # (5) against dense models, by size and total
    comparison_means: Rows
    arms: Rows
    routers: Rows
    phonebook: Rows
    corners: Mapping[str, list[str]]  # laws without an interior optimum
    chosen: str | None  # the law with the least error on held-out split fractions
    grid: Cells = field(repr=False)
    fits: LawFits = field(repr=False)

    def rows(self) -> dict[str, object]:
        """All of it but the grid and the fits, under the keys of results.json."""
        return {name: value for name, value in vars(self).items() if name not in _NOT_ROWS}


_NOT_ROWS = ("level", "grid", "fits")


@dataclass(frozen=True)
class Result:
    """Numbers, verdicts, and what is not in them.

    settings: what was chosen: level, resamples, seed, counts. excluded: columns EXCLUDED of
    read_table.py.
    """

    settings: Row
    floors: Rows
    found: Found
    verdicts: Rows
    excluded: Rows
    missing: list[str]
    notes: list[str]

    def frame(self, name: str) -> pd.DataFrame:
        """The rows of a key of results.json. Raises UserError for an unknown one."""
        tables = {k: v for k, v in self.to_dict().items() if isinstance(v, list)}
        if name not in tables:
            raise UserError(f"name={name!r}: no such table; {nearest(name, tables)}")
        return pd.DataFrame(tables[name])

    def to_dict(self) -> Row:
        """What results.json holds."""
        return plain(
            {
                "settings": self.settings,
                "verdicts": self.verdicts,
                "floors": self.floors,
                **self.found.rows(),
                "excluded": self.excluded,
                "missing": self.missing,
                "notes": self.notes,
            }
        )
