"""The studies that `stepladder report --study=NAME` knows: one entry a question, in one table."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from stepladder.analysis.tables.file import read_file
from stepladder.configs.core.errors import UserError, nearest


@dataclass(frozen=True)
class Study:
    """One question asked of a set of records: `run(workdir, table, out)` writes <out>/index.html,
    results.json and figures/.

    Exactly one of workdir and table is given, the other is None; a table is a file, or a DataFrame
    where the caller renamed its columns. `run` returns the page it wrote. results.json holds,
    beside the numbers, "verdict": the sentences that the command prints.
    """

    run: Callable[[Path | None, Path | pd.DataFrame | None, Path], Path]
    question: str


def run_study(
    name: str,
    workdir: Path | None,
    table: Path | None,
    out: Path | None = None,
    *,
    columns: Mapping[str, str] | None = None,
) -> Path:
    """Write a study's page (out: `<workdir>/report/<name>`, of a table `report/<name>`) and return
    its path.

    `columns` maps names of the study to columns of the table, e.g. {"loss": "smooth loss"}, or to a
    number, the same in all rows. Raises UserError for an unknown study or column, and unless
    exactly one of `workdir` and `table` is given.
    """
    if name not in STUDIES:
        raise UserError(f"study={name!r}: unknown; {nearest(name, STUDIES)}")
    if (workdir is None) == (table is None):
        raise UserError(
            f"workdir={workdir}, table={table}: give one of them: --workdir=DIR for records, "
            "--table=FILE for a table of someone's runs"
        )
    if columns and table is None:
        raise UserError(
            f"column={','.join(columns)}: names columns of a table; add --table=FILE, or leave it "
            "out"
        )
    return STUDIES[name].run(
        workdir,
        _renamed(table, columns) if columns else table,
        out or (workdir or Path()) / "report" / name,
    )


def _renamed(table: Path, columns: Mapping[str, str]) -> pd.DataFrame:
    frame = read_file(table)
    names = {}
    for name, column in columns.items():
        constant = pd.to_numeric(column, errors="coerce")
        if column in frame:
            names[name] = frame[column]
        elif pd.notna(constant):
            names[name] = float(constant)
        else:
            raise UserError(
                f"column={name}={column}: no such column in {table}, and no number; "
                f"{nearest(column, map(str, frame.columns))}"
            )
    frame = frame.drop(columns=[c for c in columns.values() if c in frame]).assign(**names)
    frame.attrs["source"] = str(table)
    return frame


def _learning_rate(workdir: Path | None, table: Path | pd.DataFrame | None, out: Path) -> Path:
    from stepladder.analysis.studies.learning_rate import report

    return report.run(workdir, table, out)


def _proxy_transfer(workdir: Path | None, table: Path | pd.DataFrame | None, out: Path) -> Path:
    from stepladder.analysis.studies.proxy_transfer import report

    return report.run(workdir, table, out)


STUDIES: dict[str, Study] = {
    "learning_rate": Study(
        _learning_rate,
        "which learning rate is best, how does it move with the scale, and what does a wrong one "
        "cost?",
    ),
    "proxy_transfer": Study(
        _proxy_transfer,
        "do small runs rank data recipes as tuned targets do, and does a reduced learning rate "
        "help?",
    ),
}
