"""`stepladder report --study=proxy_transfer`: records or a table in, the page, results.json and
figures out.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from stepladder.analysis.report.write import write_study, write_table
from stepladder.analysis.studies.proxy_transfer.drawings import draw
from stepladder.analysis.studies.proxy_transfer.page import page
from stepladder.analysis.studies.proxy_transfer.prepare import NULLS
from stepladder.analysis.studies.proxy_transfer.read_table import EXCLUDED
from stepladder.analysis.studies.proxy_transfer.records import Inputs, read
from stepladder.analysis.studies.proxy_transfer.study import study
from stepladder.analysis.studies.proxy_transfer.text import sentences
from stepladder.analysis.tables.file import read_file
from stepladder.configs.core.errors import UserError
from stepladder.configs.core.files import write_atomic

BESIDE = "probes.json"


def run(workdir: Path | None, table: Path | pd.DataFrame | None, out: Path) -> Path:
    """Write the study's page, results.json and figures to `out`.

    For a workdir it also writes runs.csv.gz and probes.json; the first given as `table`, with the
    other beside it, makes the same page.

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
        write_table(out, "runs", _with_baselines(inputs))
        if inputs.probes:
            write_atomic(out / BESIDE, json.dumps(inputs.probes) + "\n", field="out")
    else:
        frame = read_file(table)
        source = frame.attrs.get("source") if isinstance(table, pd.DataFrame) else table
        inputs, table = of_table(frame, source and Path(source).parent / BESIDE), source or "TABLE"
    result = study(
        inputs.table,
        inputs.ngrams,
        inputs.probes,
        excluded=inputs.excluded,
        notes=inputs.notes,
        warnings=inputs.warnings,
    )
    results = {
        "source": str(workdir or table),
        "command": _command(workdir, table),
    } | result.to_dict()
    shown = {"verdict": sentences(results), **results}
    return write_study(out, page(results), shown, draw(result))


def _with_baselines(inputs: Inputs) -> pd.DataFrame:
    """What `of_table` reads: the runs with the n-gram baselines of each row's recipe and domain as
    columns.
    """
    cells = list(zip(inputs.table["recipe"], inputs.table["domain"]))
    found = {name: inputs.ngrams[name] for name in NULLS if name in (inputs.ngrams or {})}
    return inputs.table.assign(
        **{
            n: [(body.get(recipe) or {}).get(domain, np.nan) for recipe, domain in cells]
            for n, body in found.items()
        }
    )


def of_table(frame: pd.DataFrame, beside: Path | None) -> Inputs:
    """A table of someone's runs; columns unigram and bigram, when there, are the n-gram baselines
    of the row's recipe and domain, and the file `beside` it holds the probes."""
    found = {}
    for name in NULLS:
        if name in frame and "recipe" in frame:
            rows = frame.dropna(subset=[name])
            domain = (
                rows["domain"].astype(str) if "domain" in rows else pd.Series("all", rows.index)
            )
            pairs = rows.groupby([rows["recipe"].astype(str), domain])[name].mean()
            found[name] = {r: pairs[r].to_dict() for r in pairs.index.get_level_values(0).unique()}
    probes = _probes(beside) if beside and beside.is_file() else []
    notes = (f"{len(probes)} probes are from {beside.name} beside the table",) if probes else ()
    return Inputs(frame, found or None, probes, pd.DataFrame(columns=list(EXCLUDED)), notes, ())


def _probes(path: Path) -> list[dict]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"table={path}: the probes beside the table are unreadable ({error}); mend or move the "
            "file"
        ) from None
    if not isinstance(found, list) or not all(isinstance(p, dict) for p in found):
        raise UserError(
            f"table={path}: not a list of probes, as `report --workdir` writes beside runs.csv.gz; "
            "mend or move the file"
        )
    return found


def _command(workdir: Path | None, table: Path | str | None) -> str:
    return "stepladder report --study=proxy_transfer " + (
        f"--workdir={workdir}" if workdir is not None else f"--table={table}"
    )
