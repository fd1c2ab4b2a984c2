"""The proxy-transfer study: what its ladders hold at every scale, and the tiny one run, probed and
repeated.
"""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from stepladder.configs import recipes
from stepladder.configs.core import record
from stepladder.configs.core.counting import count
from stepladder.configs.core.errors import UserError
from stepladder.configs.core.load import load
from stepladder.configs.core.measurements import Alignment, Ngrams
from stepladder.configs.studies import proxy_transfer
from stepladder.model.loss.next_token import token_nll
from stepladder.train.cli import parser
from stepladder.train.data.read.batches import BatchSource, evaluation_windows
from stepladder.train.data.read.corpora import stores
from stepladder.train.hardware.machine import Machine
from stepladder.train.probes.alignment import alignment
from stepladder.train.probes.run import path_of, run_probes
from stepladder.train.step.program import Program
from stepladder.train.step.step import traced_hypers

ARGUMENTS = tuple(proxy_transfer.STUDIES)


@pytest.fixture(scope="module")
def studies(root):
    return {arg: load(f"{root}/configs/studies/proxy_transfer.py:{arg}") for arg in ARGUMENTS}


@pytest.mark.parametrize("arg", ARGUMENTS)
def test_every_recipe_runs_every_rate_and_one_size_is_one_program(studies, arg):
    study, specs = proxy_transfer.STUDIES[arg], studies[arg].specs
    main = [s for s in specs if s.tag["arm"] == "main"]
    sizes = {**{p.size: p for p in study.proxies}, study.target.size: study.target}
    for size, rung in sizes.items():
        mine = [s for s in main if s.model.size == size]
        cells = {(s.tag["recipe"], s.hyper.learning_rate, s.hyper.seed) for s in mine}
        assert len(cells) == len(mine) == len(study.recipes) * len(rung.rates) * rung.seeds
        assert len({s.program_key for s in mine}) == len({s.steps for s in mine}) == 1
        assert (
            {rung.standard, rung.tiny} <= set(rung.rates)
            and rung.rates[0] < rung.standard < rung.rates[-1]
        ) or arg == "tiny"
    roles = [s.tag["role"] for s in specs]
    # every proxy before the first target
    assert roles == sorted(roles, key=["proxy", "target"].index)
    assert all(
        s.tag["study"] == "proxy_transfer" and s.data.validation == study.validation for s in specs
    )
    assert len({s.data.corpus for s in specs}) == 1 and all(
        s.optimizer.weight_decay_mode == "coupled" for s in specs
    )


@pytest.mark.parametrize("arg", ARGUMENTS[1:])
def test_scales(studies, arg):
    """The target is at least four times the larger proxy; the grid spans 2.5 decades below the
    proxies' standard rate.
    """
    specs = studies[arg].specs
    N = {
        role: {count(s.model, s.data.seq_len).params_total for s in specs if s.tag["role"] == role}
        for role in ("proxy", "target")
    }
    assert min(N["target"]) >= 4 * max(N["proxy"])
    assert len({s.tag["recipe"] for s in specs}) >= 14
    for proxy in proxy_transfer.STUDIES[arg].proxies:
        assert (
            np.log10(proxy.standard / min(proxy.rates)) >= 1.5 and max(proxy.rates) > proxy.standard
        )


@pytest.mark.parametrize("arg", ARGUMENTS)
def test_arms_deviate_in_what_they_say(studies, arg):
    study, specs = proxy_transfer.STUDIES[arg], studies[arg].specs
    small = study.proxies[0]
    base = next(s for s in specs if s.model.size == small.size and s.tag["arm"] == "main")
    for name in study.arms:
        mine = [s for s in specs if s.tag["arm"] == name]
        assert {s.model.size for s in mine} == {small.size} and {s.tag["role"] for s in mine} == {
            "proxy"
        }
        assert {s.hyper.learning_rate for s in mine} == {small.standard, small.tiny} and len(
            mine
        ) == 2 * len(study.recipes)
        batch = {s.batch_size / base.batch_size for s in mine}
        decay = {s.hyper.weight_decay for s in mine}
        tokens = {
            round(s.steps * s.tokens_per_step / count(s.model, s.data.seq_len).params_total, 0)
            for s in mine
        }
        assert batch == {{"batch/4": 0.25, "batch*4": 4.0}.get(name, 1.0)}
        assert decay == {{"wd0": 0.0, "wd.3": 0.3}.get(name, 0.1)}
        expected = {"more_steps": study.arms[name].tokens}.get(
            name, float(name.removeprefix("tokens")) if "tokens" in name else small.tokens
        )
        assert all(abs(t - expected) <= 0.03 * expected + 1 for t in tokens)


def test_overrides_choose_recipes_and_wrong_ones_are_refused(root):
    reference = f"{root}/configs/studies/proxy_transfer.py:cpu"
    few = load(reference, [("study.recipes", "uniform,generated")]).specs
    assert {s.tag["recipe"] for s in few} == {"uniform", "generated"}
    assert few[0].data.corpus.variants == ()
    with pytest.raises(UserError, match="did you mean 'uniform'"):
        load(reference, [("study.recipes", "uniforn,generated")])
    moved = load(reference, [("study.recipes", "uniform"), ("seed", "7")]).specs
    assert {s.hyper.seed for s in moved} == {7, 8}


def test_a_config_without_probes_says_so(root, tmp_path, capsys):
    assert parser.main(["probe", f"--config={root}/configs/base.py", f"--workdir={tmp_path}"]) == 1
    assert "asks for no probes" in capsys.readouterr().err


@pytest.fixture(scope="module")
def tiny(studies, tmp_path_factory):
    """The tiny study's first two recipes as Loaded, its store in a folder, and one alignment probe
    at initialisation.
    """
    folder = tmp_path_factory.mktemp("tiny")
    loaded = studies["tiny"]
    config = loaded.config.copy_and_resolve_references()
    config.unlock()
    config.machine.store = str(folder / "stores")
    store = next(iter(stores(loaded.specs, folder / "stores", show=False).values()))
    return dataclasses.replace(loaded, config=config), store, folder


@pytest.mark.slow
def test_alignment_is_what_the_definitions_say(tiny):
    """a and c from one gradient and one product over all windows of a domain at once, where the
    probe works in chunks on two devices.
    """
    loaded, store, _ = tiny
    probe = next(p for p in loaded.probes if isinstance(p, Alignment) and p.step == 0)
    compiled = Program(probe.run, Machine(devices=2, tensorboard=False))
    params = compiled.init(compiled.put(traced_hypers(probe.run)))["params"]
    probe = dataclasses.replace(
        probe, recipes=probe.recipes[:2], windows=3, train_windows=3, iterations=5
    )
    found = alignment(probe, params, store, compiled)
    flat_P, unravel = ravel_pytree(jax.device_get(params))
    spec = probe.run

    def loss(x_P, rows_WT):
        return token_nll(spec.model, unravel(x_P), jnp.asarray(rows_WT, jnp.int32)).mean()

    slope = jax.jit(jax.grad(loss))

    def along(x_P, rows_WT, v_P):
        return jax.jvp(lambda x_P: jax.grad(loss)(x_P, rows_WT), (x_P,), (v_P,))[1]

    product = jax.jit(along)
    windows = {d: evaluation_windows(store, d, spec.data.seq_len, 3) for d in spec.data.validation}
    assert (
        found["run_id"] == spec.run_id
        and found["N"] == len(flat_P)
        and found["role"] == "proxy"
        and found["fraction"] == 0
    )
    for name, weights in probe.recipes:
        grad_P = slope(
            flat_P,
            BatchSource(store, weights, spec.data.seq_len, 3, spec.hyper.data_seed).steps(0, 1)[0],
        )
        mine = found["recipes"][name]
        assert mine["grad_norm"] == pytest.approx(float(jnp.linalg.norm(grad_P)), rel=1e-3)
        for domain, rows_WT in windows.items():
            here = found["per_domain"][domain][name]
            assert here["a"] == pytest.approx(float(slope(flat_P, rows_WT) @ grad_P), rel=1e-3)
            for along_P, c in ((grad_P, here["c"]), (jnp.sign(grad_P), here["c_sign"])):
                twice = product(flat_P, rows_WT, along_P) @ along_P
                assert c == pytest.approx(
                    float(twice), rel=2e-3, abs=1e-4 * float(jnp.linalg.norm(along_P)) ** 2
                )
        for key in ("a", "c", "a_sign", "c_sign"):
            assert mine[key] == pytest.approx(
                np.mean([found["per_domain"][d][name][key] for d in windows]), rel=1e-4
            )
    assert found["lambda_max"] > 0 and found["lambda_iterations"] > 1


@pytest.mark.slow
def test_the_tiny_study_runs_is_probed_and_repeats(root, tmp_path, capsys):
    config = f"--config={root}/configs/studies/proxy_transfer.py:tiny"
    workdir = f"--workdir={tmp_path / 'W'}"
    loaded = load(f"{root}/configs/studies/proxy_transfer.py:tiny")
    later = next(p for p in loaded.probes if isinstance(p, Alignment) and p.step)
    # the baselines and the probe at initialisation need no run; the next does
    assert parser.main(["probe", config, workdir, "--quiet"]) == 1
    assert "`stepladder run` the same config first" in capsys.readouterr().err
    assert [path_of(tmp_path / "W", p).is_file() for p in loaded.probes[:3]] == [True, True, False]
    assert parser.main(["run", config, workdir, "--quiet"]) == 0
    assert parser.main(["probe", config, workdir]) == 0
    assert f"alignment-{later.step}.json" in capsys.readouterr().out
    files = {p: path_of(tmp_path / "W", p) for p in loaded.probes}
    before = {path: path.stat().st_mtime_ns for path in files.values()}
    assert run_probes(loaded, tmp_path / "W") == []
    assert {path: path.stat().st_mtime_ns for path in files.values()} == before
    for probe, path in files.items():
        body = json.loads(path.read_text())
        if isinstance(probe, Ngrams):
            assert path == tmp_path / "W" / "studies" / "proxy_transfer" / "ngrams.json"
            names = set(loaded.config.study.recipes)
            assert set(body["unigram"]) == set(body["bigram"]) == names
            assert all(set(row) == set(probe.validation) for row in body["bigram"].values())
            assert body["bigram"]["noise_5"]["docstrings"] > body["bigram"]["uniform"]["docstrings"]
            assert max(max(seen.values()) for seen in body["epochs"].values()) < 4
        else:
            assert path.parent.parent.parent.name == record.RUNS and body["step"] == probe.step
            assert set(body["recipes"]) == {name for name, _ in probe.recipes}


def test_probed_steps(studies):
    """Initialisation, 1 %, 10 % and the end of warm-up, on the reference recipe of the smallest
    proxy and of the target, saved by their runs.
    """
    probes = [p for p in studies["cpu"].probes if isinstance(p, Alignment)]
    assert {(p.run.model.size, p.run.tag["role"]) for p in probes} == {
        ("6k", "proxy"),
        ("84k", "target"),
    }
    for run in {p.run for p in probes}:
        steps = [p.step for p in probes if p.run == run]
        assert (
            steps[0] == 0
            and run.hyper.warmup_steps in steps
            and round(0.1 * run.steps) in steps
            and round(0.01 * run.steps) in steps
        )
        assert set(steps[1:]) <= set(run.checkpoint_steps)
    assert {name for name, _ in probes[0].recipes} == set(proxy_transfer.STUDIES["cpu"].recipes)
    assert len(recipes.chosen(proxy_transfer.STUDIES["cpu"].recipes)) >= 14
