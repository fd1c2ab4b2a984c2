"""Initial values, one table by tensor role; how they change with width and depth is
model/parametrization.py's.
"""

import math
import zlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from stepladder.model import parametrization
from stepladder.model.shape import Shape

# Standard deviation of a role in the base model, from (fan_in, layers); `None` means ones. Output
# projections write to the residual stream, which sums 2N of them: 1/sqrt(2N) keeps its variance
# independent of depth (GPT-2).
STD: dict[str, Callable[[float, float], float] | None] = {
    "embed": lambda fan_in, layers: 0.02,
    "hidden": lambda fan_in, layers: 1 / math.sqrt(fan_in),
    "output": lambda fan_in, layers: 1 / math.sqrt(fan_in * 2 * layers),
    "unembed": lambda fan_in, layers: 0.02,  # as small as the embedding: the first loss is log V
    "norm": None,
    "final_norm": None,
}


class Init:
    """Draws parameters; a tensor's values depend on the key and its name only, not on which others
    exist.
    """

    def __init__(self, cfg: Shape, key: jax.Array):
        self.cfg, self.key = cfg, key

    def std(self, role: str, fan_in: int) -> float | None:
        """Standard deviation of `role` (key of `STD`): the base model's, times the
        parametrisation's multiplier; None means ones.
        """
        base_std = STD[role]
        if base_std is None:
            return None
        m_n, m_l = parametrization.ratios(self.cfg)
        base = base_std(fan_in / m_n, self.cfg.n_layers / m_l)
        return base * parametrization.value(self.cfg, parametrization.rule(self.cfg, role).init_std)

    def __call__(self, name: str, shape: tuple[int, ...], fan_in: int = 0) -> nnx.Param:
        """A float32 parameter of `shape`; `name` is a key of parametrization.ROLES."""
        std = self.std(parametrization.ROLES[name], fan_in)
        if std is None:
            return nnx.Param(jnp.ones(shape, jnp.float32))
        key = jax.random.fold_in(self.key, zlib.crc32(name.encode()))
        return nnx.Param(std * jax.random.normal(key, shape, jnp.float32))


class Deviations(Init):
    """The standard deviation of every tensor in place of its values: a scalar each, 0 for what
    starts as ones. It draws nothing, so the key is not read.
    """

    def __call__(self, name: str, shape: tuple[int, ...], fan_in: int = 0) -> nnx.Param:
        return nnx.Param(jnp.float32(self.std(parametrization.ROLES[name], fan_in) or 0.0))
