"""Rounding of weights: its error is bounded by half a step of each channel, and falls with the
bits.
"""

import math

import jax
import numpy as np
import pytest

from stepladder.configs.core.measurements import BITS
from stepladder.model import noise
from stepladder.train.probes import quantisation
from tests.model.test_noise import leaves
from tests.support.model_shapes import SHAPES, create, jit

rounded = jit(quantisation.quantised, static_argnums=(1, 2))


@pytest.fixture(scope="module")
def params():
    """With one channel of zeros, and one whose largest weights are far above the others."""
    found = create(SHAPES["all"])
    up = found["layers"]["mlp"]["up"].at[0, :, 0, 0].set(0).at[0, 3, 1, 2].set(-9)
    return found | {"layers": found["layers"] | {"mlp": found["layers"]["mlp"] | {"up": up}}}


def test_every_tensor_that_is_rounded_has_its_channels(params):
    drawn = {name for name, leaf in leaves(params).items() if "norm" not in name}
    assert set(quantisation.SUMMED) == drawn and set(quantisation.TYPES) == set(BITS)
    cfg, sizes = SHAPES["all"], leaves(params)
    fan_in = {
        name: math.prod(sizes[name].shape[axis] for axis in axes)
        for name, axes in quantisation.SUMMED.items()
    }
    width, heads = cfg.d_model, cfg.n_heads * cfg.head_dim
    assert fan_in == {
        "embed": width,
        "attention.qkv": width,
        "attention.out": heads,
        "mlp.up": width,
        "mlp.down": cfg.d_ff,
        "unembed": width,
    }


@pytest.mark.parametrize("bits", BITS)
def test_a_weight_moves_by_half_a_step_at_most(params, bits):
    before, after = leaves(params), leaves(rounded(params, bits, "all"))
    for name, axes in quantisation.SUMMED.items():
        largest = np.abs(before[name]).max(axis=axes, keepdims=True)
        step = largest / (2 ** (bits - 1) - 0.5)
        error = np.abs(after[name] - before[name])
        assert (error <= 0.5 * step * (1 + 1e-4)).all()
        assert (after[name] * before[name] >= 0).all(), "the largest keeps its sign"
        levels = np.round(after[name] / np.where(step > 0, step, 1))
        np.testing.assert_allclose(after[name], levels * step, atol=1e-6)
        assert np.abs(levels).max() <= 2 ** (bits - 1)
        assert error.max() > 0.4 * step.max(), "it is that coarse"
    assert not after["mlp.up"][0, :, 0, 0].any()


def test_the_error_halves_with_every_bit(params):
    before = leaves(params)
    errors = [
        np.sqrt(
            sum(((after[n] - before[n]) ** 2).sum() for n in before)
            / sum((before[n] ** 2).sum() for n in before)
        )
        for after in (leaves(rounded(params, bits, "all")) for bits in BITS)
    ]
    ratios = np.array(errors[:-1]) / errors[1:]
    assert (ratios > 1.6).all() and (ratios < 2.8).all(), ratios
    assert errors[-1] < 0.01, "and so goes to none"


def test_only_the_set_is_rounded(params):
    before, after = leaves(params), leaves(rounded(params, 4, "matrices"))
    changed = {name for name in before if (before[name] != after[name]).any()}
    assert changed == {"attention.qkv", "attention.out", "mlp.up", "mlp.down"}
    whole = leaves(rounded(params, 4, "all"))
    assert {name for name in before if (before[name] != whole[name]).any()} == {
        *changed,
        "embed",
        "unembed",
    }
    assert all((before[n] == whole[n]).all() for n in before if "norm" in n)


def test_roles_of_the_sets_are_those_of_noise(params):
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]]
    named = {noise.name(p) for p in paths if noise.role(p) in noise.TENSORS["all"]}
    assert named == set(quantisation.SUMMED)
