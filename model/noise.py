"""Gaussian noise on parameters, in units of a standard deviation of each tensor.

theta + strength * sd * z with z standard normal (arXiv:2503.19206, section 3.3, has
sd^2 = the covariance of the initialisation distribution). A tensor is one layer's: the parameters
of the layers are stacked on a leading N, and what is measured of them is measured a layer. Matrices
that are fused here (queries, keys and values; gate and up) count as one tensor.

A tree of deviations has the parameters' keys; its leaves are (N, 1, ..., 1) for those of the
layers and () for the others, so that they broadcast.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.flatten_util import ravel_pytree

from stepladder.model import parametrization
from stepladder.model.init import STD, Deviations
from stepladder.model.shape import Shape
from stepladder.model.transformer import Transformer

# Which roles are perturbed. What starts as ones (norms) has no initialisation distribution, so that
# it has no noise in any set.
TENSORS: dict[str, frozenset[str]] = {
    "matrices": frozenset({"hidden", "output"}),
    "all": frozenset(role for role, std in STD.items() if std is not None),
}


def initial_sd(cfg: Shape, params: dict) -> dict:
    """Standard deviation of every tensor's initialisation, from the table that draws it
    (model/init.py); 0 for what starts as ones.
    """
    made = Transformer(cfg, jax.random.key(0), Deviations)
    deviations = nnx.to_pure_dict(nnx.state(made, nnx.Param))
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf, sd: jnp.full(_shape(path, leaf), sd, jnp.float32), params, deviations
    )


def root_mean_square(cfg: Shape, params: dict) -> dict:
    """Root mean square of every tensor as it is."""

    def of(path: tuple, leaf: jax.Array) -> jax.Array:
        axes = tuple(range(_stacked(path), leaf.ndim))
        return jnp.sqrt(jnp.mean(jnp.square(leaf), axis=axes)).reshape(_shape(path, leaf))

    return jax.tree_util.tree_map_with_path(of, params)


# What a strength is relative to.
SCALES: dict[str, Callable[[Shape, dict], dict]] = {
    "init": initial_sd,
    "weights": root_mean_square,
}


def chosen(sd: dict, tensors: str) -> dict:
    """Deviations that are 0 outside of a set of tensors (key of TENSORS)."""
    return jax.tree_util.tree_map_with_path(
        lambda path, s: s if role(path) in TENSORS[tensors] else 0 * s, sd
    )


def standard_normal(params: dict, key: jax.Array) -> dict:
    """One draw for every parameter, in its shape: one flat draw, which compiles in less time than
    one a tensor.
    """
    flat_P, unravel = ravel_pytree(params)
    return unravel(jax.random.normal(key, flat_P.shape, jnp.float32))


def perturbed(params: dict, noise: dict, sd: dict) -> dict:
    """The parameters with a draw of noise, each tensor's times its standard deviation."""
    return jax.tree.map(lambda x, z, s: x + s * z, params, noise, sd)


def sums(tree: dict) -> dict:
    """The sum over every tensor of a tree like the parameters, in the shape of a deviation."""

    def of(path: tuple, leaf: jax.Array) -> jax.Array:
        return leaf.sum(axis=tuple(range(_stacked(path), leaf.ndim))).reshape(_shape(path, leaf))

    return jax.tree_util.tree_map_with_path(of, tree)


def name(path: tuple) -> str:
    """The tensor at a path of jax.tree_util: a key of parametrization.ROLES."""
    return ".".join(part.key for part in path).removeprefix("layers.")


def role(path: tuple) -> str:
    """Its role, a value of parametrization.ROLES."""
    return parametrization.ROLES[name(path)]


def _stacked(path: tuple) -> bool:
    """Whether the array at a path has the layers' leading N."""
    return path[0].key == "layers"


def _shape(path: tuple, leaf: jax.Array) -> tuple[int, ...]:
    """That of a deviation of the array at a path."""
    return (leaf.shape[0], *(1,) * (leaf.ndim - 1)) if _stacked(path) else ()
