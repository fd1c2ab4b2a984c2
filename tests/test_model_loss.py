"""Cross-entropy, z-loss and soft-cap against NumPy float64; the first loss; a tiny batch learned by heart."""

import dataclasses
import math

import jax
import numpy as np
import optax
import pytest
from scipy.special import logsumexp

from stepladder.model import transformer
from stepladder.model.loss import cross_entropy, next_token_loss, token_nll
from tests.model_shapes import PLAIN, SHAPES, create, jit

RNG = np.random.default_rng(0)
logits = jit(transformer.logits, static_argnums=0)


@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_cross_entropy(scale):
    x = (RNG.standard_normal((2, 5, 11)) * scale).astype(np.float32)
    targets = RNG.integers(0, 11, (2, 5))
    nll, log_z = cross_entropy(x, targets)
    want = logsumexp(x.astype(np.float64), axis=-1)
    chosen = np.take_along_axis(x.astype(np.float64), targets[..., None], -1)[..., 0]
    np.testing.assert_allclose(log_z, want, rtol=1e-6)
    np.testing.assert_allclose(nll, want - chosen, rtol=1e-5, atol=1e-4 * scale)


def test_cross_entropy_gradient_is_softmax_minus_one_hot():
    x, targets = RNG.standard_normal((1, 3, 7)).astype(np.float32), np.array([[0, 6, 2]])
    got = jax.grad(lambda x: cross_entropy(x, targets)[0].sum())(x)
    want = np.exp(x - logsumexp(x, axis=-1, keepdims=True)) - np.eye(7)[targets]
    np.testing.assert_allclose(got, want, atol=1e-6)


@pytest.mark.parametrize("name", ["plain", "all"])
def test_next_token_loss_adds_up(name):
    cfg = SHAPES[name]
    params, tokens = create(cfg), RNG.integers(0, cfg.vocab_size, (3, 9))

    @jit
    def all_three(params, z_loss):
        loss = next_token_loss(cfg, params, tokens, z_loss)
        return *loss, token_nll(cfg, params, tokens), transformer.logits(cfg, params, tokens[:, :-1])

    total, aux, nll_BL, logits_BLV = all_three(params, 0.01)
    log_z = logsumexp(np.asarray(logits_BLV, np.float64), axis=-1)
    assert aux["nll_BL"].shape == (3, 8)
    assert float(aux["z_loss"]) == pytest.approx(0.01 * (log_z**2).mean(), rel=1e-5)
    assert float(aux["loss"]) == pytest.approx(float(aux["nll_BL"].mean()), rel=1e-6)
    assert float(total) == pytest.approx(float(aux["loss"] + aux["z_loss"]), rel=1e-6)
    np.testing.assert_allclose(nll_BL, aux["nll_BL"], rtol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_first_loss_is_log_of_the_vocabulary(tied):
    cfg = dataclasses.replace(SHAPES["all"], tied=tied, vocab_size=257, d_model=64)
    params, tokens = create(cfg), RNG.integers(0, 257, (8, 33))
    assert float(jit(token_nll, static_argnums=0)(cfg, params, tokens).mean()) == pytest.approx(math.log(257), abs=0.05)


def test_soft_cap_bounds_the_logits():
    cfg = SHAPES["soft-cap"]
    params = jax.tree.map(lambda p: 30 * p, create(cfg))
    tokens = RNG.integers(0, cfg.vocab_size, (2, 9))
    capped = np.asarray(logits(cfg, params, tokens))
    free = np.asarray(logits(dataclasses.replace(cfg, logit_cap=0.0), params, tokens), np.float64)
    assert np.abs(free).max() > 1 and np.abs(capped).max() <= 0.5
    np.testing.assert_allclose(capped, 0.5 * np.tanh(free / 0.5), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["plain", "all"])
def test_learns_a_tiny_batch_by_heart(name):
    cfg = dataclasses.replace(SHAPES[name], logit_cap=30.0 if name == "all" else 0.0, n_layers=2)
    tokens = RNG.integers(0, PLAIN.vocab_size, (2, 17))
    tokens[:, 0] = [1, 2]  # told apart from the first token on
    optimizer = optax.adam(2e-2)
    params = create(cfg)

    @jax.jit
    def train(params):
        def step(state, _):
            params, opt = state
            loss, grads = jax.value_and_grad(lambda p: next_token_loss(cfg, p, tokens)[0])(params)
            updates, opt = optimizer.update(grads, opt)
            return (optax.apply_updates(params, updates), opt), loss

        return jax.lax.scan(step, (params, optimizer.init(params)), length=400)[1]

    losses = train(params)
    assert losses[0] > 3 and losses[-1] < 0.02
