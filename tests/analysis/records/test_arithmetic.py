"""Runs that were computed in different arithmetics: named, and one fit only when asked for."""

import json

import pytest

from stepladder.analysis.records.arithmetic import arithmetic_of
from stepladder.analysis.records.load import load
from stepladder.analysis.studies.extrapolation.forecast import forecast
from stepladder.analysis.studies.extrapolation.study import study
from stepladder.analysis.studies.learning_rate.curves import curves
from stepladder.analysis.tables.points import read_points
from stepladder.configs.core import record
from stepladder.configs.core.errors import UserError
from stepladder.train.cli import parser
from tests.support import synthetic_records


def rewrite(workdir, chosen, **changes):
    """Change the lineage of the runs that `chosen` takes."""
    for path in sorted((workdir / record.RUNS).glob(f"*/{record.LINEAGE}")):
        body = json.loads(path.read_text())
        if chosen(json.loads((path.parent / record.SPEC).read_text())):
            path.write_text(json.dumps(body | changes))


@pytest.fixture
def mixed(tmp_path):
    """A ladder of which the runs of seed 0 are said to be computed in bfloat16."""
    synthetic_records.write_proxies(tmp_path)
    synthetic_records.write_sweep(tmp_path)
    rewrite(tmp_path, lambda spec: spec["hyper"]["seed"] == 0, arithmetic="bfloat16")
    rewrite(tmp_path, lambda spec: spec["hyper"]["seed"] != 0, arithmetic="float32")
    return tmp_path


@pytest.mark.parametrize(
    ("platform", "dtype", "found"),
    [
        ("cpu", "float32", "float32"),
        ("gpu", "float32", "tensorfloat32"),
        ("tpu", "float32", "float32 in one bfloat16 pass"),
        ("gpu", "bfloat16", "bfloat16"),
        ("", "float32", "float32"),
    ],
)
def test_a_record_that_does_not_name_it_was_computed_as_its_device_does(platform, dtype, found):
    spec, lineage = {"model": {"compute_dtype": dtype}}, {"machine": {"platform": platform}}
    assert arithmetic_of(spec, lineage) == found
    assert arithmetic_of(spec, {**lineage, "arithmetic": "float32"}) == "float32"
    assert arithmetic_of(spec, {}) == dtype


def test_a_record_of_a_cpu_means_what_it_did(tmp_path):
    synthetic_records.write_proxies(tmp_path)
    runs = load(tmp_path)
    assert set(runs.runs["arithmetic"]) == {"float32"} == set(runs.points["arithmetic"])
    assert len(read_points(tmp_path).frame)


def test_one_fit_of_several_is_refused_unless_asked_for(mixed):
    with pytest.raises(UserError, match=r"bfloat16 \(\d+\).*--mixed-arithmetic"):
        read_points(mixed)
    every = read_points(mixed, mixed_arithmetic=True).frame
    parts = [read_points(mixed, where=[f"arithmetic={n}"]).frame for n in ("float32", "bfloat16")]
    assert len(every) == sum(map(len, parts)) and all(map(len, parts))
    grouped = read_points(mixed, group="arithmetic").frame
    assert set(grouped["group"]) == {"float32", "bfloat16"} and len(grouped) == len(every)


def test_the_command_refuses_and_is_told_how_to_ask(mixed, capsys):
    assert parser.main(["fit", str(mixed)]) == 1
    assert "--where arithmetic=" in capsys.readouterr().err
    assert parser.main(["fit", str(mixed), "--mixed-arithmetic", "--json"]) == 0


def test_forecast_and_law_of_a_report_are_refused(mixed):
    with pytest.raises(UserError, match="arithmetic: the points are of several"):
        forecast(load(mixed), synthetic_records.target_point())
    found = study(mixed).results
    assert found["law"] is None
    assert any(line.startswith("law: arithmetic: the points") for line in found["missing"])


def test_a_learning_rate_curve_is_of_one(mixed):
    found, _ = curves(mixed)
    assert found and all(c.settings["arithmetic"] in ("float32", "bfloat16") for c in found)
