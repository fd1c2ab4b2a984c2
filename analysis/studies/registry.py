"""The studies that `stepladder report --study=NAME` knows: one row a question, in one table."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from stepladder.analysis.report.jsonable import Results
from stepladder.analysis.tables.file import read_file
from stepladder.configs.core.errors import UserError, nearest

Table = Path | pd.DataFrame  # a file, or a frame where the caller renamed its columns
Run = Callable[[Path | None, Table | None, Path], Path]

DEFAULT = "extrapolation"  # the study of `stepladder report` without --study


def _verdict(results: Results) -> str:
    return "\n".join(results["verdict"])


@dataclass(frozen=True)
class Study:
    """One question asked of a set of runs.

    The folder of its name holds the numbers (study.py), the drawings (figures.py), the page
    (page.py), and `run` (report.py), which puts them together.

    Attributes:
        question: in one sentence, for the help of the command.
        run: (workdir, table, out) -> path of the page. It writes index.html, results.json and
            figures/ into `out`. Exactly one of workdir and table is given, the other is None.
        reads: what it can be run on, of "workdir" (the records of a ladder) and "table".
        summary: the text that the command prints, from what results.json holds.
    """

    question: str
    run: Run
    reads: tuple[str, ...] = ("workdir", "table")
    summary: Callable[[Results], str] = _verdict


def run_study(
    name: str,
    workdir: Path | None,
    table: Table | None,
    out: Path | None = None,
    *,
    columns: Mapping[str, str] | None = None,
) -> Path:
    """Write the page of a study.

    Args:
        name: the study, a key of STUDIES.
        workdir: the folder that holds the records; exactly one of this and `table` is given.
        table: a table of someone's runs.
        out: the folder to write into, by default `<workdir>/report` for the study of DEFAULT and
            `<workdir>/report/<name>` for the others (`report/<name>` for a table).
        columns: names of the study -> columns of the table, e.g. {"loss": "smooth loss"}, or a
            number, the same in all rows.

    Returns:
        The path of the page, index.html.

    Raises:
        UserError: for an unknown study or column, or for what the study does not read.
    """
    if name not in STUDIES:
        raise UserError(f"study={name!r}: unknown; {nearest(name, STUDIES)}")
    study = STUDIES[name]
    _check_source(name, study, workdir, table)
    if columns and table is None:
        raise UserError(
            f"column={','.join(columns)}: names columns of a table; add --table=FILE, or leave it "
            "out"
        )
    source = _renamed(table, columns) if columns and table is not None else table
    return study.run(workdir, source, out or _folder(name, workdir))


def summary(name: str, page: Path) -> str:
    """What the command prints of a page that `run_study` wrote."""
    return STUDIES[name].summary(json.loads((page.parent / "results.json").read_text()))


def _check_source(name: str, study: Study, workdir: Path | None, table: Table | None) -> None:
    if "table" not in study.reads:
        if table is not None:
            others = [other for other, row in STUDIES.items() if "table" in row.reads]
            raise UserError(
                f"table={table}: the study {name} reads records, not a table; add "
                f"--study={' or '.join(others)}, or fit a law to it with `stepladder fit`"
            )
        if workdir is None:
            raise UserError("workdir=None: nothing to report on; give --workdir=DIR")
    if (workdir is None) == (table is None):
        raise UserError(
            f"workdir={workdir}, table={table}: give one of them: --workdir=DIR for records, "
            "--table=FILE for a table of someone's runs"
        )


def _folder(name: str, workdir: Path | None) -> Path:
    report = (workdir or Path()) / "report"
    return report if name == DEFAULT else report / name


def _renamed(table: Table, columns: Mapping[str, str]) -> pd.DataFrame:
    frame = read_file(table)
    names: dict[str, pd.Series | float] = {}
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
    if not isinstance(table, pd.DataFrame):
        frame.attrs["source"] = str(table)
    frame.attrs["columns"] = dict(columns)
    return frame


def _extrapolation(workdir: Path | None, table: Table | None, out: Path) -> Path:
    from stepladder.analysis.studies.extrapolation import report

    return report.run(workdir, table, out)


def _extrapolation_summary(results: Results) -> str:
    from stepladder.analysis.studies.extrapolation import terminal

    return terminal.summary(results)


def _learning_rate(workdir: Path | None, table: Table | None, out: Path) -> Path:
    from stepladder.analysis.studies.learning_rate import report

    return report.run(workdir, table, out)


def _proxy_transfer(workdir: Path | None, table: Table | None, out: Path) -> Path:
    from stepladder.analysis.studies.proxy_transfer import report

    return report.run(workdir, table, out)


def _overtraining(workdir: Path | None, table: Table | None, out: Path) -> Path:
    from stepladder.analysis.studies.overtraining import report

    return report.run(workdir, table, out)


def _split(workdir: Path | None, table: Table | None, out: Path) -> Path:
    from stepladder.analysis.studies.split import report

    return report.run(workdir, table, out)


STUDIES: dict[str, Study] = {
    "extrapolation": Study(
        "what loss do the proxies forecast for the target, and was it so?",
        _extrapolation,
        reads=("workdir",),
        summary=_extrapolation_summary,
    ),
    "learning_rate": Study(
        "which learning rate is best, how does it move with the scale, and what does a wrong one "
        "cost?",
        _learning_rate,
    ),
    "proxy_transfer": Study(
        "do small runs rank data recipes as tuned targets do, and does a reduced learning rate "
        "help?",
        _proxy_transfer,
    ),
    "overtraining": Study(
        "when does more pretraining make a model worse after noise, quantisation or fine-tuning?",
        _overtraining,
    ),
    "split": Study(
        "pretrain on everything for D tokens, then specialise for D2: where to split?",
        _split,
    ),
}
