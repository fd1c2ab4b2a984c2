"""Execution changes speed and memory, never the result: scan, unroll, remat, micro-batches,
devices; and bfloat16, jit and vmap of `init`.
"""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from stepladder.model import execution, layer, transformer
from stepladder.model.execution import Execution
from stepladder.model.gradient import loss_and_gradient
from stepladder.model.loss.next_token import next_token_loss
from stepladder.model.parallel import rules
from tests.support.model_shapes import SHAPES, create, jit

CFG = dataclasses.replace(SHAPES["all"], n_layers=2)
PARAMS = create(CFG)
TOKENS = np.random.default_rng(0).integers(0, CFG.vocab_size, (8, 17))


@functools.cache
def gradient(cfg=CFG, execution=Execution()):
    def loss(params):
        return next_token_loss(cfg, params, TOKENS, 1e-3, execution=execution)[0]

    return jit(jax.value_and_grad(loss))(PARAMS)


def assert_close(a, b, tolerance=1e-5):
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=10 * tolerance, atol=tolerance), a, b
    )


@pytest.mark.parametrize("remat", layer.REMAT)
@pytest.mark.parametrize("runner", layer.RUNNERS)
def test_runners_and_remat_agree(runner, remat):
    assert_close(gradient(execution=Execution(layers=runner, remat=remat)), gradient())


def residual_floats(remat, runner):
    """Size of what the forward pass hands to the backward pass."""
    execution = Execution(layers=runner, remat=remat)

    def loss(params):
        return next_token_loss(CFG, params, TOKENS, execution=execution)[0]

    backward = jax.eval_shape(lambda p: jax.vjp(loss, p)[1], PARAMS)
    return sum(x.size for x in jax.tree.leaves(backward))


@pytest.mark.parametrize("runner", layer.RUNNERS)
def test_remat_saves_less(runner):
    none, dots, full = (residual_floats(remat, runner) for remat in ("none", "dots", "full"))
    assert full < dots < none
    inputs = CFG.n_layers * TOKENS.shape[0] * (TOKENS.shape[1] - 1) * CFG.d_model
    outside = residual_floats("full", runner) - inputs
    assert none - outside > 4 * inputs  # "full" keeps one residual stream a layer


def test_stacked_parameters_whatever_the_runner():
    for leaf in jax.tree.leaves(PARAMS["layers"]):
        assert leaf.shape[0] == CFG.n_layers and leaf.dtype == jnp.float32


@pytest.mark.parametrize("runner", layer.RUNNERS)
def test_bfloat16_computes_with_float32_parameters(runner):
    cfg = dataclasses.replace(CFG, compute_dtype="bfloat16")
    value, grads = gradient(cfg, Execution(layers=runner))
    exact, exact_grads = gradient()
    assert float(value) == pytest.approx(float(exact), rel=1e-2)
    for got, want in zip(jax.tree.leaves(grads), jax.tree.leaves(exact_grads)):
        assert got.dtype == jnp.float32
        assert np.linalg.norm(got - want) < 0.1 * np.linalg.norm(want)
    execution = Execution(layers=runner)
    jaxpr = str(
        jax.make_jaxpr(lambda p: transformer.logits(cfg, p, TOKENS, execution=execution))(PARAMS)
    )
    projections = re.findall(r"(\w+)\[\d+,\d+\] = dot_general", jaxpr)
    assert projections[-1] == "f32" and set(projections[:-1]) == {"bf16"}  # all but the logits


@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize("micro_batch", [0, 1])
def test_micro_batches_and_devices_agree(micro_batch, devices):
    assert len(jax.devices()) >= devices, (
        "tests/conftest.py asks for eight CPU devices before jax starts"
    )
    mesh = jax.make_mesh(
        (1, devices, 1, 1),
        rules.AXES,
        devices=jax.devices()[:devices],
        axis_types=(AxisType.Auto,) * 4,
    )
    execution = Execution(micro_batch=micro_batch, mesh=mesh)
    aux, grads = jit(lambda p, t: loss_and_gradient(CFG, p, t, 1e-3, execution=execution))(
        PARAMS, TOKENS
    )
    value, want = gradient()
    assert float(aux["loss"] + aux["z_loss"]) == pytest.approx(float(value), rel=1e-6)
    assert_close(grads, want)


def test_micro_batch_must_divide():
    with pytest.raises(ValueError, match="micro_batch=3"):
        loss_and_gradient(CFG, PARAMS, TOKENS, execution=Execution(micro_batch=3))


def test_executions_are_hashed_by_value():
    assert hash(Execution(remat="full")) == hash(Execution(remat="full"))
    assert len({Execution(), Execution(micro_batch=0), Execution(micro_batch=2)}) == 2


def test_a_micro_batch_is_within_the_cache():
    wide = dataclasses.replace(CFG, d_model=128)
    assert execution.micro_batch_within(wide, 16, 128, 2**15) == 2
    assert execution.micro_batch_within(wide, 15, 128, 2**15) == 1  # divisors only
    assert execution.micro_batch_within(wide, 16, 4096, 2**15) == 1  # never none
    assert execution.micro_batch_within(CFG, 4, 128, 2**15) == 4
    assert execution.micro_batch_within(wide, 16, 128, 0) == 0  # all


def test_init_is_traceable_in_the_key():
    traces = []

    @jit
    def make(key):
        traces.append(1)
        return transformer.init(CFG, key)

    keys = jax.random.split(jax.random.key(3), 2)
    each = [make(key) for key in keys]
    packed = jit(jax.vmap(lambda key: transformer.init(CFG, key)))(keys)
    assert len(traces) == 1
    for i, one in enumerate(each):
        assert_close(jax.tree.map(lambda p, i=i: p[i], packed), one, 1e-6)
    assert not np.allclose(each[0]["embed"], each[1]["embed"])


def test_initial_scales():
    cfg = dataclasses.replace(CFG, d_model=256, d_ff=512, head_dim=64)
    params = create(cfg)
    # output projections: times 2 N
    fan_in = {"qkv": 256, "up": 256, "out": 256 * 2 * 2, "down": 512 * 2 * 2}
    for module, names in (("attention", ("qkv", "out")), ("mlp", ("up", "down"))):
        for name in names:
            assert float(params["layers"][module][name].std()) == pytest.approx(
                fan_in[name] ** -0.5, rel=0.02
            )
    assert float(params["embed"].std()) == pytest.approx(0.02, rel=0.03)
