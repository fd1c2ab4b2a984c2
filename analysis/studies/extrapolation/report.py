"""`stepladder report`: the records of a ladder in; page, results.json and figures out."""

from pathlib import Path

import pandas as pd

from stepladder.analysis.report.write import write_study
from stepladder.analysis.studies.extrapolation.figures import draw
from stepladder.analysis.studies.extrapolation.page import page
from stepladder.analysis.studies.extrapolation.study import study


def run(workdir: Path | None, table: Path | pd.DataFrame | None, out: Path) -> Path:
    """Write the study's page of a workdir, with whatever is there: what is missing is named on it.

    registry.Study says what the arguments are.
    """
    assert workdir is not None and table is None
    return report(workdir, out)


def report(workdir: str | Path, out: str | Path | None = None, *, n: str = "params_total") -> Path:
    """Write the report of a ladder.

    Args:
        workdir: the folder that holds the records.
        out: the folder to write into, by default `<workdir>/report`.
        n: the count of parameters that is N: "params_total" or "params_non_embedding".

    Returns:
        The path of index.html; results.json beside it holds every number of the page.

    Raises:
        UserError: when `workdir` does not exist or `out` cannot be written.
    """
    found = study(workdir, n=n)
    folder = Path(out) if out else Path(workdir) / "report"
    return write_study(folder, page(found.results), found.results, draw(found))
