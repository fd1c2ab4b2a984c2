"""`stepladder report --study=proxy_transfer`: records or a table in, the page, results.json and figures out."""

from pathlib import Path

import pandas as pd

from stepladder.analysis import figures
from stepladder.analysis.proxy_transfer import page, plots, plots_losses
from stepladder.analysis.proxy_transfer.records import Inputs, read
from stepladder.analysis.proxy_transfer.study import NULLS, Result, study
from stepladder.analysis.proxy_transfer.text import sentences
from stepladder.analysis.proxy_transfer.tidy import EXCLUDED
from stepladder.analysis.studies import write_study
from stepladder.analysis.table_file import read_file


def run(workdir: Path | None, table: Path | pd.DataFrame | None, out: Path) -> Path:
    """Write the study's page to `out` and return its path. Raises UserError for a table or workdir that holds no such study."""
    if workdir is not None:
        inputs = read(workdir)
    else:
        inputs = _table(table if isinstance(table, pd.DataFrame) else read_file(table))
        table = "TABLE" if isinstance(table, pd.DataFrame) else table
    result = study(inputs.table, inputs.ngrams, inputs.probes, excluded=inputs.excluded, notes=inputs.notes, warnings=inputs.warnings)
    results = {"source": str(workdir or table), "command": _command(workdir, table)} | result.to_dict()
    drawn = draw(result)
    return write_study(out, "stepladder: proxy transfer", page.body(results, drawn), results, drawn, sentences(results))


def draw(result: Result) -> dict[str, str]:
    """Name -> inline SVG of every figure there is data for."""
    tested = any(r["pairs"] for r in result.flip_rates)
    both = any(p["predicted"] == p["predicted"] and p["observed"] == p["observed"] for p in result.crossover_pairs)
    beside = any(r["rho"] == r["rho"] and r["main_rho"] == r["main_rho"] for r in result.arms)
    makers = {
        "rho": (True, lambda: plots.ranking(result), "rank correlation with the tuned target against the proxy's learning rate"),
        "accuracy": (True, lambda: plots.ranking(result, "accuracy"), "pairwise decision accuracy against the proxy's learning rate"),
        "regret": (bool(result.regret), lambda: plots.regret(result), "regret at 1 to 5 against the proxy's learning rate"),
        "slopes": (True, lambda: plots.slopes(result), "ranks of the recipes by the proxies and by the tuned target"),
        "losses": (True, lambda: plots_losses.curves(result), "loss against learning rate for every recipe and size"),
        "flip_rates": (tested, lambda: plots_losses.flip_rates(result), "share of pairs that flip between neighbouring learning rates"),
        "flip_matrix": (tested, lambda: plots_losses.flip_matrix(result), "learning rate of the first crossing of every pair"),
        "crossovers": (both, lambda: plots_losses.crossovers(result), "predicted against observed crossover learning rates"),
        "arms": (beside, lambda: plots_losses.arms(result), "rank correlation of every arm against the main arm"),
    }
    drawn = {name: figures.svg(make(), label) for name, (there, make, label) in makers.items() if there}
    if len(result.domains) > 2:
        drawn |= {
            f"domains_{i}": figures.svg(plots.domains(result, r["size"]), f"rank correlation by domain, proxy {r['size']}")
            for i, r in enumerate(result.rates)
        }
    return drawn


def _table(frame: pd.DataFrame) -> Inputs:
    """A table of someone's runs; columns unigram and bigram, when there, are the n-gram baselines of the row's recipe and domain."""
    found = {}
    for name in NULLS:
        if name in frame and "recipe" in frame:
            rows = frame.dropna(subset=[name])
            domain = rows["domain"].astype(str) if "domain" in rows else pd.Series("all", rows.index)
            pairs = rows.groupby([rows["recipe"].astype(str), domain])[name].mean()
            found[name] = {r: pairs[r].to_dict() for r in pairs.index.get_level_values(0).unique()}
    return Inputs(frame, found or None, [], pd.DataFrame(columns=list(EXCLUDED)), (), ())


def _command(workdir: Path | None, table: Path | str | None) -> str:
    return "stepladder report --study=proxy_transfer " + (f"--workdir={workdir}" if workdir is not None else f"--table={table}")
