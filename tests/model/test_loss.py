"""Cross-entropy, z-loss and soft-cap against NumPy float64; in pieces as in one; the first
loss; a tiny batch learned by heart.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import logsumexp

from stepladder.model import transformer
from stepladder.model.execution import Execution
from stepladder.model.loss.cross_entropy import NORMALISERS, cross_entropy
from stepladder.model.loss.next_token import next_token_loss, piece_count, token_nll
from tests.support.model_shapes import PLAIN, SHAPES, create, jit

RNG = np.random.default_rng(0)
logits = jit(transformer.logits, static_argnums=0)


@pytest.mark.parametrize("normaliser", NORMALISERS)
@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_cross_entropy(scale, normaliser):
    x = (RNG.standard_normal((2, 5, 11)) * scale).astype(np.float32)
    targets = RNG.integers(0, 11, (2, 5))
    nll, log_z = cross_entropy(x, targets, normaliser)
    want = logsumexp(x.astype(np.float64), axis=-1)
    chosen = np.take_along_axis(x.astype(np.float64), targets[..., None], -1)[..., 0]
    np.testing.assert_allclose(log_z, want, rtol=1e-6)
    np.testing.assert_allclose(nll, want - chosen, rtol=1e-5, atol=1e-4 * scale)


@pytest.mark.parametrize("normaliser", NORMALISERS)
def test_cross_entropy_gradient_is_softmax_minus_one_hot(normaliser):
    x, targets = RNG.standard_normal((1, 3, 7)).astype(np.float32), np.array([[0, 6, 2]])
    got = jax.grad(lambda x: cross_entropy(x, targets, normaliser)[0].sum())(x)
    want = np.exp(x - logsumexp(x, axis=-1, keepdims=True)) - np.eye(7)[targets]
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_one_pass_and_two_have_one_hessian():
    x, targets = RNG.standard_normal((1, 2, 5)), RNG.integers(0, 5, (1, 2))
    with jax.enable_x64(True):
        one, two = (
            jax.hessian(lambda x, name=name: jnp.square(cross_entropy(x, targets, name)[1]).sum())(
                jnp.asarray(x)
            )
            for name in ("one_pass", "two_passes")
        )
        np.testing.assert_allclose(one, two, atol=1e-12)


@pytest.mark.parametrize("floats", [0, 40], ids=["whole", "pieces"])
def test_the_normaliser_changes_no_loss_and_no_gradient(floats):
    cfg = SHAPES["soft-cap"]
    params, tokens = create(cfg), RNG.integers(0, cfg.vocab_size, (2, 9))
    found = {}
    for name in NORMALISERS:
        execution = Execution(loss_floats=floats, normaliser=name)

        def total(params, execution=execution):
            return next_token_loss(cfg, params, tokens, 0.1, execution=execution)[0]

        text = str(jax.make_jaxpr(total)(params))
        assert ("custom_jvp_call" in text and "_one_pass" in text) == (name == "one_pass")
        found[name] = jax.tree.leaves(jit(jax.value_and_grad(total))(params))
        nll = jit(lambda p, e=execution: token_nll(cfg, p, tokens, execution=e))(params)
        found[name].append(nll)
    for a, b in zip(*found.values()):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["plain", "all"])
def test_next_token_loss_adds_up(name):
    cfg = SHAPES[name]
    params, tokens = create(cfg), RNG.integers(0, cfg.vocab_size, (3, 9))

    @jit
    def all_three(params, z_loss):
        loss = next_token_loss(cfg, params, tokens, z_loss)
        return (
            *loss,
            token_nll(cfg, params, tokens),
            transformer.logits(cfg, params, tokens[:, :-1]),
        )

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
    assert float(jit(token_nll, static_argnums=0)(cfg, params, tokens).mean()) == pytest.approx(
        math.log(257), abs=0.05
    )


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


def equations(jaxpr):
    """All equations of a jaxpr and of those inside it."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(
            list(equation.params.values()),
            is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr"),
        ):
            if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                yield from equations(getattr(inner, "jaxpr", inner))


def wide_sizes(function, *args):
    """Sizes of all float32 arrays a function makes."""
    made = [v.aval for e in equations(jax.make_jaxpr(function)(*args).jaxpr) for v in e.outvars]
    return {a.size for a in made if getattr(a, "dtype", None) == jnp.float32}


CHUNKED = {
    "untied, soft-cap": dataclasses.replace(SHAPES["all"], n_layers=1),
    "tied, mup": dataclasses.replace(PLAIN, parametrization="mup", base_width=4, n_layers=1),
}


@pytest.mark.parametrize("name", CHUNKED)
@pytest.mark.parametrize("pieces", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_in_pieces_as_in_one(name, pieces):
    """Values, metrics and gradients, also of the weight of the z-loss; and evaluation, whose
    gradient is another path.
    """
    cfg, B, L = CHUNKED[name], 3, 8
    params, tokens = create(cfg), RNG.integers(0, cfg.vocab_size, (B, L + 1))
    floats = B * L * cfg.vocab_size // pieces
    assert piece_count(B, L, cfg.vocab_size, floats) == pieces

    def train(floats):
        return jit(
            jax.value_and_grad(
                lambda p, z: next_token_loss(
                    cfg, p, tokens, z, execution=Execution(loss_floats=floats)
                ),
                argnums=(0, 1),
                has_aux=True,
            )
        )

    def evaluation(floats):
        return jit(
            jax.value_and_grad(
                lambda p: jnp.square(
                    token_nll(cfg, p, tokens, execution=Execution(loss_floats=floats))
                ).sum()
            )
        )

    for function, args in ((train, (params, 0.01)), (evaluation, (params,))):
        (value, slope), (want, slope_want) = function(floats)(*args), function(0)(*args)
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-6), value, want
        )
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5), slope, slope_want
        )
    without_gradient = jit(
        lambda p, z: next_token_loss(cfg, p, tokens, z, execution=Execution(loss_floats=floats))
    )(params, 0.01)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6),
        without_gradient,
        train(0)(params, 0.01)[0],
    )


def test_pieces_in_float64():
    with jax.enable_x64(True):
        cfg = dataclasses.replace(SHAPES["all"], compute_dtype="float64")
        params, tokens = (
            jax.tree.map(lambda p: np.asarray(p, np.float64), create(cfg)),
            RNG.integers(0, cfg.vocab_size, (2, 9)),
        )

        def loss(floats):
            return jit(
                jax.value_and_grad(
                    lambda p: next_token_loss(
                        cfg, p, tokens, 0.5, execution=Execution(loss_floats=floats)
                    )[0]
                )
            )(params)

        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-12),
            loss(100),
            loss(0),
        )


@pytest.mark.parametrize("tied", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_bfloat16_pieces_sum_in_float32(tied):
    """Sixteen pieces are as near to float32 as one: their gradients of the unembedding do not meet
    in bfloat16.
    """
    cfg = dataclasses.replace(SHAPES["all"], compute_dtype="bfloat16", tied=tied)
    params, tokens = create(cfg), RNG.integers(0, cfg.vocab_size, (4, 17))
    leaf = "embed" if tied else "unembed"

    def slope(cfg, floats):
        return np.asarray(
            jit(
                jax.grad(
                    lambda p: next_token_loss(
                        cfg, p, tokens, execution=Execution(loss_floats=floats)
                    )[0]
                )
            )(params)[leaf]
        )

    exact = slope(dataclasses.replace(cfg, compute_dtype="float32"), 0)

    def error(floats):
        return np.linalg.norm(slope(cfg, floats) - exact) / np.linalg.norm(exact)

    assert error(4 * cfg.vocab_size) < 1.2 * error(0) + 1e-3


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_all_logits_are_never_held(dtype):
    """No float32 array of B L V numbers or more stands in the program of the loss and its gradient,
    nor in that of an evaluation.
    """
    cfg = dataclasses.replace(SHAPES["all"], vocab_size=512, compute_dtype=dtype)
    params, (B, L) = create(cfg), (4, 32)
    tokens = RNG.integers(0, cfg.vocab_size, (B, L + 1))
    whole = B * L * cfg.vocab_size

    def programs(floats):
        yield lambda p: jax.value_and_grad(
            lambda p: next_token_loss(
                cfg, p, tokens, 1e-3, execution=Execution(loss_floats=floats)
            )[0]
        )(p)
        yield lambda p: jax.value_and_grad(
            lambda p: token_nll(cfg, p, tokens, execution=Execution(loss_floats=floats)).mean()
        )(p)

    for in_pieces, one_piece in zip(programs(whole // 4), programs(0)):
        assert max(wide_sizes(in_pieces, params)) < whole and whole // 4 in wide_sizes(
            in_pieces, params
        )
        assert whole in wide_sizes(one_piece, params)


def test_pieces_of_a_pack_are_those_of_its_members():
    cfg = SHAPES["all"]
    tokens = RNG.integers(0, cfg.vocab_size, (2, 3, 9))
    params = [create(cfg, seed) for seed in (0, 1)]
    loss = jax.value_and_grad(
        lambda p, t: next_token_loss(cfg, p, t, 1e-3, execution=Execution(loss_floats=200))[0]
    )
    packed = jit(jax.vmap(loss))(jax.tree.map(lambda *x: np.stack(x), *params), tokens)
    for i in range(2):
        jax.tree.map(
            lambda x, y, i=i: np.testing.assert_allclose(x[i], y, rtol=1e-5, atol=1e-6),
            packed,
            jit(loss)(params[i], tokens[i]),
        )


def test_chunk_rule():
    assert piece_count(8, 2048, 50_000, 0) == 1
    assert piece_count(8, 2048, 50_000, 2**27) == 8  # 6.1 rounded up to a divisor
    assert piece_count(8, 2048, 257, 2**27) == 1
    assert piece_count(8, 7, 50_000, 10) == 7  # never less than a token
