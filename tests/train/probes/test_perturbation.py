"""The probe of perturbations on a tiny trained run: one program against a plain loop, the loss of
the checkpoint itself, Taylor's expansion, its file, and what is refused.
"""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from stepladder.configs.core.build import rung
from stepladder.configs.core.errors import UserError
from stepladder.configs.core.load import Loaded
from stepladder.configs.core.measurements import Perturbation
from stepladder.configs.core.record import DIVERGED, DONE, EVAL, RUNS, STATUS
from stepladder.model import noise
from stepladder.model.gradient import window_losses
from stepladder.train.data.read.corpora import stores
from stepladder.train.export import restore
from stepladder.train.hardware.machine import Machine
from stepladder.train.loop.run import run
from stepladder.train.probes import curvature, noise_losses
from stepladder.train.probes.perturbation import perturbation
from stepladder.train.probes.run import path_of, run_probes
from stepladder.train.step.program import Program
from tests.support import tiny
from tests.support.errors import assert_user_error
from tests.support.records import rows

MACHINE = Machine(devices=2, tensorboard=False)
LOCAL = dict(machine__devices=2, model__size="w8d1h4", data__seq_len=16)


@dataclasses.dataclass
class Trained:
    loaded: Loaded  # of one run, without probes
    workdir: Path
    store: object
    params: dict  # at its end, on the mesh of `program`
    program: Program

    @property
    def spec(self):
        return self.loaded.specs[0]

    def probe(self, **changes) -> Perturbation:
        asked = dict(step=self.spec.steps, strengths=(0.0, 0.5), draws=3, windows=4)
        return Perturbation(self.spec, **{**asked, **changes})

    def asks(self, *probes: Perturbation) -> Loaded:
        return dataclasses.replace(self.loaded, probes=probes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the tests work. Which documents are trained on depends on the path as it is written:
    relative, it is the same in every session.
    """
    made = tmp_path_factory.mktemp("perturbation")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        yield made


@pytest.fixture(scope="module")
def trained(folder):
    config = tiny.config(Path("text"), machine__store=str(folder / "stores"), **LOCAL)
    spec = rung(config, role="target", recipe="both", arm="fixed")
    store = next(iter(stores([spec], folder / "stores", show=False).values()))
    assert run(spec, folder, store, MACHINE) == DONE
    record = folder / RUNS / spec.run_id
    opened = restore.open_checkpoint(f"{record}@{spec.steps}", str(store.path), MACHINE)
    params = opened.program.put(opened.params)
    return Trained(Loaded("tiny", config, [spec]), folder, store, params, opened.program)


@pytest.fixture(scope="module")
def file(trained):
    """What `run_probes` wrote: (probe, path, body, line said)."""
    probe = trained.probe(
        strengths=(0.0, 0.25, 4.0, 1e38),
        windows=8,
        scales=("init", "weights"),
        tensors=("matrices", "all"),
        bits=(8, 2),
    )
    said = []
    (path,) = run_probes(trained.asks(probe), trained.workdir, said.append)
    return probe, path, json.loads(path.read_text()), said[0]


def test_the_file(trained, file):
    probe, path, body, said = file
    spec = trained.spec
    assert path == path_of(trained.workdir, probe)
    assert path.name == "perturbation-40.json" and path.parent.parent.name == spec.run_id
    assert f"{path.name}: loss {body['base']['all']:.4f}, with noise" in said
    about = {name: body[name] for name in ("run_id", "role", "recipe", "arm", "step", "fraction")}
    assert about == {
        "run_id": spec.run_id,
        "role": "target",
        "recipe": "both",
        "arm": "fixed",
        "step": 40,
        "fraction": 1,
    }
    assert body["tokens"] == 40 * 8 * 16 and body["N"] == sum(
        x.size for x in jax.tree.leaves(trained.params)
    )
    assert body["data_fingerprint"] == trained.store.fingerprint and body["curvature"] is None
    keys = [(r["scale"], r["tensors"], r["gamma"], r["draw"]) for r in body["noise"]]
    assert len(set(keys)) == len(keys) == 2 * 2 * 4 * 3
    assert {r["draw"] for r in body["noise"]} == {0, 1, 2}
    assert set(body["without_noise"]) == {
        "attention_norm",
        "attention.q_norm",
        "attention.k_norm",
        "mlp_norm",
        "final_norm",
    }
    assert set(body["sd"]["init"]) == {
        "embed",
        "attention.qkv",
        "attention.out",
        "mlp.up",
        "mlp.down",
    }
    assert body["sd"]["init"]["embed"] == pytest.approx(0.02)
    assert body["sd"]["weights"]["mlp.up"] != body["sd"]["init"]["mlp.up"]


def test_the_checkpoints_own_loss_is_the_evaluations_and_that_of_no_noise(trained, file):
    _, _, body, _ = file
    assert all(r["loss"] == body["base"] for r in body["noise"] if r["gamma"] == 0)
    evaluated = {
        r["domain"]: r
        for r in rows(trained.workdir / RUNS / trained.spec.run_id, EVAL)
        if r["step"] == 40
    }
    for domain, loss in body["base"].items():
        assert loss == pytest.approx(evaluated[domain]["loss"], abs=1e-5)
        assert body["base_se"][domain] == pytest.approx(evaluated[domain]["loss_se"], rel=1e-3)


def test_a_loss_that_overflows_is_none_and_said(file):
    """Noise of 1e38 is no finite weight."""
    _, _, body, said = file
    lost = [r for r in body["noise"] if r["loss"]["all"] is None]
    assert lost and {r["gamma"] for r in lost} == {1e38}
    assert f"(48 losses), {len(lost)} of them not finite" in said


def test_more_noise_costs_more_and_fewer_bits_too(file):
    _, _, body, _ = file
    base = body["base"]["all"]
    mean = {
        (scale, tensors, gamma): np.mean(
            [
                r["loss"]["all"]
                for r in body["noise"]
                if (r["scale"], r["tensors"], r["gamma"]) == (scale, tensors, gamma)
            ]
        )
        for scale in ("init", "weights")
        for tensors in ("matrices", "all")
        for gamma in (0.25, 4.0)
    }
    assert all(mean[s, t, 4.0] > base + 0.05 for s, t, gamma in mean if gamma == 4)
    assert all(mean[s, t, 4.0] > mean[s, t, 0.25] for s, t, _ in mean)
    by_bits = {(r["bits"], r["tensors"]): r for r in body["quantised"]}
    assert set(by_bits) == {(b, t) for b in (8, 2) for t in ("matrices", "all")}
    for tensors in ("matrices", "all"):
        fine, coarse = by_bits[8, tensors], by_bits[2, tensors]
        assert fine["relative_error"] < 0.02 < 0.2 < coarse["relative_error"]
        assert 0 < 3 * abs(fine["loss"]["all"] - base) < abs(coarse["loss"]["all"] - base)


def test_done_is_not_done_again_and_another_question_is_refused(trained, file):
    probe, path, _, _ = file
    before = path.stat().st_mtime_ns
    assert run_probes(trained.asks(probe), trained.workdir) == []
    assert path.stat().st_mtime_ns == before
    with pytest.raises(UserError) as raised:
        run_probes(trained.asks(dataclasses.replace(probe, draws=4)), trained.workdir)
    assert_user_error(
        raised,
        field="probe",
        value=path.relative_to(trained.workdir),
        remedy="with draws=3, .*draws=4; move the file",
    )
    with pytest.raises(UserError, match="two probes have this file"):
        run_probes(trained.asks(probe, dataclasses.replace(probe, seed=1)), trained.workdir)


@pytest.mark.parametrize("mode", ["map", "vmap"])
def test_one_program_is_a_plain_loop(trained, mode):
    """Every draw and strength, on two devices, against one model after another on one."""
    program = Program(trained.spec, dataclasses.replace(MACHINE, pack_mode=mode))
    model, domains = trained.spec.model, trained.store.domains
    rows_WT = np.concatenate(
        list(curvature.validation_windows(trained.spec, trained.store, 5).values())
    )
    sd = jax.device_get(noise.root_mean_square(model, trained.params))
    sd_J = jax.tree.map(lambda s: np.stack([0.1 * s, s]), noise.chosen(sd, "all"))
    compiled = noise_losses._noise_losses._cache_size()
    base_W, found_QJW = noise_losses.noise_losses(program, trained.params, sd_J, 4, 7, rows_WT)
    params = jax.device_get(trained.params)
    losses = jax.jit(lambda p: window_losses(model, p, jnp.asarray(rows_WT)))
    assert found_QJW.shape == (4, 2, len(rows_WT)) and len(rows_WT) == 5 * len(domains)
    np.testing.assert_allclose(base_W, losses(params), atol=1e-5)
    for q in range(4):
        normal = noise.standard_normal(params, jax.random.fold_in(jax.random.key(7), q))
        for j, factor in enumerate((0.1, 1.0)):
            moved = jax.tree.map(
                lambda x, z, s, factor=factor: x + factor * s * z,
                params,
                normal,
                noise.chosen(sd, "all"),
            )
            np.testing.assert_allclose(found_QJW[q, j], losses(moved), atol=1e-5)
    assert np.abs(found_QJW[:, 1] - base_W).max() > 0.05, "the noise is felt"
    # Other strengths, another set of tensors and another seed are the same executable.
    others = jax.tree.map(lambda s: np.stack([3 * s, s]), noise.chosen(sd, "matrices"))
    noise_losses.noise_losses(program, trained.params, others, 4, 8, rows_WT)
    assert noise_losses._noise_losses._cache_size() == compiled + 1


def test_memory_bounds_how_many_run_together(trained):
    ample = Program(trained.spec, dataclasses.replace(MACHINE, pack_mode="vmap", memory_gb=4.0))
    tight = Program(trained.spec, dataclasses.replace(MACHINE, pack_mode="vmap", memory_gb=1e-5))
    _, draws, variants = noise_losses.together(ample, 8, 4)
    assert variants == 8 and draws > 1
    assert noise_losses.together(tight, 8, 4)[1:] == (1, 1)


def exact_trace(trained, windows: dict, sd: dict) -> float:
    """Tr(H Sigma) from the Hessian's diagonal, one product a parameter."""
    shares = dict(trained.spec.data.evaluated)
    chunks = curvature.mixture_chunks(trained.program, shares, windows)
    execution = curvature.execution_of(trained.program)
    flat_P, _ = ravel_pytree(trained.params)
    sd_P, _ = ravel_pytree(
        jax.tree.map(lambda x, s: jnp.broadcast_to(s, x.shape), trained.params, sd)
    )

    def entry(i):
        unit_P = jnp.zeros_like(flat_P).at[i].set(1.0)
        return curvature.product(trained.spec.model, execution, trained.params, *chunks, unit_P)[i]

    diagonal_P = jax.jit(lambda: jax.lax.map(entry, jnp.arange(flat_P.size)))()
    return float(diagonal_P @ jnp.square(sd_P))


@pytest.mark.slow
def test_the_loss_rises_as_the_trace_says(trained):
    """Delta = gamma^2 / 2 Tr(H Sigma) for a small gamma, both with standard errors. A draw and its
    negative are taken together, so that the gradient's part cancels. Hutchinson's estimate is that
    of the exact diagonal.
    """
    gamma, draws = 0.01, 200
    probe = trained.probe(
        scales=("init",), tensors=("all",), strengths=(gamma,), draws=1, trace_probes=200, windows=4
    )
    body = perturbation(probe, trained.params, trained.store, trained.program)
    (row,) = body["curvature"]["trace_sigma"]
    predicted, predicted_se = gamma**2 / 2 * row["trace"], gamma**2 / 2 * row["se"]
    sd = jax.device_get(noise.initial_sd(trained.spec.model, trained.params))
    sd_J = jax.tree.map(lambda s: np.stack([gamma * s, -gamma * s]), noise.chosen(sd, "all"))
    windows = curvature.validation_windows(trained.spec, trained.store, 4)
    base_W, found_QJW = noise_losses.noise_losses(
        trained.program, trained.params, sd_J, draws, 3, np.concatenate(list(windows.values()))
    )
    delta_Q = (found_QJW - base_W).mean(axis=(1, 2))  # domains of equal weight and size
    delta, delta_se = delta_Q.mean(), delta_Q.std(ddof=1) / np.sqrt(draws)
    print(f"Delta {delta:.3g} +- {delta_se:.1g}, predicted {predicted:.3g} +- {predicted_se:.1g}")
    se = np.hypot(delta_se, predicted_se)
    assert abs(delta - predicted) < 3 * se and se < 0.15 * delta, "and it is sharp"
    exact = exact_trace(trained, windows, noise.chosen(sd, "all"))
    assert abs(row["trace"] - exact) < 3 * row["se"]
    assert body["curvature"]["lambda_max"] > 0 and body["curvature"]["probes"] == 200
    assert abs(body["curvature"]["trace"]) > 3 * body["curvature"]["trace_se"]


def test_refused_values(trained):
    for changes, remedy in (
        ({"strengths": ()}, "give at least one"),
        ({"strengths": (1.0, float("nan"))}, "nan is no strength of noise; use finite"),
        ({"strengths": (-1.0,)}, "-1.0 is no strength of noise; use finite numbers, 0 or above"),
        ({"strengths": (1.0, 1.0)}, "give each once"),
        ({"draws": 0}, "use 1 or more"),
        ({"windows": 0}, "use 1 or more"),
        ({"step": -1}, "use 0 or more"),
        ({"trace_probes": 1}, "use at least 2"),
        ({"scales": ("initial",)}, "'initial' is unknown; known: init, weights"),
        ({"tensors": ("norms",)}, "'norms' is unknown; known: matrices, all"),
        ({"bits": (8, 16)}, "16 is unknown; known: 2, 3, 4, 5, 6, 7, 8"),
    ):
        with pytest.raises(UserError) as raised:
            trained.probe(**changes)
        ((name, value),) = changes.items()
        assert_user_error(raised, field=f"perturbation.{name}", value=value, remedy=remedy)


def test_a_missing_checkpoint_is_refused(trained):
    with pytest.raises(UserError) as raised:
        run_probes(trained.asks(trained.probe(step=13)), trained.workdir)
    assert_user_error(
        raised, field="probe", value=f"{trained.spec.run_id}@13", remedy="`stepladder run`"
    )


def test_a_diverged_run_is_refused(trained, tmp_path):
    record = tmp_path / RUNS / trained.spec.run_id
    record.mkdir(parents=True)
    status = {"state": DIVERGED, "step": 30, "reason": "loss is nan"}
    (record / STATUS).write_text(json.dumps(status))
    with pytest.raises(UserError) as raised:
        run_probes(trained.asks(trained.probe()), tmp_path)
    assert_user_error(
        raised,
        field="perturbation",
        value=f"{trained.spec.run_id}@40",
        remedy="diverged at step 30 .loss is nan.; .* learning rate",
    )


def test_parameters_that_are_not_finite_are_refused(trained):
    broken = trained.params | {"embed": trained.params["embed"].at[3, 1].set(jnp.nan)}
    with pytest.raises(UserError) as raised:
        perturbation(trained.probe(), broken, trained.store, trained.program)
    assert_user_error(
        raised,
        field="perturbation",
        value=f"{trained.spec.run_id}@40",
        remedy="embed not finite.* earlier step",
    )
