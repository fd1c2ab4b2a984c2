"""The table of studies: what each reads, and what it says of what it cannot read."""

import json
from pathlib import Path

import pandas as pd
import pytest

from stepladder.analysis.studies import registry
from stepladder.analysis.studies.registry import DEFAULT, STUDIES, run_study
from stepladder.configs.core.errors import UserError
from stepladder.train.cli import parser
from tests.support import synthetic_records as records


@pytest.mark.parametrize(
    "args, said",
    [
        (["--study=learning_rates", "--workdir=W"], "did you mean 'learning_rate'"),
        (["--study=learning_rate"], "give one of them"),
        (["--study=learning_rate", "--workdir=W", "--table=t.csv"], "give one of them"),
        (["--table=t.csv"], "reads records, not a table"),
        ([], "give --workdir=DIR"),
        (["--study=learning_rate", "--table=absent.csv"], "does not exist"),
        (["--study=learning_rate", "--workdir=absent"], "does not exist"),
        (["--study=learning_rate", "--workdir=W", "--column", "loss=x"], "add --table=FILE"),
    ],
)
def test_refusals_of_the_command_are_one_line(args, said, capsys):
    assert parser.main(["report", *args]) == 1
    err = capsys.readouterr().err.strip()
    assert said in err and len(err.splitlines()) == 1


def test_a_column_that_is_not_there_is_named(tmp_path):
    pd.DataFrame({"N": [1e6], "D": [2e7], "lr": [1e-3], "smooth loss": [3.0]}).to_csv(
        tmp_path / "t.csv", index=False
    )
    with pytest.raises(UserError, match="did you mean 'smooth loss'"):
        run_study(
            "learning_rate",
            None,
            tmp_path / "t.csv",
            tmp_path / "out",
            columns={"loss": "smoth loss"},
        )


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_asks_a_question_and_refuses_an_absent_workdir(name, tmp_path):
    assert STUDIES[name].question.endswith("?")
    with pytest.raises(UserError, match="does not exist"):
        run_study(name, tmp_path / "absent", None)


def test_the_default_study_writes_where_the_report_always_was(tmp_path, capsys):
    records.write_proxies(tmp_path)
    assert parser.main(["report", f"--workdir={tmp_path}"]) == 0
    said = capsys.readouterr().out
    page = tmp_path / "report" / "index.html"
    results = json.loads((page.parent / "results.json").read_text())
    assert said.endswith(f"report: {page}\n") and results["law"]["formula"] in said
    assert run_study(DEFAULT, tmp_path, None) == page


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_has_the_same_files(name):
    folder = Path(registry.__file__).parent / name
    names = {path.name for path in folder.iterdir()}
    assert {"study.py", "figures.py", "page.py", "report.py"} <= names
