"""Noise on parameters: its deviations are those of the initial draws, its draws are normal, and
sets of tensors are what they say.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stepladder.configs.core import measurements
from stepladder.model import noise, transformer
from stepladder.model.parametrization import PARAMETRIZATIONS
from tests.support.model_shapes import SHAPES, create, jit

BASES = {
    "standard": {},
    "mup": {"base_width": 4},
    "completep": {"base_width": 4, "base_depth": 1},
}


def leaves(tree: dict) -> dict[str, np.ndarray]:
    return {
        noise.name(path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    }


@pytest.mark.parametrize("name", PARAMETRIZATIONS)
def test_deviations_are_those_of_many_initial_draws(name):
    """4 times the base's width and 3 times its depth, untied, with QK-norm and grouped heads: every
    tensor there is.
    """
    cfg = dataclasses.replace(SHAPES["all"], parametrization=name, **BASES[name])
    draw = jit(jax.vmap(functools.partial(transformer.init, cfg)))
    drawn = draw(jax.random.split(jax.random.key(0), 128))
    params = jax.tree.map(lambda x: x[0], drawn)
    found = leaves(noise.initial_sd(cfg, params))
    assert set(found) == set(leaves(params))
    for tensor, values in leaves(drawn).items():
        sd = found[tensor]
        stacked = sd.ndim > 0
        assert sd.shape == ((values.shape[1], *(1,) * (values.ndim - 2)) if stacked else ())
        axes = tuple(axis for axis in range(values.ndim) if not (stacked and axis == 1))
        if "norm" in tensor:
            assert not sd.any() and (values == 1).all()
        else:
            np.testing.assert_allclose(
                values.std(axis=axes), sd.ravel() if stacked else sd, rtol=0.03
            )


def test_parametrisations_differ_where_their_table_says():
    """The multiplier m_N^-1/2 of hidden matrices: half the deviation at four times the width."""
    params = create(SHAPES["all"])
    found = {
        name: leaves(
            noise.initial_sd(
                dataclasses.replace(SHAPES["all"], parametrization=name, **BASES[name]), params
            )
        )
        for name in ("standard", "mup")
    }
    # standard: 1 / sqrt(16); mup: that of width 4, times 4^-1/2
    assert found["standard"]["attention.qkv"][0].item() == pytest.approx(1 / 4)
    assert found["mup"]["attention.qkv"][0].item() == pytest.approx(1 / 2 / 2)
    assert found["mup"]["embed"] == found["standard"]["embed"] == pytest.approx(0.02)


def test_sets_of_tensors():
    assert set(noise.TENSORS) == set(measurements.TENSORS)
    assert set(noise.SCALES) == set(measurements.SCALES)
    sd = jax.tree.map(jnp.ones_like, noise.initial_sd(SHAPES["all"], create(SHAPES["all"])))
    on = {
        tensors: {name for name, s in leaves(noise.chosen(sd, tensors)).items() if s.all()}
        for tensors in noise.TENSORS
    }
    matrices = {"attention.qkv", "attention.out", "mlp.up", "mlp.down"}
    assert on == {"matrices": matrices, "all": matrices | {"embed", "unembed"}}


def test_root_mean_square_is_a_layers_own():
    params = create(SHAPES["all"])
    scaled = params | {"layers": jax.tree.map(lambda x: x.at[1].multiply(3), params["layers"])}
    before, after = (leaves(noise.root_mean_square(SHAPES["all"], p)) for p in (params, scaled))
    up = leaves(params)["mlp.up"]
    np.testing.assert_allclose(
        before["mlp.up"].ravel(), np.sqrt((up**2).mean(axis=(1, 2, 3))), rtol=1e-6
    )
    np.testing.assert_allclose((after["mlp.up"] / before["mlp.up"]).ravel(), [1, 3, 1], rtol=1e-6)
    assert after["embed"] == before["embed"] and before["embed"].shape == ()


def test_a_draw_is_standard_normal_and_the_same_under_vmap():
    params = create(SHAPES["all"])
    keys = jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(3)))(jnp.arange(40))
    together = leaves(jit(jax.vmap(functools.partial(noise.standard_normal, params)))(keys))
    alone = leaves(jit(noise.standard_normal)(params, keys[7]))
    for tensor, values in together.items():
        np.testing.assert_array_equal(values[7], alone[tensor])
        assert values.shape[1:] == leaves(params)[tensor].shape
    every = np.concatenate([values.ravel() for values in together.values()])
    se = 1 / np.sqrt(len(every))
    assert abs(every.mean()) < 4 * se and abs(every.std() - 1) < 4 * se
    flat = np.stack([np.concatenate([v[q].ravel() for v in together.values()]) for q in (0, 1)])
    assert abs(np.corrcoef(flat)[0, 1]) < 4 / np.sqrt(flat.shape[1]), "draws are independent"


def test_noise_of_deviation_zero_is_none():
    params = create(SHAPES["plain"])
    normal = noise.standard_normal(params, jax.random.key(0))
    zero = jax.tree.map(lambda s: 0 * s, noise.initial_sd(SHAPES["plain"], params))
    for same, old in zip(
        jax.tree.leaves(noise.perturbed(params, normal, zero)), jax.tree.leaves(params)
    ):
        np.testing.assert_array_equal(same, old)


def test_sums_are_by_layer():
    found = leaves(noise.sums(jax.tree.map(jnp.ones_like, create(SHAPES["all"]))))
    assert found["embed"] == 37 * 16
    assert found["mlp.down"].tolist() == [[[24 * 16]]] * 3
