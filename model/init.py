"""Initial values, one table by tensor role (standard parametrisation)."""

import math
import zlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from stepladder.model.shape import Shape

# Standard deviation of a role from (fan_in, layers); `None` means ones. Output projections write to the residual stream, which
# sums 2N of them: 1/sqrt(2N) keeps its variance independent of depth (GPT-2).
STD: dict[str, Callable[[int, int], float] | None] = {
    "embed": lambda fan_in, layers: 0.02,
    "hidden": lambda fan_in, layers: 1 / math.sqrt(fan_in),
    "output": lambda fan_in, layers: 1 / math.sqrt(fan_in * 2 * layers),
    "unembed": lambda fan_in, layers: 0.02,  # as small as the embedding: the first loss is log V
    "norm": None,
}


class Init:
    """Draws parameters; a tensor's values depend on the key and its name only, not on which others exist."""

    def __init__(self, cfg: Shape, key: jax.Array):
        self.layers, self.key = cfg.n_layers, key

    def __call__(self, name: str, role: str, shape: tuple[int, ...], fan_in: int = 0) -> nnx.Param:
        """A float32 parameter of `shape` whose standard deviation is that of `role` (key of `STD`)."""
        std = STD[role]
        if std is None:
            return nnx.Param(jnp.ones(shape, jnp.float32))
        key = jax.random.fold_in(self.key, zlib.crc32(name.encode()))
        return nnx.Param(std(fan_in, self.layers) * jax.random.normal(key, shape, jnp.float32))
