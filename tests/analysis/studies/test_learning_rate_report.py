"""`stepladder report --study=learning_rate`: from records and from someone's table to the page."""

import json
import math
import re

import pandas as pd
import pytest

from stepladder.analysis.studies.learning_rate.study import study
from stepladder.analysis.studies.registry import run_study
from stepladder.configs.core import record
from stepladder.train.cli import parser
from tests.support import synthetic_records as records
from tests.support.synthetic_learning_rates import ladder


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("W")
    records.write_sweep(folder, sizes=("14k", "37k", "150k"), steps=(500, 1000))
    lost = records.spec("14k", 500, role="sweep", rate=0.5, seed=1)
    records.write_run(folder, lost, state=record.DIVERGED, reason="loss is nan")
    return folder


def test_records_with_a_diverged_run(workdir):
    found = study(workdir)
    assert found.points.frame["diverged"].sum() == 1 and len(found.curves) == 6
    (curve,) = [c for c in found.curves if c.diverged]
    assert curve.diverged == ((0.5, 1, 1),) and curve.optimum == pytest.approx(
        records.optimum(14_000, 500 * 2048), rel=0.1
    )
    assert found.sensitivities[0].initial_loss == pytest.approx(math.log(257))
    assert found.rule.a == pytest.approx(-0.6, abs=0.05)
    assert any(b.diverges == 0.5 for b in found.boundaries)
    # Every run is on a curve or listed as left out.
    on_curves = sum(sum(c.seeds) + sum(lost for _, lost, _ in c.diverged) for c in found.curves)
    named = set(found.points.frame["run_id"]) | set(found.excluded["run_id"])
    assert named == {p.name for p in (workdir / "runs").iterdir()}
    assert on_curves + sum(found.excluded["reason"].str.startswith("fewer")) == len(
        found.points.frame
    )


def test_report_of_records_from_the_command(workdir, capsys):
    assert parser.main(["report", f"--workdir={workdir}", "--study=learning_rate"]) == 0
    page = workdir / "report" / "learning_rate" / "index.html"
    said = capsys.readouterr().out
    html = page.read_text()
    results = json.loads((page.parent / "results.json").read_text())
    assert f"report: {page}" in said and all(sentence in said for sentence in results["verdict"])
    assert "https://" not in html.replace("http://www.w3.org", "") and "<script" not in html
    figures = {p.stem for p in (page.parent / "figures").iterdir()}
    assert {"curves", "plane", "sensitivity", "divergence", "drift_N"} <= figures
    assert set(re.findall('<figure id="figure-([^"]*)"><svg', html)) == figures
    assert (
        sum(c["optimum"] is not None for c in results["curves"]) == 6 and results["diverged"] == 1
    )
    again = study(page.parent / "runs.csv.gz")
    assert again.points.frame["diverged"].sum() == 1
    assert [c.optimum for c in again.curves] == pytest.approx(
        [c["optimum"] for c in results["curves"]]
    )


def test_report_of_a_table_from_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ladder({"mup": 0.0, "standard": -0.8}).rename(columns={"loss": "final"}).to_csv(
        "runs.csv", index=False
    )
    assert (
        parser.main(
            [
                "report",
                "--study=learning_rate",
                "--table=runs.csv",
                "--column",
                "loss=final",
                "initial_loss=6.2",
            ]
        )
        == 0
    )
    said = capsys.readouterr().out
    assert (
        "mup drifts less than standard with width" in said
        and "missing: rule: 2 recipes or parametrisations" in said
    )
    results = json.loads((tmp_path / "report/learning_rate/results.json").read_text())
    assert (
        results["source"] == "runs.csv"
        and results["curves"][0]["sensitivity"]["initial_loss"] == 6.2
    )
    assert {d["parametrization"] for d in results["drift"]} == {"mup", "standard"}
    assert results["rule"] is None and any(b["diverges"] for b in results["boundaries"])


def test_a_table_that_supports_nothing_says_what_to_add(tmp_path):
    pd.DataFrame({"N": 1e6, "D": 2e7, "lr": [1e-3, 2e-3], "loss": [3.0, 3.1]}).to_csv(
        tmp_path / "t.csv", index=False
    )
    page = run_study("learning_rate", None, tmp_path / "t.csv", tmp_path / "out")
    results = json.loads((page.parent / "results.json").read_text())
    assert (
        any("three learning rates" in m for m in results["missing"])
        and len(results["excluded"]) == 2
    )
    assert all("fewer than three learning rates" in row["reason"] for row in results["excluded"])
