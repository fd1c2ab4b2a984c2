"""Learning-rate schedules as factors of the peak rate: pure functions of the step and of traced
hypers, in one table.

All share one linear warm-up to 1 over `warmup_steps` (step s, counted from 0, has factor (s + 1) /
warmup_steps), and reach `end_factor` at `total_steps`. Lengths are traced: a cooldown branch runs
its trunk's executable.
"""

from collections.abc import Callable

import jax.numpy as jnp

Hypers = dict  # name -> traced scalar, the fields of configs.core.spec.Hyper


def _progress(step, start, stop, dtype):
    """0 at `start`, 1 at `stop`, clipped; exactly 0 up to and including `start`, so a trunk and its
    branch agree bit for bit.
    """
    return jnp.clip(
        (step - start).astype(dtype) / jnp.maximum(stop - start, 1).astype(dtype), 0.0, 1.0
    )


def _constant(u):
    return jnp.ones_like(u)


def _linear(u):
    return 1 - u


def _cosine(u):
    return 0.5 * (1 + jnp.cos(jnp.pi * u))


def _one_minus_sqrt(u):
    return 1 - jnp.sqrt(u)  # arXiv:2405.18392


# name: (shape of the decay over its progress u in [0, 1], where the decay starts)
SCHEDULES: dict[str, tuple[Callable, str]] = {
    "constant": (_constant, "warmup_steps"),
    "linear": (_linear, "warmup_steps"),
    "cosine": (_cosine, "warmup_steps"),
    "wsd": (_one_minus_sqrt, "decay_start"),
    "wsd_linear": (_linear, "decay_start"),
}


def factor(name: str, step, hyper: Hypers):
    """Learning rate at `step` (steps already finished) over the peak.

    `name` is a key of SCHEDULES.
    """
    shape, start = SCHEDULES[name]
    dtype = jnp.result_type(hyper["end_factor"], jnp.float32)
    warmup = jnp.minimum(
        1.0, (step + 1).astype(dtype) / jnp.maximum(hyper["warmup_steps"], 1).astype(dtype)
    )
    decay = shape(_progress(step, hyper[start], hyper["total_steps"], dtype))
    return warmup * (hyper["end_factor"] + (1 - hyper["end_factor"]) * decay)


def decayed(name: str, step: int, hyper: Hypers) -> bool:
    """Whether a model after `step` steps has finished the schedule's decay (the only points a law
    of final losses may use).
    """
    return name != "constant" and step >= hyper["total_steps"]
