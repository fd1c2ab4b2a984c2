"""What each kind of training changes and leaves, against the mathematics written out."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stepladder.configs.core.build import rung
from stepladder.configs.core.errors import UserError
from stepladder.model.execution import Execution
from stepladder.model.gradient import loss_and_gradient
from stepladder.model.loss.next_token import token_nll
from stepladder.train.step.step import (
    adopted_state,
    initial_state,
    traced_hypers,
    train_step,
)
from stepladder.train.step.trainable import SCALE, TRAINABLE, adapters, check, with_adapters
from tests.support import tiny
from tests.support.errors import assert_user_error

EXECUTION = Execution(layers="unroll")


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    return rung(tiny.config(tmp_path_factory.mktemp("text"), model__size="14k"))


def changed(spec, **optimizer):
    return dataclasses.replace(spec, optimizer=dataclasses.replace(spec.optimizer, **optimizer))


def tokens_of(spec):
    shape = spec.batch_size, spec.data.seq_len + 1
    return jax.random.randint(jax.random.key(1), shape, 0, spec.model.vocab_size)


def started(spec):
    """The state from which a run of `spec` starts that branches from a plain one."""
    plain = dataclasses.replace(spec.optimizer, trainable="all", rank=0, to_start=False)
    hyper = traced_hypers(spec)
    parent = initial_state(spec.model, plain, hyper)
    return adopted_state(spec.model, spec.optimizer, hyper, parent)


def stepped(spec, state, tokens_BT):
    step = jax.jit(train_step, static_argnums=(0, 1, 2))
    return step(spec.model, spec.optimizer, EXECUTION, state, traced_hypers(spec), tokens_BT)


@pytest.mark.slow
def test_the_last_layer_alone_moves(spec):
    state = started(changed(spec, trainable="last"))
    after, _ = stepped(changed(spec, trainable="last"), state, tokens_of(spec))
    assert spec.model.n_layers > 1
    moved = jax.tree.map(lambda a, b: np.asarray(a != b), state["params"], after["params"])
    assert not moved["embed"].any()
    assert moved["final_norm"].any()
    for leaf in jax.tree.leaves(moved["layers"]):
        assert not leaf[:-1].any() and leaf[-1].any()


def test_adapters_start_at_the_parents_loss_and_only_they_move(spec):
    lora = changed(spec, trainable="lora", rank=2)
    state = started(lora)
    for a, b in zip(jax.tree.leaves(state["params"]), jax.tree.leaves(state["start"]), strict=True):
        np.testing.assert_array_equal(a, b)
    after, _ = stepped(lora, state, tokens_of(spec))
    for a, b in zip(jax.tree.leaves(after["start"]), jax.tree.leaves(state["start"]), strict=True):
        np.testing.assert_array_equal(a, b)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), state["params"], after["params"])
    assert not moved["embed"] and not moved["final_norm"] and not moved["layers"]["mlp_norm"]
    assert all(jax.tree.leaves(moved["layers"]["attention"][name])[0] for name in ("qkv", "out"))
    moments = sum(leaf.size for leaf in jax.tree.leaves(after["opt"]))
    assert moments < sum(leaf.size for leaf in jax.tree.leaves(after["params"]))


def test_the_merged_weight_is_the_product_added(spec):
    """Against matrices written out, where inputs span one axis and where they span two."""
    params = initial_state(spec.model, spec.optimizer, traced_hypers(spec))["params"]
    lora = jax.tree.map(
        lambda x: jax.random.normal(jax.random.key(x.size), x.shape),
        adapters(params, 3, jax.random.key(0)),
    )
    merged = with_adapters(params, lora)["layers"]
    d = spec.model.d_model
    up, ab = params["layers"]["mlp"]["up"], lora["mlp"]["up"]
    want = up[0].reshape(d, -1) + SCALE * ab["a"][0] @ ab["b"][0]
    np.testing.assert_allclose(merged["mlp"]["up"][0].reshape(d, -1), want, rtol=1e-5, atol=1e-5)
    out, ab = params["layers"]["attention"]["out"], lora["attention"]["out"]
    want = out[0].reshape(-1, d) + SCALE * ab["a"][0] @ ab["b"][0]
    np.testing.assert_allclose(
        merged["attention"]["out"][0].reshape(-1, d), want, rtol=1e-5, atol=1e-5
    )


@pytest.mark.slow
def test_the_penalty_is_the_gradient_of_half_the_squared_distance(spec):
    """The moments after a first step are those of the gradient with the pull to the start."""
    far = changed(spec, to_start=True)
    far = dataclasses.replace(
        far, hyper=dataclasses.replace(far.hyper, l2_to_start=0.7, clip_norm=1e9, z_loss=0.0)
    )
    state, tokens_BT = started(far), tokens_of(spec)
    state["start"] = jax.tree.map(lambda x: x - 0.01, state["start"])
    after, _ = stepped(far, state, tokens_BT)

    def penalised(params):
        squares = jax.tree.map(lambda a, b: jnp.square(a - b).sum(), params, state["start"])
        return 0.35 * sum(jax.tree.leaves(squares))

    _, slope = loss_and_gradient(far.model, state["params"], tokens_BT, 0.0, execution=EXECUTION)
    want = jax.tree.map(jnp.add, slope, jax.grad(penalised)(state["params"]))
    adam = next(
        part for part in jax.tree.leaves(after["opt"], is_leaf=_has_moments) if _has_moments(part)
    )
    for a, b in zip(jax.tree.leaves(adam.mu), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, 0.1 * b, rtol=1e-4, atol=1e-7)


def _has_moments(part):
    return hasattr(part, "mu")


def test_a_plain_state_is_what_it_was(spec):
    """Nothing is added to runs that are not fine-tuned."""
    state = started(spec)
    assert set(state) == {"params", "opt", "step", "window"}


@pytest.mark.parametrize(
    ("optimizer", "field", "value"),
    [
        ({"trainable": "head"}, "optimizer.trainable", "head"),
        ({"trainable": "lora"}, "optimizer.rank", 0),
        ({"rank": 4}, "optimizer.rank", 4),
    ],
)
def test_what_cannot_be_trained_is_refused(spec, optimizer, field, value):
    with pytest.raises(UserError) as raised:
        check(changed(spec, **optimizer).optimizer)
    assert_user_error(raised, field=field, value=value, remedy="use|known")


@pytest.mark.parametrize("kind", TRAINABLE)
def test_every_kind_lowers_the_loss(spec, kind):
    tuned = changed(spec, trainable=kind, rank=4 if kind == "lora" else 0)
    tuned = dataclasses.replace(
        tuned, hyper=dataclasses.replace(tuned.hyper, warmup_steps=0, learning_rate=0.02)
    )
    state, tokens_BT = started(tuned), tokens_of(spec)
    losses = []
    for _ in range(8):
        state, metrics = stepped(tuned, state, tokens_BT)
        losses.append(float(metrics["last_loss"]))
    assert losses[-1] < losses[0]


def test_only_counted_tokens_make_loss_and_gradient(spec):
    """A batch with marks against the mean over its counted tokens, written out."""
    marked = dataclasses.replace(spec, model=dataclasses.replace(spec.model, marked=True))
    tokens_BT = tokens_of(spec)
    marks = jax.random.bernoulli(jax.random.key(2), 0.6, tokens_BT.shape)
    signed_BT = jnp.where(marks, ~tokens_BT, tokens_BT)
    state = started(marked)
    _, metrics = stepped(marked, state, signed_BT)
    nll_BL = token_nll(spec.model, state["params"], tokens_BT, execution=EXECUTION)
    counted_BL = ~marks[:, 1:]
    want = (nll_BL * counted_BL).sum() / counted_BL.sum()
    assert float(metrics["last_loss"]) == pytest.approx(float(want), rel=1e-5)

    def mean(params):
        nll_BL = token_nll(spec.model, params, tokens_BT, execution=EXECUTION)
        return (nll_BL * counted_BL).sum() / counted_BL.sum()

    norm = jnp.sqrt(
        sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(jax.grad(mean)(state["params"])))
    )
    free = dataclasses.replace(marked, hyper=dataclasses.replace(marked.hyper, z_loss=0.0))
    _, metrics = stepped(free, state, signed_BT)
    assert float(metrics["grad_norm"]) == pytest.approx(float(norm), rel=1e-4)
