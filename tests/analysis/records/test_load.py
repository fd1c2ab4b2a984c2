"""Records to tables: nothing is dropped without a line that says so."""

import json

import numpy as np
import pytest

from stepladder.analysis.records.final_points import final_points
from stepladder.analysis.records.load import load
from stepladder.configs.core import record
from stepladder.configs.core.errors import UserError
from stepladder.configs.core.spec import ParentSpec
from tests.support import synthetic_records as records


def reasons(table, run_id):
    return table[table["run_id"] == run_id]["reason"].tolist()


def test_one_run_becomes_a_row_and_its_evaluations_points(tmp_path):
    run = records.spec("37k", 500)
    records.write_run(tmp_path, run)
    runs = load(tmp_path)
    row = runs.runs.iloc[0]
    assert (row["run_id"], row["role"], row["size"], row["state"]) == (
        run.run_id,
        "proxy",
        "37k",
        "done",
    )
    assert (row["N"], row["params_non_embedding"]) == (40_000, 36_000)
    assert row["D"] == 500 * run.tokens_per_step
    assert row["train_flops"] == row["D"] * row["flops_per_token_train"]
    assert row["train_flops_6nd"] == row["D"] * 6 * 36_000
    assert len(runs.points) == 2 * 3  # two steps, "all" and two domains
    whole = runs.points[runs.points["domain"] == "all"]
    assert whole["decayed"].tolist() == [False, True]
    assert whole["C"].tolist() == [
        s * run.tokens_per_step * row["flops_per_token_train"] for s in (250, 500)
    ]
    assert len(runs.train) == 50 and set(runs.timing["phase"]) >= {"compile", "steps", "window"}
    assert len(runs.excluded) == 0


def test_n_can_leave_out_the_embedding(tmp_path):
    records.write_run(tmp_path, records.spec("37k", 500))
    assert set(load(tmp_path, n="params_non_embedding").points["N"]) == {36_000}
    with pytest.raises(UserError, match="n='params'"):
        load(tmp_path, n="params")


def test_missing_workdir_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="workdir="):
        load(tmp_path / "nowhere")


def test_an_empty_workdir_gives_empty_tables(tmp_path):
    runs = load(tmp_path)
    assert len(runs.runs) == len(runs.points) == 0
    assert len(final_points(runs)[0]) == 0


@pytest.mark.parametrize("state", [record.DIVERGED, record.FAILED, record.RUNNING, record.PENDING])
def test_runs_that_are_not_done_are_listed_and_stay_out_of_the_law(tmp_path, state):
    run = records.spec("37k", 500)
    records.write_run(tmp_path, run, state=state, reason="because <so>")
    runs = load(tmp_path)
    assert any("because <so>" in r for r in reasons(runs.excluded, run.run_id))
    used, left = final_points(runs)
    assert len(used) == 0
    assert len(reasons(left, run.run_id)) == 2


def test_undecayed_sweep_and_target_points_are_left_out_with_their_reasons(tmp_path):
    proxy = records.spec("37k", 500)
    sweep = records.spec("37k", 500, role="sweep")
    target = records.target_spec()
    for run in (proxy, records.spec("37k", 600, role="sweep", rate=3e-3), target):
        records.write_run(tmp_path, run)
    used, left = final_points(load(tmp_path))
    assert used["run_id"].tolist() == [proxy.run_id]
    assert [r.split(":")[0] for r in reasons(left, proxy.run_id)] == ["undecayed"]
    assert set(left["reason"].str.split(":").str[0]) == {
        "undecayed",
        "learning-rate sweep",
        "the target",
    }
    # tags and names are no part of the hash
    assert sweep.run_id == proxy.run_id.replace("proxy", "sweep")


def test_a_truncated_last_line_is_listed_and_not_fatal(tmp_path):
    run = records.spec("37k", 500)
    folder = records.write_run(tmp_path, run)
    part = next((folder / record.METRICS).iterdir())
    part.write_text(part.read_text() + '{"step": 500, "tok')
    runs = load(tmp_path)
    assert len(runs.points) == 6
    assert "cut short" in reasons(runs.excluded, run.run_id)[0]


@pytest.mark.parametrize(
    "line",
    [
        "not json",
        "[1, 2]",
        '{"step": 5}',
        '{"step": 5, "tokens": 1, "kind": "eval", "loss": 1.0}',
        "5",
        '{"step": "x", "tokens": 1, "kind": "train"}',
        (
            '{"step": 5, "tokens": 1, "kind": "eval", "domain": "all", "decayed": true, "loss": '
            '"high"}'
        ),
    ],
)
def test_an_unreadable_line_is_listed_and_the_others_stand(tmp_path, line):
    run = records.spec("37k", 500)
    folder = records.write_run(tmp_path, run)
    part = next((folder / record.METRICS).iterdir())
    part.write_text(line + "\n" + part.read_text())
    runs = load(tmp_path)
    assert len(runs.points) == 6
    assert "line 1: unreadable" in reasons(runs.excluded, run.run_id)[0]


def test_of_a_step_written_twice_the_last_attempt_stands(tmp_path):
    run = records.spec("37k", 500)
    folder = records.write_run(tmp_path, run)
    again = {
        "step": 500,
        "tokens": 1_024_000,
        "kind": "eval",
        "domain": "all",
        "loss": 9.0,
        "decayed": True,
    }
    (folder / record.METRICS / record.part_name(400, 500)).write_text(json.dumps(again) + "\n")
    runs = load(tmp_path)
    assert runs.points.query("step == 500 and domain == 'all'")["loss"].tolist() == [9.0]
    assert "duplicate eval row (an earlier attempt)" in reasons(runs.excluded, run.run_id)[0]


def test_a_row_outside_of_its_part_and_a_bad_part_name_are_listed(tmp_path):
    run = records.spec("37k", 500)
    folder = records.write_run(tmp_path, run)
    (folder / record.METRICS / "notes.jsonl").write_text("{}\n")
    (folder / record.METRICS / record.part_name(500, 600)).write_text(
        json.dumps({"step": 900, "tokens": 1, "kind": "train", "loss": 1.0}) + "\n"
    )
    said = " ".join(reasons(load(tmp_path).excluded, run.run_id))
    assert "not first-last" in said and "outside of the part" in said


@pytest.mark.parametrize("name", [record.SPEC, record.LINEAGE])
def test_a_run_without_spec_or_lineage_is_listed(tmp_path, name):
    run = records.spec("37k", 500)
    (records.write_run(tmp_path, run) / name).unlink()
    runs = load(tmp_path)
    assert len(runs.runs) == 0
    assert name in reasons(runs.excluded, run.run_id)[0]


def test_a_loss_that_is_no_number_is_listed(tmp_path):
    run = records.spec("37k", 500)
    records.write_run(tmp_path, run, loss=lambda n, d: float("nan"))
    runs = load(tmp_path)
    assert len(runs.points) == 0
    assert sum("loss is" in r for r in reasons(runs.excluded, run.run_id)) == 6


def test_runs_of_the_ladder_that_have_not_started_are_listed(tmp_path):
    (tmp_path / record.LADDER).write_text(json.dumps({"config": "c.py", "runs": ["a-1", "b-2"]}))
    assert load(tmp_path).excluded["reason"].tolist() == ["planned by the ladder, not started"] * 2


def test_branches_share_the_root_of_their_trunk(tmp_path):
    specs = records.write_proxies(tmp_path, sizes=("14k",))
    runs = load(tmp_path)
    trunks = {s.run_id for s in specs if s.parent is None}
    assert set(runs.points["root"]) == trunks
    used, _ = final_points(runs)
    assert len(used) == len(specs) == 6 and used["decayed"].all()


def test_a_branch_without_its_trunk_is_named(tmp_path):
    records.write_run(
        tmp_path, records.spec("37k", 500, parent=ParentSpec("gone-00000000", 100), evals=[500])
    )
    runs = load(tmp_path)
    assert "no readable record" in reasons(runs.excluded, "gone-00000000")[0]
    assert len(runs.points) == 3 and np.isfinite(runs.points["loss"]).all()
