"""`stepladder report --study=proxy_transfer`: records or a table in, the page, results.json and
figures out.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from stepladder.analysis.figures import style
from stepladder.analysis.report.html_pieces import write_study
from stepladder.analysis.report.write import write_table
from stepladder.analysis.studies.proxy_transfer import figures_losses, page
from stepladder.analysis.studies.proxy_transfer.figures import domains, ranking, regret, slopes
from stepladder.analysis.studies.proxy_transfer.read_table import EXCLUDED
from stepladder.analysis.studies.proxy_transfer.records import Inputs, read
from stepladder.analysis.studies.proxy_transfer.study import NULLS, Result, study
from stepladder.analysis.studies.proxy_transfer.text import sentences
from stepladder.analysis.tables.file import read_file
from stepladder.configs.core.errors import UserError
from stepladder.configs.core.files import write_atomic

BESIDE = "probes.json"


def run(workdir: Path | None, table: Path | pd.DataFrame | None, out: Path) -> Path:
    """Write the study's page to `out` and return its path.

    Raises UserError for a table or workdir that holds no such study.

    Of a workdir also runs.csv.gz and probes.json: as `table` the one, with the other beside it,
    gives the same page.
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
    drawn = draw(result)
    return write_study(
        out,
        "stepladder: proxy transfer",
        page.body(results, drawn),
        results,
        drawn,
        sentences(results),
    )


def draw(result: Result) -> dict[str, str]:
    """Name -> inline SVG of every figure there is data for."""
    tested = any(r["pairs"] for r in result.flip_rates)
    both = any(
        p["predicted"] == p["predicted"] and p["observed"] == p["observed"]
        for p in result.crossover_pairs
    )
    beside = any(r["rho"] == r["rho"] and r["main_rho"] == r["main_rho"] for r in result.arms)
    makers = {
        "rho": (
            True,
            lambda: ranking(result),
            "rank correlation with the tuned target against the proxy's learning rate",
        ),
        "accuracy": (
            True,
            lambda: ranking(result, "accuracy"),
            "pairwise decision accuracy against the proxy's learning rate",
        ),
        "regret": (
            bool(result.regret),
            lambda: regret(result),
            "regret at 1 to 5 against the proxy's learning rate",
        ),
        "slopes": (
            True,
            lambda: slopes(result),
            "ranks of the recipes by the proxies and by the tuned target",
        ),
        "losses": (
            True,
            lambda: figures_losses.curves(result),
            "loss against learning rate for every recipe and size",
        ),
        "flip_rates": (
            tested,
            lambda: figures_losses.flip_rates(result),
            "share of pairs that flip between neighbouring learning rates",
        ),
        "flip_matrix": (
            tested,
            lambda: figures_losses.flip_matrix(result),
            "learning rate of the first crossing of every pair",
        ),
        "crossovers": (
            both,
            lambda: figures_losses.crossovers(result),
            "predicted against observed crossover learning rates",
        ),
        "arms": (
            beside,
            lambda: figures_losses.arms(result),
            "rank correlation of every arm against the main arm",
        ),
    }
    drawn = {
        name: style.svg(make(), label) for name, (there, make, label) in makers.items() if there
    }
    if len(result.domains) > 2:
        drawn |= {
            f"domains_{i}": style.svg(
                domains(result, r["size"]), f"rank correlation by domain, proxy {r['size']}"
            )
            for i, r in enumerate(result.rates)
        }
    return drawn


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
