"""`stepladder report --study=proxy_transfer`: from someone's table and from our records to the
page, every number of it in results.json.
"""

import dataclasses
import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from stepladder.analysis.studies.proxy_transfer import read, study
from stepladder.analysis.studies.proxy_transfer.records import NGRAMS
from stepladder.analysis.studies.proxy_transfer.report import of_table
from stepladder.analysis.studies.registry import run_study
from stepladder.configs.core import record
from stepladder.configs.core.errors import UserError
from stepladder.train.cli import parser
from tests.support import synthetic_recipes as made
from tests.support import synthetic_records as records

TABLE = "evil <script>alert(1)</script> & co.csv"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A table with arms, baselines, a hole, a diverged run and a bad row, through the command."""
    folder = tmp_path_factory.mktemp("table")
    table = made.arms(made.table(recipes=6, seeds=2))
    body = made.ngrams(6)
    for name in ("unigram", "bigram"):
        table[name] = [body[name][r][d] for r, d in zip(table["recipe"], table["domain"])]
    table = table[
        ~((table["recipe"] == "r03") & (table["learning_rate"] == 3e-5) & (table["size"] == "4M"))
    ]
    table.loc[
        (table["recipe"] == "r01") & (table["learning_rate"] == 3e-3) & (table["size"] == "4M"),
        "loss",
    ] = np.inf
    table.loc[table.index[0], "loss"] = np.nan
    path = folder / TABLE.replace("/", "_")
    table.to_csv(path, index=False)
    assert (
        parser.main(
            ["report", "--study=proxy_transfer", f"--table={path}", f"--out={folder / 'out'}"]
        )
        == 0
    )
    return (
        (folder / "out" / "index.html").read_text(),
        json.loads((folder / "out" / "results.json").read_text()),
        folder / "out",
    )


class Tags(HTMLParser):
    VOID = frozenset({"meta", "br", "path", "use"})

    def __init__(self):
        super().__init__()
        self.open, self.names, self.links = [], set(), []

    def handle_starttag(self, tag, attrs):
        self.names.add(tag)
        self.links += [v for k, v in attrs if k.split(":")[-1] in ("src", "href", "data")]
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.names.add(tag)
        self.links += [v for k, v in attrs if k.split(":")[-1] in ("src", "href", "data")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_no_other_file(page):
    html, _, _ = page
    tags = Tags()
    tags.feed(html)
    assert tags.open == [] and not {"script", "link", "iframe", "img"} & tags.names
    assert all(link.startswith(("#", "data:")) for link in tags.links) and not re.search(
        r"url\((?!['\"]?#)", html
    )
    assert "<script>alert" not in html and "&lt;script&gt;" in html


def test_every_figure_and_every_exclusion_is_on_the_page(page):
    html, results, out = page
    drawn = {path.stem for path in (out / "figures").glob("*.svg")}
    assert {"rho", "accuracy", "regret", "slopes", "losses", "flip_matrix", "arms"} <= drawn
    assert {name for name in re.findall(r'<figure id="figure-(\w+)"', html)} == drawn
    row = next(
        r
        for r in results["agreement"]
        if (r["size"], r["learning_rate"], r["domain"], r["against"])
        == ("4M", 3e-5, "mean", "tuned target")
    )
    assert (row["recipes"], row["of"], row["missing"]) == (5, 6, ["r03"])
    assert "5 of 6" in html and "without r03" in html and "diverged, so last: r01" in html
    assert [c["recipe"] for c in results["missing_cells"]] == ["r03"]
    assert [r["reason"] for r in results["excluded"]] == [
        "the loss is missing or not a number"
    ] and len(results["diverged"]) == 6


def test_numbers_of_the_page_are_in_the_results(page):
    html, results, _ = page
    for v in results["verdicts"]:
        assert v["why"].replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") in html
    for r in results["agreement"]:
        if r["domain"] == "mean" and r["rho"] is not None:
            assert f"{r['rho']:.3f} [{r['rho_low']:.3f}, {r['rho_high']:.3f}]" in html
    assert results["verdict"][0].startswith("6 recipes, proxies 4M, 10M, target 60M")
    assert any(line.startswith("(c)") for line in results["verdict"])


@pytest.mark.parametrize("renamed", [{}, {"recipe": "mixture", "domain": "validation"}])
def test_baselines_are_columns_of_the_table_under_any_usual_name(renamed):
    table, body = made.table(recipes=5, seeds=1), made.ngrams(5)
    table["bigram"] = [body["bigram"][r][d] for r, d in zip(table["recipe"], table["domain"])]
    found = of_table(table.rename(columns=renamed), None).ngrams
    assert found["bigram"]["r01"] == pytest.approx(
        {d: body["bigram"]["r01"][d] for d in table["domain"].unique()}
    )


@pytest.mark.slow
def test_without_baselines_or_probes_the_page_says_so(tmp_path):
    made.table(recipes=5, seeds=1).to_parquet(tmp_path / "t.parquet")
    assert (
        parser.main(
            [
                "report",
                "--study=proxy_transfer",
                f"--table={tmp_path / 't.parquet'}",
                f"--out={tmp_path}",
            ]
        )
        == 0
    )
    html = (tmp_path / "index.html").read_text()
    for said in (
        "bigram ranking: not given",
        "probes: none given",
        "No n-gram baseline was given",
        "unknown: no repeated seeds",
    ):
        assert said in html
    assert "What the gradients alone say" not in html
    again = run_study("proxy_transfer", None, made.table(recipes=5, seeds=1), tmp_path / "frame")

    def same(path):
        return json.loads((path / "results.json").read_text())["agreement"]

    assert same(again.parent) == same(tmp_path)


def _write(
    workdir, *, recipes=5, rates=(1e-5, 3e-4, 3e-3), seeds=(0, 1), states=None, arms=()
) -> list[str]:
    """Records of two sizes; the loss of recipe r is higher by 0.05 r, at the high rate of the proxy
    lower.
    """
    ids = []
    rng = np.random.default_rng(0)
    for role, size in (("proxy", "14k"), ("target", "84k")):
        for r in range(recipes):
            for rate in rates:
                for seed in seeds:
                    for arm in ("main", *(arms if role == "proxy" else ())):
                        run = records.spec(size, 200, role=role, seed=seed, rate=rate)
                        turned = role == "proxy" and rate > 1e-4
                        shift = 0.05 * (-r if turned else r) + 0.1 * abs(math.log(rate / 3e-4))
                        run = dataclasses.replace(
                            run,
                            name=f"{role}-r{r}-{arm.replace('/', '-')}-{rate:g}",
                            batch_size=4 if arm == "batch/4" else run.batch_size,
                            data=dataclasses.replace(
                                run.data,
                                weights=(("code", 0.1 * (r + 1)), ("prose", 1 - 0.1 * (r + 1))),
                            ),
                            tags=(
                                ("study", "proxy_transfer"),
                                ("role", role),
                                ("recipe", f"r{r}"),
                                ("arm", arm),
                            ),
                        )
                        state = (states or {}).get((role, r, rate, seed), record.DONE)
                        records.write_run(
                            workdir,
                            run,
                            state=state,
                            noise=1e-4,
                            rng=rng,
                            loss=lambda n, d, shift=shift: 3 + shift,
                        )
                        ids.append(run.run_id)
    return ids


def test_from_records(tmp_path):
    states = {("proxy", 1, 3e-3, 0): record.DIVERGED, ("proxy", 2, 3e-3, 1): record.RUNNING}
    ids = _write(tmp_path, states=states, arms=("batch/4",))
    records.write_run(tmp_path, records.spec("37k", 300, role="sweep"))
    body = {f"r{r}": {"code": 5 + r, "prose": 5 + r} for r in range(5)}
    (tmp_path / NGRAMS).parent.mkdir(parents=True)
    (tmp_path / NGRAMS).write_text(json.dumps({"unigram": body, "bigram": body}))
    folder = tmp_path / "runs" / ids[0] / "probes"
    folder.mkdir()
    for fraction, step in ((0.0, 0), (0.1, 20)):
        probe = {
            "run_id": ids[0],
            "size": "14k",
            "N": 14000,
            "role": "proxy",
            "step": step,
            "fraction": fraction,
            "tokens": 100,
            "warmup_end": False,
            "recipes": {
                f"r{r}": {"a": 1 - 0.1 * r, "c": 1e4 * (1 - 0.1 * r), "grad_norm": 1.0}
                for r in range(5)
            },
            "per_domain": {},
            "lambda_max": 10.0,
            "lambda_iterations": 9,
            "lambda_residual": 0.1,
        }
        (folder / f"alignment-{step}.json").write_text(json.dumps(probe))
    (folder / "alignment-9.json").write_text("{")
    found = read(tmp_path)
    assert set(found.table["domain"]) == {"all", "code", "prose"} and set(found.table["arm"]) == {
        "main",
        "batch/4",
    }
    assert (
        np.isinf(found.table.loc[found.table["state"] == "diverged", "loss"]).all()
        and len(found.probes) == 2
    )
    assert (found.table["loss_init"] == math.log(257)).all() and set(found.table["precision"]) == {
        "float32"
    }
    reasons = set(found.excluded["reason"])
    assert {"still running", "another study's run"} <= reasons and any(
        "unreadable" in n for n in found.notes
    )
    result = study(found.table, found.ngrams, found.probes, resamples=400, excluded=found.excluded)
    rows = (
        result.frame("agreement")
        .query("domain == 'mean' and against == 'tuned target'")
        .set_index("learning_rate")["rho"]
    )
    assert rows[1e-5] == 1 and rows[3e-4] == -1
    assert (
        result.validity.precision["ok"]
        and result.frame("trained")["trained"].all()
        and len(result.alignment.rows) == 2
    )
    assert {d["recipe"] for d in result.left_out.diverged} == {"r1"}
    assert parser.main(["report", "--study=proxy_transfer", f"--workdir={tmp_path}"]) == 0
    out = tmp_path / "report" / "proxy_transfer"
    assert "What the gradients alone say" in (out / "index.html").read_text()
    assert (
        parser.main(
            [
                "report",
                "--study=proxy_transfer",
                f"--table={out / 'runs.csv.gz'}",
                f"--out={tmp_path / 'again'}",
            ]
        )
        == 0
    )
    one, two = (
        json.loads((folder / "results.json").read_text()) for folder in (out, tmp_path / "again")
    )
    assert (
        "2 probes are from probes.json beside the table" in two["notes"]
        and one["verdict"][1:6] == two["verdict"][1:6]
    )
    for name in (
        "agreement nulls regret flips arms alignment crossovers sharpness ngrams snr claims "
        "diverged"
    ).split():
        assert (
            pd.testing.assert_frame_equal(
                pd.DataFrame(one[name]), pd.DataFrame(two[name]), rtol=1e-6
            )
            is None
        ), name
    (out / "probes.json").write_text("{")
    assert (
        parser.main(
            [
                "report",
                "--study=proxy_transfer",
                f"--table={out / 'runs.csv.gz'}",
                f"--out={tmp_path / 'again'}",
            ]
        )
        == 1
    )


def test_records_with_the_same_weights_are_warned(tmp_path):
    _write(tmp_path, seeds=(0,))
    assert read(tmp_path).warnings == ()
    run = next(p for p in (tmp_path / "runs").iterdir() if "proxy-r0-" in p.name)
    for other in (p for p in (tmp_path / "runs").iterdir() if "-r1-" in p.name):
        spec = json.loads((other / record.SPEC).read_text())
        spec["data"] = json.loads((run / record.SPEC).read_text())["data"]
        (other / record.SPEC).write_text(json.dumps(spec))
    assert any("'r0' and 'r1'" in w for w in read(tmp_path).warnings)


def test_a_workdir_without_the_study_is_refused(tmp_path, capsys):
    records.write_run(tmp_path, records.spec("37k", 300))
    with pytest.raises(UserError, match="no finished run of the study"):
        read(tmp_path)
    assert parser.main(["report", "--study=proxy_transfer", f"--workdir={tmp_path}"]) == 1
    assert "workdir=" in capsys.readouterr().err
