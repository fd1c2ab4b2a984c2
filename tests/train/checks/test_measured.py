"""The measured steps: files that say where they come from, and what a plan finds in them."""

import json

import pytest

from stepladder.configs import base
from stepladder.configs.core.load import load
from stepladder.train.checks import measured as module
from stepladder.train.checks.measured import FOLDER, measured
from stepladder.train.hardware.defaults import DEVICES

FILES = sorted(FOLDER.glob("*.json"))
H100 = "NVIDIA H100 80GB HBM3"


def run_of(**changes):
    settings = {"run.duration": "100 steps", "model.compute_dtype": "bfloat16"} | {
        name.replace("__", "."): str(value) for name, value in changes.items()
    }
    return load(base.__file__, list(settings.items())).specs[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_says_where_it_comes_from(path):
    body = json.loads(path.read_text())
    assert path.stem.endswith(f"-{body['date']}")
    assert all(body[name] for name in ("device_kind", "jax", "commit", "command"))
    assert any(name in body["device_kind"] for name in DEVICES)
    assert body["steps"] and all(row["tokens_per_second"] > 0 for row in body["steps"])


def test_a_step_is_found_by_everything_that_makes_it_another():
    settings = {"model__size": "1m", "run__batch_size": 32, "data__seq_len": 256}
    spec = run_of(**settings)
    assert measured(H100, spec, 32, "unroll").tokens_per_second == 10737471
    assert measured(H100, spec, 32, "scan").tokens_per_second == 5228077
    assert measured(H100, spec, 2, "unroll") is None
    assert measured("NVIDIA A100-SXM4-80GB", spec, 32, "unroll") is None
    for other in ({"run__batch_size": 16}, {"model__compute_dtype": "float32"}):
        assert measured(H100, run_of(**settings | other), 32, "unroll") is None


def test_a_later_day_counts(tmp_path, monkeypatch):
    body = json.loads(FILES[0].read_text())
    row = body["steps"][0]
    for date, speed in (("2027-01-02", 7.0), ("2026-01-02", 5.0)):
        text = json.dumps({**body, "date": date, "steps": [{**row, "tokens_per_second": speed}]})
        (tmp_path / f"h100-{date}.json").write_text(text)
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    module._steps.cache_clear()
    spec = run_of(model__size="200k", run__batch_size=32, data__seq_len=128)
    found = measured(H100, spec, 1, "scan")
    module._steps.cache_clear()
    assert (found.tokens_per_second, found.date) == (7.0, "2027-01-02")
