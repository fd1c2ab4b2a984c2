"""`stepladder report --study=split`: from records or a table to the page, results.json and
figures.
"""

import shlex
from pathlib import Path

import pandas as pd

from stepladder.analysis.report.write import write_study, write_table
from stepladder.analysis.studies.split.figures import draw
from stepladder.analysis.studies.split.page import page
from stepladder.analysis.studies.split.records import read
from stepladder.analysis.studies.split.study import study
from stepladder.analysis.studies.split.text import sentences
from stepladder.analysis.tables.file import read_file


def run(workdir: Path | None, table: Path | pd.DataFrame | None, out: Path) -> Path:
    """Write the study's page, results.json and figures to `out`.

    For a workdir it also writes runs.csv.gz, which given as `table` makes the same numbers.

    Args:
        workdir, table: one of them; the table is a file or a DataFrame.
        out: the folder.

    Returns:
        The path of the page.

    Raises:
        UserError: for a table or workdir that holds no such study.
    """
    if workdir is not None:
        inputs = read(workdir)
        source, option = str(workdir), f"--workdir={workdir}"
        write_table(out, "runs", inputs.table)
        result = study(inputs.table, excluded=inputs.excluded, notes=inputs.notes)
    elif table is not None:
        frame = read_file(table)
        path = frame.attrs.get("source") if isinstance(table, pd.DataFrame) else table
        source = str(path or "TABLE")
        named = [shlex.quote(f"{k}={v}") for k, v in frame.attrs.get("columns", {}).items()]
        option = " ".join([f"--table={source}", *(["--column", *named] if named else [])])
        result = study(frame)
    else:
        raise ValueError("one of workdir and table is needed")
    command = f"stepladder report --study=split {option}"
    results = {"source": source, "command": command} | result.to_dict()
    shown = {"verdict": sentences(results), **results}
    return write_study(out, page(results), shown, draw(result))
