"""Optimizers as Optax chains built from traced hypers, in one table.

The chain is made inside the jitted step, so every hyperparameter is a value, and a sweep compiles
once. What a parametrisation multiplies by tensor role (model/parametrization.py) is static, and a
multiplier of 1 adds nothing to the program.
"""

from collections.abc import Callable

import jax
import optax

from stepladder.model import parametrization
from stepladder.model.shape import Shape


def decayed_parameter(path: tuple) -> bool:
    """Whether weight decay applies: to matrices and the embedding, not to the scales of norms."""
    return "norm" not in jax.tree_util.keystr(path)


def _decay(params):
    return jax.tree_util.tree_map_with_path(lambda path, _: decayed_parameter(path), params)


def by_role(
    model: Shape | None, column: str, *, inverse: bool = False
) -> tuple[optax.GradientTransformation, ...]:
    """Multiply each update by what a column of the parametrisation of `model` gives its role, or by
    one over it: one transformation, or none when all are 1 (and for `model` None).
    """
    if model is None:
        return ()
    multipliers = {
        role: parametrization.value(model, getattr(parametrization.rule(model, role), column))
        for role in set(parametrization.ROLES.values())
    }
    if all(by == 1 for by in multipliers.values()):
        return ()

    def scaled(path: tuple, update: jax.Array) -> jax.Array:
        by = multipliers[parametrization.role_of(tuple(part.key for part in path))]
        by = 1 / by if inverse else by
        return update if by == 1 else by * update

    return (optax.stateless(lambda updates, _: jax.tree_util.tree_map_with_path(scaled, updates)),)


def adamw(
    hyper: dict, factor, mode: str, model: Shape | None = None
) -> optax.GradientTransformation:
    """AdamW (arXiv:1711.05101) at rate `factor` * peak, times what the parametrisation of `model`
    gives each tensor (None: 1).

    `mode` "coupled": decay factor * rate * weight_decay a step, as Optax and PyTorch do;
    "independent": factor * weight_decay a step, whatever the rate, which keeps the optimum rate
    apart from the decay (arXiv:2309.14322).
    """
    rate = factor * hyper["learning_rate"]
    decay = {"coupled": rate, "independent": factor}[mode] * hyper["weight_decay"]

    return optax.chain(
        optax.clip_by_global_norm(hyper["clip_norm"]),
        # Adam with epsilon e k on gradients g is Adam with e on g / k, which also keeps its second
        # moments away from underflow.
        *by_role(model, "epsilon", inverse=True),
        optax.scale_by_adam(b1=hyper["beta1"], b2=hyper["beta2"], eps=hyper["epsilon"]),
        *by_role(model, "learning_rate"),
        optax.scale(-rate),
        _decayed(-decay, model),
    )


def _decayed(by, model: Shape | None) -> optax.GradientTransformation:
    """Add `by` times each decayed parameter, times its role's multiplier."""
    if model is None or all(
        parametrization.decay(model, role) == 1 for role in set(parametrization.ROLES.values())
    ):
        return optax.add_decayed_weights(by, mask=_decay)

    def add(path: tuple, update: jax.Array, param: jax.Array) -> jax.Array:
        role = parametrization.role_of(tuple(part.key for part in path))
        return (
            update + by * parametrization.decay(model, role) * param
            if decayed_parameter(path)
            else update
        )

    return optax.stateless(
        lambda updates, params: jax.tree_util.tree_map_with_path(add, updates, params)
    )


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {"adamw": adamw}
WEIGHT_DECAY_MODES = ("independent", "coupled")
