"""`stepladder report --study=learning_rate`: records or a table in, page and numbers out."""

from pathlib import Path

import pandas as pd

from stepladder.analysis.report.write import write_study, write_table
from stepladder.analysis.studies.learning_rate.figures import draw
from stepladder.analysis.studies.learning_rate.page import page, verdict
from stepladder.analysis.studies.learning_rate.study import study


def run(workdir: Path | None, table: Path | pd.DataFrame | None, out: Path) -> Path:
    """Write the study's page of a workdir or a table, and of a workdir its runs as a table.

    registry.Study says what the arguments are.
    """
    source = table if workdir is None else workdir
    assert source is not None
    found = study(source)
    if workdir is not None:
        write_table(out, "runs", found.points.frame)
    results = {"verdict": verdict(found)} | found.to_dict()
    return write_study(out, page(found), results, draw(found))
