"""The committed records of real studies give the numbers that README and BENCHMARKS state."""

import json
import re

import numpy as np
import pytest

from stepladder.analysis.studies.proxy_transfer import report
from stepladder.analysis.studies.proxy_transfer.study import study
from stepladder.analysis.tables.file import read_file
from stepladder.train.cli import parser

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)


@pytest.fixture(scope="module")
def transfer(root):
    path = root / "analysis" / "examples" / "proxy_transfer" / "runs.csv.gz"
    inputs = report.of_table(read_file(path), path.with_name(report.BESIDE))
    return study(inputs.table, inputs.ngrams, inputs.probes, resamples=500)


def _stated(root, row: str) -> list[float]:
    """Numbers of a row of the proxy-transfer table in the documents, without their intervals."""
    line = next(
        line
        for line in (root / "docs" / "benchmarks" / "proxy_transfer.md").read_text().splitlines()
        if line.startswith(f"| {row} ")
    )
    return [float(v) for v in re.findall(r"[|*](?: |\*)*(-?\d*\.\d+)(?= \()", line)]


@pytest.mark.parametrize("size", ["6k", "14k"])
def test_rank_correlation_and_regret_are_those_stated(transfer, root, size):
    rows = (
        transfer.frame("agreement")
        .query("size == @size and domain == 'mean' and against == 'tuned target'")
        .set_index("learning_rate")
    )
    regret = (
        transfer.frame("regret")
        .query("size == @size and k == 1 and reading == 'best'")
        .set_index("learning_rate")["regret"]
    )
    known = [r for r in RATES if r in rows.index]
    assert np.round(rows.loc[known, "rho"], 2).tolist() == _stated(root, f"rho {size}")
    assert np.round(regret[known], 3).tolist() == _stated(root, f"regret@1 {size}, nats")


def test_the_verdicts_are_those_stated(transfer):
    words = {c["id"]: c["verdict"] for c in transfer.verdicts.claims}
    assert words == dict.fromkeys("acde", "not seen at this scale") | {"b": "not settled"}
    null = transfer.frame("nulls").query("domain == 'mean'").set_index("null")["rho"].round(2)
    assert (null["bigram"], null["unigram"]) == (0.96, 0.84) and len(transfer.recipes) == 21
    assert transfer.frame("ngrams").query("null == 'bigram' and domain == 'mean'")["counts"].all()


def test_the_target_is_larger_and_tuned_within_its_grid(transfer):
    largest = max(r["N"] for r in transfer.ranking.rates)
    assert transfer.target["N"] > 4 * largest and len(transfer.ranking.rates) == 2
    assert (
        set(transfer.frame("tuned").query("domain == 'mean'")["edge"]) == {""}
        and not transfer.left_out.missing_cells
        and not transfer.left_out.excluded
    )


def test_the_drift_of_the_best_rate_is_that_stated(root, tmp_path):
    table = root / "analysis" / "examples" / "widths.csv.gz"
    assert (
        parser.main(["report", "--study=learning_rate", f"--table={table}", f"--out={tmp_path}"])
        == 0
    )
    drift = {
        d["parametrization"]: d["factor"]
        for d in json.loads((tmp_path / "results.json").read_text())["drift"]
        if d["axis"] == "width"
    }
    assert np.round(drift["mup"], 2).tolist() == [0.82, 0.67, 1.01]
    assert [round(v, k) for v, k in zip(drift["standard"], (3, 3, 2))] == [0.125, 0.049, 0.34]
