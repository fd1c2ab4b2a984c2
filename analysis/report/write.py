"""Write what a study found: its page, results.json, figures and tables."""

import gzip
import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from stepladder.analysis.figures.style import Svg
from stepladder.analysis.report.jsonable import Results, plain
from stepladder.analysis.report.page_parts import Page
from stepladder.analysis.report.render import render
from stepladder.configs.core.files import write_atomic


def write_study(out: Path, page: Page, results: Results, drawn: Mapping[str, Svg]) -> Path:
    """Write the page of a study, its numbers and its figures.

    Args:
        out: the folder; index.html, results.json and figures/NAME.svg are written into it.
        page: what index.html shows.
        results: what results.json holds; numbers that are not finite become null.
        drawn: name -> drawing, of every figure.

    Returns:
        The path of index.html.

    Raises:
        UserError: naming `out`, when it cannot be written.
    """
    for name, svg in drawn.items():
        write_atomic(out / "figures" / f"{name}.svg", svg, sync=False, field="out")
    text = json.dumps(plain(results), indent=1, allow_nan=False)
    write_atomic(out / "results.json", text + "\n", field="out")
    write_atomic(out / "index.html", render(page, drawn), field="out")
    return out / "index.html"


def write_table(out: Path, name: str, frame: pd.DataFrame) -> Path:
    """<out>/NAME.csv.gz, which `report --table=` reads: what to keep or send of a workdir.

    Equal frames give equal bytes.
    """
    path = out / f"{name}.csv.gz"
    write_atomic(path, gzip.compress(frame.to_csv(index=False).encode(), mtime=0), field="out")
    return path
