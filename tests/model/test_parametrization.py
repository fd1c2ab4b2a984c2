"""Parametrisations: the table against the papers, every tensor has a role, all agree at the base,
and what the forward pass and optimizer do with it.
"""

import dataclasses
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from stepladder.configs.core import sizes
from stepladder.configs.core.build import rung
from stepladder.configs.core.errors import UserError
from stepladder.configs.core.load import load
from stepladder.configs.core.spec import Hyper, ModelSpec, OptimizerSpec
from stepladder.model import parametrization, transformer
from stepladder.model.execution import Execution
from stepladder.model.init import Init
from stepladder.model.parametrization import PARAMETRIZATIONS, Parametrization, Power, Rule
from stepladder.train.step import optimizer
from stepladder.train.step.step import initial_state, train_step
from tests.support import tiny
from tests.support.model_shapes import SHAPES, create, jit

# m_N = 4 and m_L = 3 from the bases below
WIDE = sizes.shape("w64d6h16", vocab_size=37, tied=False)
BASES = {
    "standard": {},
    "mup": {"base_width": 16},
    "completep": {"base_width": 16, "base_depth": 2},
}
FLOATS = [f.name for f in dataclasses.fields(Hyper) if f.type is float]
HYPER = {name: np.float32(0.01) for name in FLOATS} | {"clip_norm": np.float32(1e9)}
STEP_HYPER = HYPER | {
    k: np.int32(v)
    for k, v in dict(warmup_steps=0, decay_start=9, total_steps=9, seed=0, log_every=5).items()
}


def of(name: str, shape: ModelSpec = WIDE, **changes) -> ModelSpec:
    return dataclasses.replace(shape, parametrization=name, **{**BASES[name], **changes})


def leaves(tree: dict) -> dict[tuple[str, ...], jax.Array]:
    return {
        tuple(part.key for part in path): x
        for path, x in jax.tree_util.tree_flatten_with_path(tree)[0]
    }


def test_configs_know_the_same_parametrizations():
    assert set(sizes.BASES) == set(PARAMETRIZATIONS)


@pytest.mark.parametrize("name", PARAMETRIZATIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_tensor_has_a_role_and_every_role_a_rule(shape, name):
    params = jax.eval_shape(functools.partial(transformer.init, SHAPES[shape]), jax.random.key(0))
    roles = {parametrization.role_of(path) for path in leaves(params)}
    assert roles <= set(PARAMETRIZATIONS[name].roles)
    assert set(parametrization.ROLES.values()) == set(PARAMETRIZATIONS[name].roles)
    with pytest.raises(KeyError):
        parametrization.role_of(("layers", "attention", "gate"))


# role -> (rate, coupled decay, epsilon, init std over the base's) at m_N = 4 and m_L = 3, by hand
# from arXiv:2203.03466 table 8 and arXiv:2505.01618 table 1 with alpha = 1.
EXPECTED = {
    "mup": {
        "embed": (1, 1, 1 / 4, 1),
        "unembed": (1, 1, 1 / 4, 1),
        "norm": (1, 1, 1 / 4, None),
        "final_norm": (1, 1, 1 / 4, None),
        "hidden": (1 / 4, 4, 1 / 4, 1 / 2),
        "output": (1 / 4, 4, 1 / 4, 1 / 2),
    },
    "completep": {
        "embed": (1, 1, 1 / 4, 1),
        "unembed": (1, 1, 1 / 4, 1),
        "norm": (1, 1, 1 / 12, None),
        "final_norm": (1, 1, 1 / 4, None),
        "hidden": (1 / 4, 4, 1 / 12, 1 / 2),
        "output": (1 / 4, 4, 1 / 12, 1 / 2),
    },
}


@pytest.mark.parametrize(
    ("name", "role"), [(name, role) for name, roles in EXPECTED.items() for role in roles]
)
def test_table_against_the_papers(name, role):
    cfg = of(name)
    rate, decay, epsilon, std = EXPECTED[name][role]
    found = parametrization.rule(cfg, role)
    assert [
        parametrization.value(cfg, power)
        for power in (found.learning_rate, found.weight_decay, found.epsilon)
    ] == pytest.approx([rate, decay, epsilon])
    fan_in = 64
    base = dataclasses.replace(cfg, d_model=16, n_layers=2 if name == "completep" else cfg.n_layers)
    ours = Init(cfg, jax.random.key(0)).std(role, fan_in)
    at_base = Init(base, jax.random.key(0)).std(role, fan_in // 4)
    assert (ours, at_base) == (None, None) if std is None else ours / at_base == pytest.approx(std)
    assert parametrization.logits(cfg) == 1 / 4
    assert parametrization.residual(cfg) == pytest.approx({"mup": 1, "completep": 1 / 3}[name])
    assert parametrization.attention_scale(cfg) == 1 / 4  # 1 / sqrt(16): QK-norm is on
    assert parametrization.attention_scale(dataclasses.replace(cfg, qk_norm=False)) == 1 / 16


@pytest.mark.parametrize("name", PARAMETRIZATIONS)
def test_a_steps_decay_is_the_same_for_every_matrix_at_every_size(name):
    assert {parametrization.decay(of(name), role) for role in PARAMETRIZATIONS[name].roles} == {1.0}


@pytest.mark.parametrize("name", PARAMETRIZATIONS)
def test_drawn_values_have_the_tables_spread(name):
    params = create(of(name))
    for path, fan_in in {
        ("layers", "attention", "qkv"): 64,
        ("layers", "mlp", "down"): WIDE.d_ff,
        ("embed",): 0,
        ("unembed",): 64,
    }.items():
        tensor = leaves(params)[path]
        want = Init(of(name), jax.random.key(0)).std(parametrization.role_of(path), fan_in)
        assert float(tensor.std()) == pytest.approx(want, rel=5 / math.sqrt(tensor.size))


@functools.cache
def step_text(name: str, qk_norm: bool, width: int, depth: int) -> str:
    """The training step as jax traces it: equal text is an equal program."""
    model = sizes.shape(
        f"w{width}d{depth}h8",
        vocab_size=37,
        qk_norm=qk_norm,
        parametrization=name,
        **{field: {"base_width": 16, "base_depth": 2}[field] for field in sizes.BASES[name]},
    )
    optim = OptimizerSpec("adamw", "coupled", "constant")
    start = functools.partial(initial_state, model, optim)
    step = functools.partial(train_step, model, optim, Execution())
    tokens = jax.ShapeDtypeStruct((2, 9), np.int32)
    return str(jax.make_jaxpr(start)(STEP_HYPER)) + str(
        jax.make_jaxpr(step)(jax.eval_shape(start, STEP_HYPER), STEP_HYPER, tokens)
    )


@pytest.mark.parametrize("name", ["mup", "completep"])
def test_at_the_base_all_are_the_standard_program(name):
    """Same init, same operations: multipliers of 1 add none.

    Without QK-norm the scale of attention is the one difference.
    """
    assert step_text(name, True, 16, 2) == step_text("standard", True, 16, 2)
    assert step_text(name, True, 32, 2) != step_text("standard", True, 32, 2)
    assert (step_text("completep", True, 16, 4) == step_text("standard", True, 16, 4)) is False
    assert step_text(name, False, 16, 2) != step_text("standard", False, 16, 2)


logits = jit(transformer.logits, static_argnums=0)
TOKENS = np.arange(14).reshape(2, 7) % 37


def test_forward_multipliers():
    """muP's logits are the standard ones over m_N; without QK-norm, its queries are as if K^-1/2 as
    long.
    """
    params = create(of("standard"))
    np.testing.assert_allclose(
        logits(of("mup"), params, TOKENS),
        logits(of("standard"), params, TOKENS) / 4,
        rtol=1e-5,
        atol=1e-6,
    )
    plain = dataclasses.replace(WIDE, qk_norm=False)
    params = create(of("standard", plain))
    shorter = dict(
        params, layers=dict(params["layers"], attention=dict(params["layers"]["attention"]))
    )
    qkv = shorter["layers"]["attention"]["qkv"]
    shorter["layers"]["attention"]["qkv"] = qkv.at[:, :, :, :-2].mul(16**-0.5)
    want = logits(of("standard", plain), shorter, TOKENS) / 4
    np.testing.assert_allclose(logits(of("mup", plain), params, TOKENS), want, rtol=1e-5, atol=1e-6)


def test_completep_scales_what_branches_add():
    """Branches times 1/3 and logits times 1/4: the same as scaling the output matrices."""
    params = create(of("completep"))
    third = dict(
        params,
        layers=dict(
            params["layers"],
            attention=dict(params["layers"]["attention"]),
            mlp=dict(params["layers"]["mlp"]),
        ),
    )
    third["layers"]["attention"]["out"] = third["layers"]["attention"]["out"] / 3
    third["layers"]["mlp"]["down"] = third["layers"]["mlp"]["down"] / 3
    np.testing.assert_allclose(
        logits(of("completep"), params, TOKENS),
        logits(of("standard"), third, TOKENS) / 4,
        rtol=1e-4,
        atol=1e-6,
    )


@pytest.mark.parametrize("mode", optimizer.WEIGHT_DECAY_MODES)
def test_optimizer_does_what_the_table_says(monkeypatch, mode):
    """A table with another power for every role and column, against AdamW written out tensor by
    tensor.
    """
    numbers = iter(np.linspace(-1.0, 1.0, 18))
    roles = {
        role: Rule(Power(), *(Power(float(next(numbers))) for _ in range(3)))
        for role in sorted(set(parametrization.ROLES.values()))
    }
    monkeypatch.setitem(PARAMETRIZATIONS, "made-up", Parametrization(roles=roles))
    cfg = dataclasses.replace(WIDE, parametrization="made-up", base_width=16)
    params = create(of("standard"))
    hyper = HYPER | {
        "epsilon": np.float32(0.3),
        "beta1": np.float32(0.9),
        "beta2": np.float32(0.95),
        "learning_rate": np.float32(0.1),
    }
    grads = [
        jax.tree.map(lambda p, k=k: jnp.cos(7.0 * k + jnp.arange(p.size)).reshape(p.shape), params)
        for k in (1, 2)
    ]
    tx = optimizer.adamw(hyper, 0.5, mode, cfg)
    state = tx.init(params)
    for grad in grads:
        updates, state = tx.update(grad, state, params)
    first, second, start = leaves(grads[0]), leaves(grads[1]), leaves(params)
    for path, update in leaves(updates).items():
        rate, decay, eps = (4.0**power.width for power in roles[parametrization.role_of(path)][1:])
        m = (0.9 * 0.1 * first[path] + 0.1 * second[path]) / (1 - 0.9**2)
        v = (0.95 * 0.05 * first[path] ** 2 + 0.05 * second[path] ** 2) / (1 - 0.95**2)
        want = -0.5 * 0.1 * rate * m / (np.sqrt(v) + 0.3 * eps)
        shrink = 0.5 * rate * decay * 0.01 * (0.1 if mode == "coupled" else 1)
        want -= shrink * start[path] * ("norm" not in "".join(path))
        np.testing.assert_allclose(update, want, rtol=2e-4, atol=1e-6, err_msg=str(path))


def test_the_optimizers_state_is_as_before():
    """A checkpoint made before parametrisations restores: standard's state has the structure of the
    plain chain.
    """
    params = create(of("standard"))
    plain = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.scale_by_adam(),
        optax.scale(-1.0),
        optax.add_decayed_weights(0.1, mask=optimizer._decay),
    )
    state = optimizer.adamw(HYPER, 1.0, "independent", of("standard")).init(params)
    assert jax.tree.structure(state) == jax.tree.structure(plain.init(params))


@pytest.mark.slow
def test_members_of_a_pack_share_a_parametrisation():
    """Under vmap over learning rates, completep's steps are those of each run alone."""
    model, optim = (
        of("completep", sizes.shape("w32d4h16", vocab_size=37)),
        OptimizerSpec("adamw", "independent", "constant"),
    )
    rates = jnp.array([0.01, 0.03], jnp.float32)

    def losses(rate):
        hyper = STEP_HYPER | {"learning_rate": rate}
        state = initial_state(model, optim, hyper)
        out = []
        for i in range(3):
            state, metrics = train_step(
                model,
                optim,
                Execution(),
                state,
                hyper,
                jnp.asarray((TOKENS + i) % 37, jnp.int32),
            )
            out.append(metrics["last_loss"])
        return jnp.stack(out)

    together = jit(jax.vmap(losses))(rates)
    np.testing.assert_allclose(together, [jit(losses)(rate) for rate in rates], rtol=1e-5)
    assert abs(float(together[0, -1] - together[1, -1])) > 1e-4


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model__parametrization": "mupp"}, "did you mean 'mup'"),
        ({"model__parametrization": "mup"}, "model.base_width=0: mup is relative"),
        ({"model__parametrization": "mup", "model__base_width": -16}, "model.base_width=-16"),
        (
            {"model__parametrization": "mup", "model__base_width": 16, "model__base_depth": 2},
            "model.base_depth=2: mup does not read it",
        ),
        (
            {"model__parametrization": "completep", "model__base_width": 16},
            "model.base_depth=0: completep is relative",
        ),
        ({"model__base_width": 16}, "model.base_width=16: standard does not read it"),
        (
            {
                "model__parametrization": "mup",
                "model__base_width": 16,
                "optimizer__learning_rate": 0.0,
            },
            "optimizer.learning_rate=0",
        ),
    ],
)
def test_refused(tmp_path, change, says):
    with pytest.raises(UserError, match=says):
        rung(tiny.config(tmp_path, **change))
    spec = rung(
        tiny.config(
            tmp_path, model__parametrization="completep", model__base_width=8, model__base_depth=1
        )
    )
    assert (spec.model.parametrization, spec.model.base_width, spec.hyper.learning_rate) == (
        "completep",
        8,
        1e-2,
    )


def test_the_study_of_drift(root):
    """Grids in steps of sqrt 2, muP and standard at the same widths and one depth; the base rate is
    what the record calls the learning rate.
    """
    for arg in ("tiny", "cpu", "gpu"):
        specs = load(f"{root / 'configs/studies/parametrization.py'}:{arg}").specs
        sweeps = {}
        for spec in specs:
            sweeps.setdefault((spec.model.parametrization, spec.model.d_model), {}).setdefault(
                spec.hyper.learning_rate, set()
            ).add(spec.hyper.seed)
            assert spec.tag == {"role": "sweep", "study": "parametrization"}
        assert {w for name, w in sweeps if name == "mup"} == {
            w for name, w in sweeps if name == "standard"
        }
        for rates in sweeps.values():
            grid = sorted(rates)
            assert len(grid) >= 3 and max(b / a for a, b in itertools.pairwise(grid)) < 1.42
            assert len({frozenset(seeds) for seeds in rates.values()}) == 1
        assert (
            len({(s.steps, s.batch_size, s.model.n_layers, s.hyper.weight_decay) for s in specs})
            == 1
        )
