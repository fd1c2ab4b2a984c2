"""What the study returns: rows for every question, and the grids behind them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd

from stepladder.analysis.report.jsonable import plain
from stepladder.analysis.studies.overtraining.measures import Row
from stepladder.analysis.studies.overtraining.measures.cells import Grid
from stepladder.analysis.studies.overtraining.measures.laws import LawResults
from stepladder.configs.core.errors import UserError, nearest

Rows = list[Row]


@dataclass(frozen=True)
class Found:
    """The numbers, one list of rows a question; the names are the keys of results.json."""

    level: float
    cells: Rows  # every mean with its interval
    trends: Rows  # tau of Delta and T by strength
    families: Rows  # the same over all strengths of a change
    norms: Rows  # noise of the initialisation's size against noise of the weights' size
    base: Rows  # whether the loss before any change falls
    inflections: Rows  # T* of every curve
    shifts: Rows  # whether T* falls with the strength
    rates: Rows  # eta* of every budget, with the reason of every invalid point
    slopes: Rows  # of ln eta* against ln T
    tuned: Rows  # the rule of T* at the tuned rate
    matched: Rows  # forgetting at equal loss on the task
    matched_summary: Rows
    laws: LawResults
    second_order: Rows  # measured Delta over what the curvature says
    breakdowns: Rows
    arm_cells: Rows  # other arms minus "separate"
    arm_means: Rows
    toy: Row
    grids: Sequence[Grid] = field(repr=False)

    def rows(self) -> dict[str, Row | Rows]:
        """All of it but the grids, under the keys of results.json."""
        body = {name: value for name, value in vars(self).items() if name not in _NOT_ROWS}
        return body | {
            "law_params": self.laws.params,
            "law_held_out": self.laws.held_out,
            "law_minima": self.laws.minima,
            "law_missing": self.laws.missing,
        }


_NOT_ROWS = ("level", "laws", "grids")


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
