"""The coordinate check: its activations are the model's, muP and CompleteP are flat where standard
is not, the command, and what is refused.
"""

import functools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stepladder.analysis.studies.coordinates import figures, study
from stepladder.configs.core import record
from stepladder.configs.core.errors import UserError
from stepladder.model import activations, parametrization, transformer
from stepladder.train.cli import parser
from stepladder.train.probes import coordinates as probe
from tests.support import tiny
from tests.support.model_shapes import SHAPES, create, jit

CONFIG = "configs/studies/parametrization.py"


@pytest.mark.parametrize("name", SHAPES)
def test_activations_are_the_models(name):
    cfg, tokens = SHAPES[name], np.arange(12).reshape(2, 6) % 37
    params = create(cfg)
    found = jit(activations.activations, static_argnums=0)(cfg, params, tokens)
    np.testing.assert_allclose(
        found["logits"],
        jit(transformer.logits, static_argnums=0)(cfg, params, tokens),
        rtol=1e-5,
        atol=1e-6,
    )
    assert set(found) == set(activations.MADE_BY) and set(activations.MADE_BY.values()) < set(
        parametrization.ROLES.values()
    )
    assert all(found[x].shape[0] == cfg.n_layers for x in ("qkv", "up", "attention", "mlp"))


def run(tmp_path, root, *options: str) -> study.Check:
    """The command on `options`; returns what it wrote."""
    axis = "width" if any(o.startswith("--widths") for o in options) else "depth"
    assert (
        parser.main(
            [
                "coordinates",
                f"--config={root / CONFIG}:tiny",
                f"--workdir={tmp_path}",
                "--quiet",
                *options,
            ]
        )
        == 0
    )
    return study.read(tmp_path, axis)


def text(tmp_path) -> list[str]:
    sources = tiny.write_text(tmp_path / "text")
    return [
        "--config.data.corpus=tiny",
        *(f"--config.data.sources.{domain}={path}" for domain, path in sources.items()),
    ]


def worst(check: study.Check, name: str) -> pd.Series:
    rows = check.last[check.last["parametrization"] == name]
    return rows.set_index("name")["slope"]


@pytest.mark.slow
def test_width_small(tmp_path, root, capsys, monkeypatch):
    """Widths 32 and 128: muP is flat, standard's stream and logits grow."""
    # Which documents are trained on depends on the path as it is written: relative, it is the same
    # in every session.
    monkeypatch.chdir(tmp_path)
    check = run(tmp_path, root, "--widths=32,128", "--parametrizations=standard,mup", *text(Path()))
    print(check)
    assert worst(check, "mup").abs().max() < study.FLAT
    assert worst(check, "standard")[["attention", "mlp", "stream", "logits"]].min() > 2 * study.FLAT
    said = capsys.readouterr().out
    assert "mup: flat" in said and "standard: not flat" in said
    assert (tmp_path / record.STUDIES / "coordinates-width.svg").read_text().startswith("<svg")
    assert set(check.rows["step"]) == set(range(probe.STEPS + 1)) and check.base["width"] == 32


@pytest.mark.slow
def test_width_to_1024_on_real_text(tmp_path, root):
    """Ten steps at widths 64 to 1024: every activation of muP and CompleteP changes alike, whatever
    the width.
    """
    check = run(tmp_path, root, "--widths=64,128,256,512,1024")
    print(check)
    for name in ("mup", "completep"):
        assert worst(check, name).abs().max() < 0.15, worst(check, name)
    assert worst(check, "standard")[["attention", "mlp", "stream"]].min() > 0.8


@pytest.mark.slow
def test_depth_to_32_on_real_text(tmp_path, root):
    """4 to 32 layers: CompleteP's stream changes alike at every depth, muP's grows.

    From 2 to 4 layers the change of CompleteP's MLP output still falls by a third (a stack of two
    is far from the limit), so the check begins at four.
    """
    check = run(tmp_path, root, "--depths=4,8,16,32", "--parametrizations=mup,completep")
    print(check)
    assert worst(check, "completep").abs().max() < study.FLAT, worst(check, "completep")
    assert worst(check, "mup")["stream"] > 2 * study.FLAT


def test_slopes_of_known_powers(tmp_path):
    """Changes that are exact powers of width come back as slopes, at every step, averaged over
    seeds.
    """
    rows = [
        {
            "parametrization": name,
            "width": w,
            "depth": 2,
            "seed": seed,
            "step": step,
            "name": activation,
            "role": "hidden",
            "size": 3.0 * w**0.5,
            "change": step * (1 + seed) * w**power,
            "loss": None if step == 0 else 1.0,
        }
        for name, powers in {
            "mup": {"up": 0.0, "stream": -0.2},
            "standard": {"up": 1.0, "stream": 0.3},
        }.items()
        for activation, power in powers.items()
        for w in (64, 128, 256)
        for seed in (0, 1)
        for step in (0, 1, 2)
    ]
    body = {"axis": "width", "learning_rate": 0.1, "base_width": 64, "base_depth": 0, "rows": rows}
    (tmp_path / record.STUDIES).mkdir()
    (tmp_path / record.STUDIES / "coordinates-width.json").write_text(json.dumps(body))
    check = study.read(tmp_path)
    found = check.slopes.set_index(["parametrization", "name", "step"])
    for key, want in {
        ("mup", "up"): 0.0,
        ("mup", "stream"): -0.2,
        ("standard", "up"): 1.0,
        ("standard", "stream"): 0.3,
    }.items():
        for step in (1, 2):
            assert found.loc[(*key, step), "slope"] == pytest.approx(want, abs=1e-9)
            assert found.loc[(*key, step), "size_slope"] == pytest.approx(0.5)
            assert found.loc[(*key, step), "se"] == pytest.approx(0, abs=1e-9)
    assert check.verdict() == {
        "mup": "flat (largest slope -0.20, of stream)",
        "standard": "not flat (largest slope +1.00, of up)",
    }
    assert len(figures.draw(check).axes) == 2


def test_an_overflow_is_not_flat():
    rows = pd.DataFrame(
        [
            {
                "parametrization": "standard",
                "name": "mlp",
                "step": 1,
                "width": w,
                "size": 1.0,
                "change": c,
            }
            for w, c in ((64, 1.0), (128, np.inf))
        ]
    )
    assert study.slopes(rows, "width")["slope"].item() == np.inf


def test_refused(tmp_path, root, capsys):
    planned = functools.partial(probe.specs, tiny.config(tmp_path, model__size="w32d2h8"), ("mup",))
    with pytest.raises(UserError, match="widths=64: a slope needs at least two"):
        list(planned("width", (64,)))
    with pytest.raises(UserError, match="seeds=0"):
        list(planned("width", (64, 128), 0))
    with pytest.raises(UserError, match="multiple of an even head size"):
        list(planned("width", (60, 64)))
    with pytest.raises(UserError, match=r"optimizer.learning_rate=0"):
        list(
            probe.specs(
                tiny.config(tmp_path, optimizer__learning_rate=0.0), ("mup",), "width", (16, 32)
            )
        )
    with pytest.raises(UserError, match="coordinates --depths"):
        study.read(tmp_path, "depth")
    assert (
        parser.main(
            [
                "coordinates",
                f"--config={root / CONFIG}:tiny",
                f"--workdir={tmp_path}",
                "--widths=32,64",
                "--parametrizations=mupp",
            ]
        )
        == 1
    )
    assert "did you mean 'mup'" in capsys.readouterr().err
    (tmp_path / record.STUDIES).mkdir()
    for content, says in (("{", "is not JSON"), ("{}", "lacks axis")):
        (tmp_path / record.STUDIES / "coordinates-width.json").write_text(content)
        with pytest.raises(UserError, match=says):
            study.read(tmp_path)
