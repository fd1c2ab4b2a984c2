"""Routing by a prefix: the losses are those of single windows, the choice is the best prefix."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from stepladder.configs.core.branches.cooldown import with_checkpoints
from stepladder.configs.core.branches.mixture import specialise
from stepladder.configs.core.build import rung
from stepladder.configs.core.errors import UserError
from stepladder.configs.core.load import Loaded
from stepladder.configs.core.measurements import Routing
from stepladder.configs.core.record import RUNS
from stepladder.model.loss.next_token import token_nll
from stepladder.train.data.read.batches import evaluation_windows
from stepladder.train.export.restore import open_checkpoint
from stepladder.train.ladder.ladder import run_ladder
from stepladder.train.probes.run import path_of, run_probes
from stepladder.train.record.record import read_json
from tests.support import tiny
from tests.support.errors import assert_user_error

DOMAINS = "words", "digits"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(config, trunk, two experts, workdir).

    Names of files decide what is held out, so they are the same wherever the folder is.
    """
    folder = tmp_path_factory.mktemp("routing")
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.chdir(folder)
    config = tiny.config(Path("text"), data__max_epochs=40.0, machine__devices=1)
    trunk = with_checkpoints(rung(config, role="trunk"), 16)
    experts = tuple(specialise(trunk, 16, 60, domain) for domain in DOMAINS)
    run_ladder(Loaded("x", config, [trunk, *experts]), folder, quiet=True)
    yield config, trunk, experts, folder
    monkeypatch.undo()


def probed(trained, probe):
    config, trunk, experts, folder = trained
    run_probes(Loaded("x", config, [trunk, *experts], (probe,)), folder)
    return read_json(path_of(folder, probe))


def test_the_losses_are_those_of_single_windows(trained):
    _, _, experts, folder = trained
    probe = Routing("split", "one", experts, prefix=8, windows=6)
    body = probed(trained, probe)
    opened = [open_checkpoint(str(folder / RUNS / run.run_id)) for run in experts]
    for domain, row in zip(DOMAINS, body["rows"], strict=True):
        own = DOMAINS.index(domain)
        windows_WT = evaluation_windows(opened[0].store, domain, 32, 6)
        nll_KWL = np.stack(
            [np.asarray(token_nll(o.spec.model, o.params, jnp.asarray(windows_WT))) for o in opened]
        )
        before_KW, after_KW = nll_KWL[..., :8].mean(-1), nll_KWL[..., 8:].mean(-1)
        chosen_W = before_KW.argmin(axis=0)
        routed_W = after_KW[chosen_W, np.arange(len(windows_WT))]
        assert row["domain"] == domain and row["windows"] == len(windows_WT)
        assert row["oracle"] == pytest.approx(after_KW[own].mean(), rel=1e-5)
        assert row["prefix"] == pytest.approx(routed_W.mean(), rel=1e-5)
        assert row["best"] == pytest.approx(after_KW.min(axis=0).mean(), rel=1e-5)
        assert row["chose_own"] == pytest.approx((chosen_W == own).mean())
    assert all(row["chose_own"] > 0.75 for row in body["rows"]), "one of six may be mistaken"
    assert body["experts"] == {d: run.run_id for d, run in zip(DOMAINS, experts, strict=True)}


@pytest.mark.parametrize("prefix", [0, 32])
def test_a_prefix_that_leaves_nothing_is_refused(trained, prefix):
    with pytest.raises(UserError) as raised:
        probed(trained, Routing("split", f"p{prefix}", trained[2], prefix))
    assert_user_error(raised, field="routing.prefix", value=prefix, remedy="use e.g. 8")


def test_two_experts_of_one_domain_are_refused(trained):
    one = trained[2][0]
    with pytest.raises(UserError) as raised:
        probed(trained, Routing("split", "twice", (one, one), 8))
    assert_user_error(raised, field="routing.experts", remedy="no two of the same")


def test_a_model_that_reads_a_mixture_is_no_expert(trained):
    _, trunk, experts, _ = trained
    with pytest.raises(UserError) as raised:
        probed(trained, Routing("split", "mixed", (trunk, experts[0]), 8))
    assert_user_error(raised, field="routing.experts", remedy="one domain")
