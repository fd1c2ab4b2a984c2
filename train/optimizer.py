"""Optimizers as Optax chains built from traced hypers, in one table.

The chain is made inside the jitted step, so every hyperparameter is a value, and a sweep compiles once.
"""

from collections.abc import Callable

import jax
import optax


def decayed_parameter(path: tuple) -> bool:
    """Whether weight decay applies: to matrices and the embedding, not to the scales of norms."""
    return "norm" not in jax.tree_util.keystr(path)


def _decay(params):
    return jax.tree_util.tree_map_with_path(lambda path, _: decayed_parameter(path), params)


def adamw(hyper: dict, factor, mode: str) -> optax.GradientTransformation:
    """AdamW (arXiv:1711.05101) at rate `factor` * peak.

    `mode` "coupled": decay factor * rate * weight_decay a step, as Optax and PyTorch do; "independent": factor * weight_decay a step,
    whatever the rate, which keeps the optimum rate apart from the decay (arXiv:2309.14322).
    """
    rate = factor * hyper["learning_rate"]
    decay = {"coupled": rate, "independent": factor}[mode] * hyper["weight_decay"]
    return optax.chain(
        optax.clip_by_global_norm(hyper["clip_norm"]),
        optax.scale_by_adam(b1=hyper["beta1"], b2=hyper["beta2"], eps=hyper["epsilon"]),
        optax.scale(-rate),
        optax.add_decayed_weights(-decay, mask=_decay),
    )


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {"adamw": adamw}
WEIGHT_DECAY_MODES = ("independent", "coupled")
