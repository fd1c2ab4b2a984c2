"""The forward pass and its pieces against plain NumPy in float64, written from the papers and head
by head.
"""

import jax
import numpy as np
import pytest

from stepladder.model import mlp, norm, transformer
from stepladder.model.attention import rope
from tests.support.model_shapes import SHAPES, create, jit

RNG = np.random.default_rng(0)


def reference_norm(x, scale, eps):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * scale


def reference_rope(x_LK, positions_L, theta):
    """Complex rotation of the pairs (i, i + K/2)."""
    K = x_LK.shape[-1]
    z = x_LK[:, : K // 2] + 1j * x_LK[:, K // 2 :]
    turn = np.exp(1j * positions_L[:, None] * theta ** (-2 * np.arange(K // 2) / K))
    return np.concatenate([(z * turn).real, (z * turn).imag], axis=-1)


def reference_attention(q_LK, k_MK, v_MK, mask_LM):
    """Row by row, over visible positions only."""
    rows = []
    for q_K, mask_M in zip(q_LK, mask_LM):
        scores = k_MK[mask_M] @ q_K / np.sqrt(len(q_K))
        weights = np.exp(scores - scores.max())
        rows.append(weights / weights.sum() @ v_MK[mask_M])
    return np.array(rows)


REFERENCE_ACTIVATIONS = {
    "swiglu": lambda gate, up: gate / (1 + np.exp(-gate)) * up,
    "gelu": lambda up: 0.5 * up * (1 + np.tanh(np.sqrt(2 / np.pi) * (up + 0.044715 * up**3))),
}


def reference_logits(cfg, params, tokens_L, mask_LM, positions_L):
    H, G = cfg.n_heads, cfg.n_kv_heads
    R = H // G
    x_LD = params["embed"][tokens_L]
    layers = params["layers"]
    for n in range(cfg.n_layers):
        h_LD = reference_norm(x_LD, layers["attention_norm"][n], cfg.norm_eps)
        for head in range(H):
            group, within = divmod(head, R)
            q, k, v = (
                h_LD @ layers["attention"]["qkv"][n][:, group, i] for i in (within, R, R + 1)
            )
            if cfg.qk_norm:
                q = reference_norm(q, layers["attention"]["q_norm"][n], cfg.norm_eps)
                k = reference_norm(k, layers["attention"]["k_norm"][n], cfg.norm_eps)
            q, k = (reference_rope(t, positions_L, cfg.rope_theta) for t in (q, k))
            x_LD = (
                x_LD + reference_attention(q, k, v, mask_LM) @ layers["attention"]["out"][n][head]
            )
        h_LD = reference_norm(x_LD, layers["mlp_norm"][n], cfg.norm_eps)
        up = [h_LD @ layers["mlp"]["up"][n][:, i] for i in range(layers["mlp"]["up"].shape[2])]
        x_LD = x_LD + REFERENCE_ACTIVATIONS[cfg.activation](*up) @ layers["mlp"]["down"][n]
    x_LD = reference_norm(x_LD, params["final_norm"], cfg.norm_eps)
    logits = x_LD @ (params["embed"].T if cfg.tied else params["unembed"])
    return cfg.logit_cap * np.tanh(logits / cfg.logit_cap) if cfg.logit_cap else logits


logits = jit(transformer.logits, static_argnums=0)


def model(name):
    """A shape and parameters away from their initial values, so that a forgotten scale shows."""
    cfg = SHAPES[name]
    params = create(cfg)
    return cfg, jax.tree.map(
        lambda p: np.asarray(p + 0.3 * RNG.standard_normal(p.shape), np.float32), params
    )


@pytest.mark.parametrize("name", SHAPES)
def test_forward_matches_numpy(name):
    cfg, params = model(name)
    tokens_BL = RNG.integers(0, cfg.vocab_size, (2, 7))
    got = np.asarray(logits(cfg, params, tokens_BL))
    double = jax.tree.map(lambda p: p.astype(np.float64), params)
    want = np.stack(
        [
            reference_logits(cfg, double, t, np.tril(np.ones((7, 7), bool)), np.arange(7.0))
            for t in tokens_BL
        ]
    )
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-4)


def test_every_activation_is_compared():
    compared = {cfg.activation for cfg in SHAPES.values()}
    assert compared == set(mlp.ACTIVATIONS) == set(REFERENCE_ACTIVATIONS)


def test_documents_and_positions_match_numpy():
    cfg, params = model("all")
    tokens_BL, documents = RNG.integers(0, cfg.vocab_size, (1, 7)), np.array([0, 0, 0, 1, 1, 1, 1])
    positions = np.array([[0, 1, 2, 0, 1, 2, 3]])
    mask_BLM = (documents[:, None] == documents)[None]
    got = np.asarray(logits(cfg, params, tokens_BL, positions_BL=positions, mask_BLM=mask_BLM))
    double = jax.tree.map(lambda p: p.astype(np.float64), params)
    want = reference_logits(
        cfg,
        double,
        tokens_BL[0],
        mask_BLM[0] & np.tril(np.ones((7, 7), bool)),
        positions[0].astype(float),
    )
    np.testing.assert_allclose(got[0], want, rtol=2e-4, atol=2e-4)
    alone = np.asarray(logits(cfg, params, tokens_BL[:, 3:]))
    # a packed document equals the same document alone
    np.testing.assert_allclose(got[:, 3:], alone, rtol=1e-4, atol=1e-4)


def test_causal():
    cfg, params = model("gqa")
    tokens_BL = RNG.integers(0, cfg.vocab_size, (1, 8))
    changed = tokens_BL.copy()
    changed[0, 5:] = (changed[0, 5:] + 1) % cfg.vocab_size
    a, b = logits(cfg, params, tokens_BL), logits(cfg, params, changed)
    np.testing.assert_array_equal(a[:, :5], b[:, :5])
    assert np.abs(a[:, 5:] - b[:, 5:]).min(axis=-1).max() > 0


def test_rms_norm():
    x, scale = RNG.standard_normal((3, 5, 8)), RNG.standard_normal(8)
    got = norm.rms_norm(x.astype(np.float32), scale.astype(np.float32), 1e-5)
    np.testing.assert_allclose(got, reference_norm(x, scale, 1e-5), rtol=1e-5, atol=1e-6)


def test_rope():
    x, positions = RNG.standard_normal((1, 6, 1, 8)), np.array([[0, 1, 2, 50, 51, 900]])
    got = np.asarray(rope.rotate(x.astype(np.float32), *rope.angles(positions, 8, 10_000.0)))
    np.testing.assert_allclose(
        got[0, :, 0],
        reference_rope(x[0, :, 0], positions[0].astype(float), 10_000.0),
        rtol=1e-3,
        atol=3e-4,
    )
    np.testing.assert_allclose(got[0, 0], x[0, 0], rtol=1e-6)  # position 0 is not turned


def test_rope_scores_depend_on_distance_only():
    q, k = (RNG.standard_normal((1, 1, 1, 16)).astype(np.float32) for _ in range(2))

    def score(i, j):
        def turn(x, at):
            return np.asarray(rope.rotate(x, *rope.angles(np.array([[at]]), 16, 10_000.0)))

        return float((turn(q, i) * turn(k, j)).sum())

    assert score(7, 3) == pytest.approx(score(104, 100), abs=1e-4)
    assert score(7, 3) != pytest.approx(score(7, 4), abs=1e-4)
