"""In which arithmetic a model computes: the dtype of its activations, and how exactly matrices are
multiplied.

float32 does not say how float32 matrices are multiplied: by itself a CPU does it in float32, an
H100 in TF32 (10 bits of mantissa; the gradient is then 2e-3 from the CPU's) and a TPU in one pass
of bfloat16 (7 bits). Here it is float32 on all of them, and what computes in TF32 says so.
Parameters are float32 in each.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from stepladder.model.shape import Shape


class Arithmetic(NamedTuple):
    """One row of ARITHMETICS."""

    dtype: str  # of activations, and of the weights where they are used
    products: str  # jax's matmul precision; default: as the device multiplies the dtype


ARITHMETICS = {
    "float64": Arithmetic("float64", "highest"),  # for tests
    "float32": Arithmetic("float32", "highest"),
    "tensorfloat32": Arithmetic("float32", "tensorfloat32"),
    "bfloat16": Arithmetic("bfloat16", "default"),
}


def compute_dtype(cfg: Shape) -> jnp.dtype:
    """Of the model's activations."""
    return jnp.dtype(ARITHMETICS[cfg.compute_dtype].dtype)


def in_its_arithmetic(function: Callable) -> Callable:
    """Let a function, whose first argument is the model's shape, be traced with the matrix products
    that the shape's compute_dtype names; so are its gradients.
    """

    @functools.wraps(function)
    def traced(cfg: Shape, *args: Any, **more: Any) -> Any:
        with jax.default_matmul_precision(ARITHMETICS[cfg.compute_dtype].products):
            return function(cfg, *args, **more)

    return traced
