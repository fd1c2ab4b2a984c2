"""The study's page from a table and from records, through the command."""

import functools
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from stepladder.analysis.report.write import write_study
from stepladder.analysis.studies.registry import run_study, summary
from stepladder.analysis.studies.split import report
from stepladder.analysis.studies.split.figures import draw
from stepladder.analysis.studies.split.measures.cells import Sample, cells_of
from stepladder.analysis.studies.split.measures.comparisons import router_rows
from stepladder.analysis.studies.split.page import page
from stepladder.analysis.studies.split.read_table import check_table
from stepladder.analysis.studies.split.records import FLOORS, ROUTED, read
from stepladder.analysis.studies.split.text import sentences
from stepladder.configs.core import record
from stepladder.configs.core.errors import UserError
from stepladder.configs.core.load import load
from stepladder.train.cli import parser
from tests.support import synthetic_records as records
from tests.support import synthetic_split as made

ROOT = Path(__file__).resolve().parents[4]
CONFIG = ROOT / "configs" / "studies" / "split.py"
NAMES = ("docstrings", "c_cpp")  # the domains of the config's :tiny


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
def written(result, tmp_path_factory):
    """The page of the study that all tests share."""
    out = tmp_path_factory.mktemp("page")
    results = {"source": "a <b>table</b>", "command": "again"} | result.to_dict()
    shown = {"verdict": sentences(results), **results}
    path = write_study(out, page(results), shown, draw(result))
    return path.read_text(), json.loads((out / "results.json").read_text()), out


def test_the_page_is_whole_and_needs_no_other_file(written):
    html, _, _ = written
    tags = Tags()
    tags.feed(html)
    assert tags.open == [] and not {"script", "link", "iframe", "img"} & tags.names
    assert all(link.startswith(("#", "data:")) for link in tags.links)
    assert "a <b>table" not in html and "a &lt;b&gt;table" in html


def test_every_figure_is_on_the_page(written):
    html, _, out = written
    drawn = {path.stem for path in (out / "figures").glob("*.svg")}
    assert drawn == {"loss", "best", "held_out"}
    assert set(re.findall(r'<figure id="figure-(\w+)"', html)) == drawn


def test_the_page_says_whose_laws_these_are_and_what_h2_cannot(written):
    html, results, _ = written
    assert "no law here is the paper&#39;s" in html
    assert "H2 has only corner solutions here" in html
    assert {v["id"] for v in results["verdicts"]} == set("abcde")
    assert results["settings"]["interval"] == "repeated seeds, pooled"
    assert any("prefix router" in line for line in results["missing"])


def test_numbers_have_intervals(written):
    _, results, _ = written
    for name in ("observed", "regrets", "comparisons", "comparison_means", "law_held_out"):
        assert results[name]
        for row in results[name]:
            for low in (k for k in row if k.endswith("_low")):
                value, ends = row[low.removesuffix("_low")], (row[low], row[low[:-3] + "high"])
                assert None not in ends, (name, low, row)
                assert ends[0] - 1e-9 <= value <= ends[1] + 1e-9 or name != "observed"


def test_a_table_through_the_command(tmp_path, capsys):
    """One size and total, three fractions: too few for any law, which is said."""
    few = {"sizes": (1e4,), "ratios": (15,), "shares": (0.2, 0.8, 1.0), "seeds": 3}
    table = made.table(**few, noise=made.NOISE)
    table.loc[0, "loss"] = np.nan
    path, out = tmp_path / "models.csv", tmp_path / "out"
    table.rename(columns={"N": "params"}).to_csv(path, index=False)
    args = ["report", "--study=split", f"--table={path}", f"--out={out}"]
    assert parser.main(args) == 0
    said = capsys.readouterr().out
    results = json.loads((out / "results.json").read_text())
    assert results["excluded"][0]["reason"] == "the loss is missing or not a number"
    assert "left out: 1 rows" in said and "one size only" in said
    assert any(m.startswith("H1: 3 cells for 9 parameters") for m in results["missing"])
    assert results["command"] == f"stepladder report --study=split --table={path}"
    assert "where to split" in (out / "index.html").read_text().lower()


@pytest.fixture(scope="module")
def ladder(tmp_path_factory):
    """Records of the whole ladder of configs/studies/split.py:tiny, with losses of H1.

    One expert diverged, one is still running, one has no evaluation; a run is of another study.
    """
    workdir = tmp_path_factory.mktemp("ladder")
    specs = load(f"{CONFIG}:tiny", []).specs
    sizes = {"6k": 6_000, "14k": 14_000}
    by_id = {spec.run_id: spec for spec in specs}
    experts = [s for s in specs if s.tag["role"] == "expert"]
    odd = {
        experts[0].run_id: record.DIVERGED,
        experts[1].run_id: record.RUNNING,
    }
    patch = pytest.MonkeyPatch()
    patch.setattr(records, "DOMAINS", dict(zip(NAMES, (0.2, -0.2))))
    for spec in specs:
        trunk = by_id[spec.parent.run_id] if spec.parent else None
        general = spec.parent.step * trunk.tokens_per_step if trunk else 0
        dense = spec.tag["role"] == "dense"

        def loss(n, d, general=general, dense=dense):
            return made.loss(n, d if dense else general, 0 if dense else d - general)

        state = odd.get(spec.run_id, record.DONE)
        n = sizes[spec.model.size]
        records.write_run(workdir, spec, n=n, loss=loss, noise=0.0, state=state)
    records.write_run(workdir, records.spec("14k", 100))
    empty = workdir / record.RUNS / experts[2].run_id / record.METRICS
    for part in empty.iterdir():
        kept = [x for x in part.read_text().splitlines() if '"kind": "eval"' not in x]
        part.write_text("\n".join(kept) + "\n")
    floors = {order: {"all": 3.0, **dict.fromkeys(NAMES, 3.0)} for order in ("bigram", "5gram")}
    (workdir / FLOORS).parent.mkdir(parents=True)
    (workdir / FLOORS).write_text(json.dumps({"by_domain": floors}))
    patch.undo()
    return workdir, specs, experts


def test_records_become_the_table(ladder):
    workdir, specs, experts = ladder
    found = read(workdir)
    table = found.table
    assert set(table["run_id"]) == {s.run_id for s in specs if s.tag["role"] != "trunk"} - {
        e.run_id for e in experts[:3]
    }
    assert set(table["domain"]) == {*NAMES, "all"}
    by_id = {s.run_id: s for s in specs}
    for row in table.to_dict("records"):
        spec = by_id[row["run_id"]]
        tokens = spec.steps * spec.tokens_per_step
        assert row["D"] + row["D2"] == tokens
        expert = spec.tag["role"] == "expert"
        assert row["own"] == (spec.tag["own"] if expert else "")
        assert row["arm"] == (spec.tag["arm"] if expert else "dense")
        if not expert:
            assert row["D2"] == 0
        elif spec.parent is None:
            assert row["D"] == 0
        else:
            assert row["D"] == spec.parent.step * by_id[spec.parent.run_id].tokens_per_step
        assert row["K"] == 2 and row["floor_bigram"] == 3.0
        shift = {"docstrings": 0.2, "c_cpp": -0.2, "all": 0.0}[row["domain"]]
        truth = made.loss(row["N"], row["D"], row["D2"]) + shift
        assert row["loss"] == pytest.approx(truth, rel=1e-9)
    reasons = dict(zip(found.excluded["run_id"], found.excluded["reason"]))
    assert reasons == {
        experts[0].run_id: "run diverged",
        experts[1].run_id: "still running",
        experts[2].run_id: "no evaluation at its last step",
    }
    assert any("trunks are not decayed" in n for n in found.notes)
    assert any("1 of" in n and "not the study's" in n for n in found.notes)


def test_the_ladder_s_fractions_and_arms_are_found(ladder):
    found = check_table(read(ladder[0]).table)
    assert sorted(found.frame["s"].unique()) == [0.0, 0.4, 0.8, 1.0]
    shared = cells_of(found.frame, found.experts, "shared")
    unshared = cells_of(found.frame, found.experts, "unshared")
    assert shared.frame["N"].nunique() == 2 and unshared.domains == shared.domains
    # unshared trunks exist at one size; dense models and experts from scratch are of both arms
    inside = unshared.frame[(unshared.frame["s"] > 0) & (unshared.frame["s"] < 1)]
    assert set(inside["N"]) == {6_000}
    # the diverged, the running and the empty expert leave one cell without any, one without one
    assert len(shared.frame) + len(shared.excluded) == 15
    assert "has no loss on" in shared.excluded["reason"].iloc[0]


def write_routing(workdir, specs):
    """A file of the probe for the last set of experts: what routing adds is 0.25 and 0.75.

    Returns the experts and what the file holds.
    """
    trunk = next(s for s in specs if s.tag["role"] == "trunk" and s.tag["arm"] == "shared")
    mine = [
        s
        for s in specs
        if s.parent and s.parent.run_id == trunk.run_id and s.tag["role"] == "expert"
    ]
    last = [s for s in mine if s.steps == mine[-1].steps and s.parent.step == mine[-1].parent.step]
    assert [s.tag["own"] for s in last] == list(NAMES)
    measured = [
        {"domain": name, "oracle": 5.0, "prefix": 5.0 + more, "prefix_se": 0.1}
        for name, more in zip(NAMES, (0.25, 0.75))
    ]
    body = {"experts": {s.tag["own"]: s.run_id for s in last}, "rows": measured}
    (workdir / ROUTED).mkdir(exist_ok=True)
    (workdir / ROUTED / "a.json").write_text(json.dumps(body))
    return last, body


def test_what_a_prefix_router_costs_is_read_from_its_files(ladder):
    """Against the expert of the domain on the same tokens, those after the prefix."""
    workdir, specs, _ = ladder
    folder = workdir / ROUTED
    last, body = write_routing(workdir, specs)
    (folder / "b.json").write_text("{}")
    (folder / "c.json").write_text(json.dumps({**body, "experts": dict.fromkeys(NAMES, "gone")}))
    found = read(workdir)
    for path in folder.iterdir():
        path.unlink()
    rows = found.table[found.table["router"] == "prefix"]
    assert rows["run_id"].tolist() == [s.run_id for s in last]
    assert rows["loss"].tolist() == [5.25, 5.75] and (rows["K"] == 2).all()
    assert any("b.json is unreadable" in note for note in found.notes)
    assert any("c.json: 2 of its experts are not" in note for note in found.notes)
    (cost,) = router_rows(check_table(found.table).frame, "shared", Sample(200, 0.95, 0))
    assert (cost["pairs"], cost["difference"]) == (2, 0.5)


def test_a_ladder_through_the_registry(ladder, monkeypatch):
    workdir, specs, _ = ladder
    write_routing(workdir, specs)
    quick = functools.partial(report.study, laws=("H0",), **made.FEW)
    monkeypatch.setattr(report, "study", quick)
    path = run_study("split", workdir, None)
    assert path == workdir / "report" / "split" / "index.html"
    results = json.loads((path.parent / "results.json").read_text())
    assert {r["floor"] for r in results["floors"]} == {"bigram", "5-gram"}
    table = read(workdir).table
    shown = table[(table["own"] == table["domain"]) | (table["own"] == "")]
    models = int((shown["router"] == "oracle").sum())
    assert len(shown) == models + 2
    assert {r["models"] for r in results["floors"]} == {models}, "routed rows are of other tokens"
    assert [r["pairs"] for r in results["routers"]] == [2]
    assert "run diverged" in {r["reason"] for r in results["excluded"]}
    assert results["arms"] and "(a)" in summary("split", path)
    again = run_study("split", None, path.parent / "runs.csv.gz", path.parent / "again")
    same = json.loads((again.parent / "results.json").read_text())
    for name in ("observed", "comparisons", "allocation", "law_held_out"):
        assert same[name] == results[name]


def test_a_workdir_without_experts_is_refused(tmp_path):
    records.write_run(tmp_path, records.spec("14k", 100))
    with pytest.raises(UserError, match="no finished expert of the study split"):
        read(tmp_path)
