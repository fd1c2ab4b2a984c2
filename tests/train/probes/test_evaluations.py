"""Losses between two checkpoints, and on another corpus, against the runs' own records."""

import dataclasses

import numpy as np
import pytest

from stepladder.configs.core.branches.finetune import Tuning, finetune
from stepladder.configs.core.build import rung
from stepladder.configs.core.errors import UserError
from stepladder.configs.core.load import Loaded
from stepladder.configs.core.measurements import Elsewhere, Interpolation
from stepladder.configs.core.record import EVAL, RUNS
from stepladder.configs.core.spec import TaskSpec
from stepladder.train.ladder.ladder import run_ladder
from stepladder.train.probes.run import path_of, run_probes
from stepladder.train.record.record import read_json
from tests.support import tiny
from tests.support.errors import assert_user_error
from tests.support.records import rows


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(config, trunk, its fine-tuning on sums, workdir)."""
    folder = tmp_path_factory.mktemp("evaluations")
    config = tiny.config(folder / "text", model__document_mask=True, machine__devices=1)
    trunk = rung(config, role="trunk")
    child = finetune(trunk, 40, 12, TaskSpec("sums", "sums:2*200"), 3e-3, Tuning(schedule="linear"))
    run_ladder(Loaded("x", config, [trunk, child]), folder, quiet=True)
    return config, trunk, child, folder


def probed(trained, probe):
    config, trunk, child, folder = trained
    run_probes(Loaded("x", config, [trunk, child], (probe,)), folder)
    return read_json(path_of(folder, probe))


def evaluated(folder, run, step):
    found = rows(folder / RUNS / run.run_id, EVAL)
    return {r["domain"]: r["loss"] for r in found if r["step"] == step}


def test_the_ends_of_the_line_are_the_two_checkpoints(trained):
    _, trunk, child, folder = trained
    body = probed(trained, Interpolation(child, (0.0, 0.5, 1.0)))
    at = {a: {r["domain"]: r["loss"] for r in body["rows"] if r["alpha"] == a} for a in (0, 0.5, 1)}
    after = evaluated(folder, child, child.steps)
    assert set(at[1]) == {"all", "words", "digits", "task:sums"} == set(after)
    for domain, loss in after.items():
        assert at[1][domain] == pytest.approx(loss, rel=1e-6)
    for domain, loss in evaluated(folder, trunk, 40).items():
        assert at[0][domain] == pytest.approx(loss, rel=1e-6)
    assert at[1]["task:sums"] < at[0]["task:sums"]
    assert at[0.5]["task:sums"] != at[0]["task:sums"]


def test_only_a_branch_has_a_line(trained):
    with pytest.raises(UserError) as raised:
        Interpolation(trained[1])
    assert_user_error(raised, field="interpolation.run", value=trained[1].run_id, remedy="branch")


def test_a_checkpoint_is_evaluated_on_another_corpus(trained, tmp_path):
    """On its own text under another name it has the loss that its record has."""
    _, trunk, _, folder = trained
    corpus = dataclasses.replace(trunk.data.corpus, name="again")
    body = probed(trained, Elsewhere(trunk, 40, corpus, windows=trunk.eval_windows))
    want = evaluated(folder, trunk, 40)
    assert {r["domain"] for r in body["rows"]} == set(want)
    for row in body["rows"]:
        assert row["loss"] == pytest.approx(want[row["domain"]], rel=1e-6)
        assert np.isfinite(row["loss_se"])


def test_other_tokens_are_refused(trained):
    _, trunk, _, _ = trained
    corpus = dataclasses.replace(trunk.data.corpus, name="other", tokenizer="bpe:300")
    with pytest.raises(UserError) as raised:
        probed(trained, Elsewhere(trunk, 40, corpus))
    assert_user_error(raised, field="elsewhere.corpus", value="other", remedy="weight 0")
