"""`stepladder report --study=proxy_transfer`: from records or a table to the page, results.json and
figures.
"""

import json
import shlex
from pathlib import Path

import numpy as np
import pandas as pd

from stepladder.analysis.report.write import write_study, write_table
from stepladder.analysis.studies.proxy_transfer.drawings import draw
from stepladder.analysis.studies.proxy_transfer.measures import Row
from stepladder.analysis.studies.proxy_transfer.page import page
from stepladder.analysis.studies.proxy_transfer.prepare import NULLS
from stepladder.analysis.studies.proxy_transfer.read_table import EXCLUDED
from stepladder.analysis.studies.proxy_transfer.records import Inputs, read
from stepladder.analysis.studies.proxy_transfer.study import study
from stepladder.analysis.studies.proxy_transfer.text import sentences
from stepladder.analysis.tables.columns import PROXY_TRANSFER_ALIASES, first_usual_columns
from stepladder.analysis.tables.file import read_file
from stepladder.configs.core.errors import UserError
from stepladder.configs.core.files import write_atomic

BESIDE = "probes.json"  # probes lie under this name beside a table


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
        inputs, source, option = read(workdir), str(workdir), f"--workdir={workdir}"
        write_table(out, "runs", _with_baselines(inputs))
        if inputs.probes:
            write_atomic(out / BESIDE, json.dumps(inputs.probes) + "\n", field="out")
    elif table is not None:
        frame = read_file(table)
        path = frame.attrs.get("source") if isinstance(table, pd.DataFrame) else table
        inputs = of_table(frame, Path(path).parent / BESIDE if path else None)
        source = str(path or "TABLE")
        named = [shlex.quote(f"{k}={v}") for k, v in frame.attrs.get("columns", {}).items()]
        option = " ".join([f"--table={source}", *(["--column", *named] if named else [])])
    else:
        raise ValueError("one of workdir and table is needed")
    result = study(
        inputs.table,
        inputs.ngrams,
        inputs.probes,
        excluded=inputs.excluded,
        notes=inputs.notes,
        warnings=inputs.warnings,
    )
    results = {
        "source": source,
        "command": f"stepladder report --study=proxy_transfer {option}",
    } | result.to_dict()
    shown = {"verdict": sentences(results), **results}
    return write_study(out, page(results), shown, draw(result))


def _with_baselines(inputs: Inputs) -> pd.DataFrame:
    """The runs with the n-gram baselines of each row's recipe and domain as columns, which
    `of_table` reads.
    """
    cells = list(zip(inputs.table["recipe"], inputs.table["domain"]))
    given = inputs.ngrams or {}
    found = {}
    for name in (n for n in NULLS if n in given):
        by_recipe = given[name]
        found[name] = [
            (by_recipe.get(recipe) or {}).get(domain, np.nan) for recipe, domain in cells
        ]
    return inputs.table.assign(**found)


def of_table(frame: pd.DataFrame, beside: Path | None) -> Inputs:
    """The inputs of the study from a table of someone's runs.

    Columns unigram and bigram, when there, are the n-gram baselines of the row's recipe and domain;
    the file `beside` the table, when there, holds the probes.
    """
    found, usual = {}, first_usual_columns(frame, PROXY_TRANSFER_ALIASES)
    for name in NULLS:
        if name in frame and "recipe" in usual:
            rows = frame.dropna(subset=[name])
            recipe = rows[usual["recipe"]].astype(str)
            domain = (
                rows[usual["domain"]].astype(str)
                if "domain" in usual
                else pd.Series("all", rows.index)
            )
            pairs = rows.groupby([recipe.rename("recipe"), domain.rename("domain")])[name].mean()
            found[name] = {r: pairs[r].to_dict() for r in pairs.index.get_level_values(0).unique()}
    probes = _probes(beside) if beside and beside.is_file() else []
    notes = (f"{len(probes)} probes are from {BESIDE} beside the table",) if probes else ()
    return Inputs(frame, found or None, probes, pd.DataFrame(columns=list(EXCLUDED)), notes, ())


def _probes(path: Path) -> list[Row]:
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
