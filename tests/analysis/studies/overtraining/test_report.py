"""The study's page from a table and from records, through the command."""

import dataclasses
import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from stepladder.analysis.studies.overtraining.records import FLOORS, read
from stepladder.analysis.studies.overtraining.study import study
from stepladder.analysis.studies.registry import run_study
from stepladder.analysis.tables.file import read_file
from stepladder.configs.core import record
from stepladder.configs.core.errors import UserError
from stepladder.configs.core.spec import ParentSpec
from stepladder.train.cli import parser
from tests.support import synthetic_overtraining as made
from tests.support import synthetic_records as records

ONE = {"sizes": made.SIZES[:1], "seeds": 2, "draws": 2}
TABLE = "evil <b>bold<b> & co.csv"


class Tags(HTMLParser):
    """Whether every element is closed, and what a page loads."""

    def __init__(self):
        super().__init__()
        self.open, self.names, self.links = [], set(), []

    def handle_starttag(self, tag, attrs):
        self.names.add(tag)
        self.links += [v for k, v in attrs if k.split(":")[-1] in ("src", "href", "data")]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.names.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A table of every kind of change and two arms, with a bad row, through the command.

    Its two sizes and five budgets are too few for the laws of the loss, which is said.
    """
    folder = tmp_path_factory.mktemp("table")
    two = {**ONE, "sizes": made.SIZES[:2]}
    table = pd.concat(
        [
            made.noise(**two, trace=True).assign(floor_bigram=4.0, floor_5gram=3.5),
            made.noise(**ONE, arm="no_decay", k=0.5, seed=2),
            made.finetuned("easy", slope=-0.8, first=1.28e-2, ratios=made.RATIOS[:4]),
            made.finetuned("hard", slope=0, worse=0.05),
            made.finetuned("edge", slope=-1.5, first=3e-3, ratios=made.RATIOS[1:4]),
            made.quantised(sizes=made.SIZES[:1]),
        ],
        ignore_index=True,
    )
    table.loc[0, "loss"] = np.inf
    table = table.rename(columns={"D": "tokens"})
    path = folder / TABLE
    table.to_csv(path, index=False)
    args = ["report", "--study=overtraining", f"--table={path}", f"--out={folder / 'out'}"]
    assert parser.main(args) == 0
    out = folder / "out"
    return (out / "index.html").read_text(), json.loads((out / "results.json").read_text()), out


def test_the_page_is_whole_and_needs_no_other_file(page):
    html, _, _ = page
    tags = Tags()
    tags.feed(html)
    assert tags.open == [] and not {"script", "link", "iframe", "img"} & tags.names
    assert all(link.startswith(("#", "data:")) for link in tags.links)
    assert "<b>bold" not in html and "&lt;b&gt;bold" in html


def test_every_figure_is_on_the_page(page):
    html, _, out = page
    drawn = {path.stem for path in (out / "figures").glob("*.svg")}
    assert set(re.findall(r'<figure id="figure-(\w+)"', html)) == drawn
    single = {"T_star", "matched", "eta", "second_order", "toy"}
    assert single | {"delta_separate_noise_init_matrices", "loss_separate_finetune_hard"} <= drawn


def test_numbers_and_verdicts_of_the_page_are_in_the_results(page):
    html, results, _ = page
    words = {v["id"]: v["verdict"] for v in results["verdicts"]}
    assert {words[k] for k in "abcdgj"} == {"seen"}
    assert words["h"] == "not testable here"
    for v in results["verdicts"]:
        assert v["verdict"] in html and v["why"].replace("'", "&#39;") in html
        assert any(line.startswith(f"({v['id']})") for line in results["verdict"])
    for r in results["families"]:
        assert f"{r['growth']:.3g} [{r['growth_low']:.3g}, {r['growth_high']:.3g}]" in html
    # nats and perplexities are two columns
    cell = results["cells"][0]
    assert cell["delta"] == pytest.approx(cell["loss"] - cell["base_loss"])
    assert cell["delta_ppl"] == pytest.approx(cell["ppl"] - cell["ppl_base"])
    assert "tokens" in results["notes"][0]


def test_what_is_left_out_or_invalid_is_on_the_page(page):
    html, results, _ = page
    (row,) = results["excluded"]
    assert row["reason"] == "diverged: the loss after the change is infinite"
    assert row["reason"] in html
    edges = [r for r in results["rates"] if not r["valid"]]
    assert len(edges) == 1 and all(r["task"] == "edge" for r in edges)
    assert "optimum at the smallest rate tried" in html
    assert any("perturbed" in m for m in results["law_missing"])
    assert "fits that were not possible" in html
    assert any("arm trunk: no row" in m for m in results["missing"])


def test_the_toy_is_shown_under_the_definitions_of_the_study(page):
    html, results, _ = page
    rows = results["toy"]["rows"]
    assert {r["tau"] for r in rows} == {1.0}
    places = [r["T_star"] for r in rows]
    assert places == sorted(places, reverse=True) and len(set(places)) == len(places)
    assert all(r["monte_carlo"] == pytest.approx(r["last"], rel=0.01) for r in rows)
    assert "where the answer is exact" in html


def _pretrained(steps, seed=0, arm="separate", **more):
    run = records.spec("14k", steps, seed=seed, **more)
    tags = (("study", "overtraining"), ("arm", arm))
    return dataclasses.replace(run, name=f"{arm}-{steps}-s{seed}", tags=tags)


def _probe(workdir, run, *, step=None, quantised=True, loss=2.0):
    """A probe file as the trainer writes it, of noise at two gammas, all domains and one."""
    step = step or run.steps
    ratio = step * run.tokens_per_step / 14_000

    def losses(add):
        return {"all": loss + add, "code": loss + add + 0.1}

    body = {
        "run_id": run.run_id,
        "N": 14_000,
        "tokens": step * run.tokens_per_step,
        "step": step,
        "base": losses(0.0),
        "noise": [
            {
                "scale": scale,
                "tensors": tensors,
                "gamma": gamma,
                "draw": draw,
                "loss": losses(gamma**2 * ratio**0.5 * (1 + 0.01 * draw)),
            }
            for scale, tensors in (("init", "matrices"), ("init", "all"), ("weights", "matrices"))
            for gamma in (0.05, 0.1)
            for draw in range(2)
        ],
        "quantised": [
            {"bits": bits, "tensors": "matrices", "loss": losses(2.0**-bits)} for bits in (8, 4)
        ]
        if quantised
        else [],
        "curvature": {
            "trace": 9.0,
            "trace_sigma": 2 * ratio**0.5,
            "trace_sigma_se": 0.1,
            "lambda_max": 3.0,
            "tensors": "matrices",
        },
    }
    folder = workdir / record.RUNS / run.run_id / record.PROBES
    folder.mkdir(exist_ok=True)
    (folder / f"perturbation-{step}.json").write_text(json.dumps(body))


def _child(workdir, parent, rate, *, task="add", step=None, state=record.DONE):
    """A fine-tuned child: its evaluations are of all pretraining text and of its task."""
    start = step or parent.steps
    run = dataclasses.replace(
        records.spec("14k", start + 100, rate=rate, parent=ParentSpec(parent.run_id, start)),
        name=f"finetune-{task}-{parent.name}-{rate:g}",
        eval_steps=(start + 100,),
        tags=(("branch", "finetune"), ("task", task)),
    )
    folder = records.write_run(workdir, run, state=state, loss=lambda n, d: 2.5 + rate, noise=0)
    (part,) = (folder / record.METRICS).glob("*.jsonl")
    lines = [json.loads(line) for line in part.read_text().splitlines()]
    more = [
        {**r, "domain": f"task:{task}", "loss": 1 + rate}
        for r in lines
        if r["kind"] == record.EVAL and r["domain"] == "all"
    ]
    part.write_text("".join(json.dumps(r) + "\n" for r in lines + more))
    return run


@pytest.fixture
def workdir(tmp_path):
    """Three budgets, two seeds, all kinds of changes; and what must be left out."""
    for seed in (0, 1):
        for steps in (200, 400, 800):
            run = _pretrained(steps, seed)
            records.write_run(tmp_path, run, noise=0.001, rng=np.random.default_rng(steps + seed))
            _probe(tmp_path, run, loss=records.law(14_000, steps * 2048) + 0.001 * seed)
            for rate in (1e-3, 2e-3, 4e-3):
                _child(tmp_path, run, rate)
    (tmp_path / FLOORS).parent.mkdir(parents=True)
    (tmp_path / FLOORS).write_text(json.dumps({"bigram": 4.0, "5gram": 3.0}))
    return tmp_path


def test_from_records(workdir):
    found = read(workdir)
    table = found.table
    assert len(found.excluded) == 0
    assert table["change"].value_counts().to_dict() == {
        "noise:init:matrices": 24,
        "noise:init:all": 24,
        "noise:weights:matrices": 24,
        "int8": 6,
        "int4": 6,
        "finetune:add": 18,
    }
    assert set(table["D"]) == {200 * 2048, 400 * 2048, 800 * 2048} and set(table["N"]) == {14_000}
    assert (table["floor_bigram"] == 4).all() and set(table["seed"]) == {0, 1}
    # the trace is over the matrices, and of the initialisation's noise
    traced = table[table["trace_sigma"].notna()]["change"].unique().tolist()
    assert traced == ["noise:init:matrices"]
    tuned = table[table["change"] == "finetune:add"]
    np.testing.assert_allclose(tuned["loss"], 2.5 + tuned["strength"])
    np.testing.assert_allclose(tuned["tuned_loss"], 1 + tuned["strength"])
    # the base loss of a fine-tuned child is its parent's evaluation at the parent's step
    exact = [records.law(14_000, d) for d in tuned["D"]]
    np.testing.assert_allclose(tuned["base_loss"], exact, rtol=0.01)


def test_the_table_of_a_workdir_has_the_same_numbers(workdir):
    page = run_study("overtraining", workdir, None)
    assert page == workdir / "report" / "overtraining" / "index.html"
    one = json.loads((page.parent / "results.json").read_text())
    two = study(read_file(page.parent / "runs.csv.gz"), laws=()).to_dict()
    for name in "verdicts cells families inflections rates matched second_order floors".split():
        pd.testing.assert_frame_equal(pd.DataFrame(one[name]), pd.DataFrame(two[name]), rtol=1e-6)
    ratios = [r["ratio"] for r in one["second_order"]]
    np.testing.assert_allclose(ratios, 1.005, rtol=1e-6)


def test_what_a_workdir_cannot_give_is_listed(workdir):
    states = {"diverged": record.DIVERGED, "running": record.RUNNING}
    for k, state in enumerate(states.values()):
        records.write_run(workdir, _pretrained(300, 10 + k), state=state)
    no_probe = _pretrained(300, 20)
    records.write_run(workdir, no_probe)
    early = _pretrained(400, 21)
    records.write_run(workdir, early)
    _probe(workdir, early, step=200)
    broken = _pretrained(400, 22)
    records.write_run(workdir, broken)
    _probe(workdir, broken)
    (workdir / "runs" / broken.run_id / "probes" / "perturbation-9.json").write_text("{")
    records.write_run(workdir, _pretrained(400, 23, arm="other"))
    lost = _pretrained(600, 24)
    records.write_run(workdir, lost, state=record.DIVERGED)
    _child(workdir, lost, 1e-3)
    _child(workdir, no_probe, 1e-3, step=120)  # its parent was not evaluated there
    _child(workdir, no_probe, 2e-3, step=150)  # evaluated, but half way
    _child(workdir, no_probe, 8e-3, state=record.DIVERGED)
    orphan = dataclasses.replace(no_probe, name="gone")
    _child(workdir, orphan, 1e-3)
    records.write_run(workdir, records.spec("37k", 300))
    found = read(workdir)
    reasons = found.excluded["reason"].tolist()
    assert sorted(set(reasons)) == [
        "a checkpoint whose learning rate had not decayed",
        "arm 'other' is none of separate, trunk, no_decay, large_rate",
        "fine-tuned run: its parent has no readable record",
        "its parent diverged",
        "its parent's checkpoint had a learning rate not yet decayed",
        "probe perturbation-9.json: unreadable (no object of JSON)",
        "still running",
        "the pretrained model diverged",
    ]
    assert found.notes == ("1 of 37 runs of the workdir are not the study's",)
    result = study(found.table, excluded=found.excluded, resamples=200, laws=())
    more = {r["reason"] for r in result.excluded} - set(reasons)
    assert more == {
        "base_loss is missing: there is nothing to compare with",
        "diverged: the loss after the change is infinite",
    }


def test_checkpoints_without_decay_are_the_arm_without_decay(workdir):
    run = _pretrained(400, 30, arm="no_decay")
    records.write_run(workdir, run)
    _probe(workdir, run, step=200)
    table = read(workdir).table
    assert set(table.loc[table["arm"] == "no_decay", "D"]) == {200 * 2048}


def test_a_workdir_without_the_study_is_refused(tmp_path, capsys):
    records.write_run(tmp_path, records.spec("37k", 300))
    with pytest.raises(UserError, match="no changed model of the study overtraining"):
        read(tmp_path)
    assert parser.main(["report", "--study=overtraining", f"--workdir={tmp_path}"]) == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
