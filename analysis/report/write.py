"""Write what a study found: its page, results.json, figures and tables."""

import gzip
import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from stepladder.analysis.report.jsonable import plain
from stepladder.analysis.report.page_parts import document
from stepladder.configs.core.files import write_atomic


def write_study(
    out: Path, title: str, body: str, results: Mapping, drawn: Mapping[str, str], verdict: list[str]
) -> Path:
    """Write <out>/index.html (`body`: HTML of page_parts.py's pieces), results.json with `verdict`
    first, and figures/NAME.svg of `drawn`.

    Numbers that are not finite become null. Raises UserError naming `out` when it cannot be
    written.
    """
    for name, svg in drawn.items():
        write_atomic(out / "figures" / f"{name}.svg", svg, sync=False, field="out")
    text = json.dumps(plain({"verdict": verdict, **results}), indent=1, allow_nan=False)
    write_atomic(out / "results.json", text + "\n", field="out")
    write_atomic(out / "index.html", document(title, body), field="out")
    return out / "index.html"


def write_table(out: Path, name: str, frame: pd.DataFrame) -> Path:
    """<out>/NAME.csv.gz, which `report --table=` reads: what to keep or send of a workdir.

    Equal frames give equal bytes.
    """
    path = out / f"{name}.csv.gz"
    write_atomic(path, gzip.compress(frame.to_csv(index=False).encode(), mtime=0), field="out")
    return path
