"""The report: one file that needs no other, whatever part of the ladder exists."""

import json
import re
from html.parser import HTMLParser

import pytest

from stepladder.analysis.studies.extrapolation.forecast_file import write_forecast
from stepladder.analysis.studies.extrapolation.report import report
from stepladder.analysis.studies.extrapolation.terminal import summary
from stepladder.analysis.studies.registry import run_study
from stepladder.configs.core import record
from stepladder.configs.core.errors import UserError
from tests.support import synthetic_records as records


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    records.write_proxies(workdir)
    records.write_sweep(workdir, sizes=("14k", "150k"), steps=(500,))
    records.write_run(
        workdir,
        records.spec("84k", 700, seed=5),
        state=record.DIVERGED,
        reason="loss <script>alert(1)</script> & more",
    )
    target = records.target_spec()
    write_forecast(workdir, target.hash, target.run_id, records.target_point())
    records.write_target(workdir)
    path = run_study("extrapolation", workdir, None)
    assert path == workdir / "report" / "index.html"
    return path.read_text(), json.loads((path.parent / "results.json").read_text())


class Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found, self.tags = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.found += [
            value
            for name, value in attrs
            if name.split(":")[-1] in ("src", "href", "data", "srcset")
        ]


def test_the_page_needs_no_other_file(whole):
    html, _ = whole
    parser = Links()
    parser.feed(html)
    assert all(link.startswith(("#", "data:")) for link in parser.found)
    assert not {"script", "link", "iframe", "img", "object"} & set(parser.tags)
    assert not re.search(r"url\((?!['\"]?#)", html) and "@import" not in html


def test_the_headline(whole):
    html, results = whole
    entry = results["forecasts"][0]
    for text in (
        f"{entry['prediction']:.3f}",
        f"{entry['low']:.3f} to {entry['high']:.3f}",
        f"{entry['truth']:.3f}",
        entry["target_spec_hash"][:16],
    ):
        assert text in html
    assert results["missing"] == []
    assert entry["covered"] == (entry["low"] <= entry["truth"] <= entry["high"])
    assert abs(entry["error"]) < 0.05 and set(entry["domains"]) == {"code", "prose"}


def test_every_figure_file_is_on_the_page(tmp_path):
    records.write_proxies(tmp_path)
    records.write_sweep(tmp_path, sizes=("14k", "150k"), steps=(500,))
    path = report(tmp_path)
    figures = {p.stem for p in (path.parent / "figures").iterdir()}
    assert figures == {"loss_curves", "extrapolation", "contours", "residuals", "learning_rate"}
    assert set(re.findall('<figure id="figure-([^"]*)"><svg', path.read_text())) == figures


def test_values_are_escaped(whole):
    html, _ = whole
    assert (
        "<script>alert" not in html and "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in html
    )


def test_time_shares_sum_to_one_and_leave_the_windows_out(whole):
    _, results = whole
    assert sum(results["timing"]["shares"].values()) == pytest.approx(1)
    assert "window" not in results["timing"]["shares"] and results["timing"]["throughput"]


def test_every_exclusion_is_on_the_page(whole):
    html, results = whole
    reasons = {e["reason"] for e in results["excluded"]}
    assert len(reasons) >= 4
    assert all(
        r.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") in html for r in reasons
    )


def test_the_terminal_shows_the_same(whole):
    _, results = whole
    text = summary(results)
    entry = results["forecasts"][0]
    for part in (
        f"{entry['prediction']:.4f}",
        f"{entry['truth']:.4f}",
        "best seen",
        "most compute",
        "power law in compute",
        "interval",
    ):
        assert part in text
    assert max(map(len, text.splitlines())) < 130


def test_without_anything_it_says_so(tmp_path):
    path = report(tmp_path)
    results = json.loads((path.parent / "results.json").read_text())
    assert "none has a readable record" in path.read_text()
    assert "missing: runs" in summary(results)


def test_a_single_run(tmp_path):
    records.write_run(tmp_path, records.spec("37k", 500))
    path = report(tmp_path)
    assert "No forecast yet" in path.read_text()
    assert [p.name for p in (path.parent / "figures").iterdir()] == ["loss_curves.svg"]
    results = json.loads((path.parent / "results.json").read_text())
    assert results["law"] is None and any("law: points=1" in m for m in results["missing"])


def test_proxies_without_a_forecast_show_the_law(tmp_path):
    records.write_proxies(tmp_path)
    path = report(tmp_path, tmp_path / "elsewhere")
    assert path == tmp_path / "elsewhere" / "index.html"
    results = json.loads((path.parent / "results.json").read_text())
    assert results["law"]["points"] > 10 and results["forecasts"] == []
    assert "No forecast yet" in path.read_text()


@pytest.mark.parametrize("state", [record.RUNNING, record.DIVERGED])
def test_a_forecast_without_truth(tmp_path, state):
    records.write_proxies(tmp_path)
    target = records.target_spec()
    write_forecast(tmp_path, target.hash, target.run_id, records.target_point())
    assert "the target is not started" in report(tmp_path).read_text()
    records.write_run(tmp_path, target, state=state)
    html = report(tmp_path).read_text()
    assert f"the target is {state}" in html
    results = json.loads((tmp_path / "report" / "results.json").read_text())
    assert results["forecasts"][0]["truth"] is None and "no truth yet" in summary(results)


def test_errors_are_one_line(tmp_path):
    with pytest.raises(UserError, match="workdir="):
        report(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="out="):
        report(tmp_path, tmp_path / "file" / "below")
