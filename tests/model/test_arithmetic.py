"""How exactly matrices are multiplied is what compute_dtype says, in every product of a step."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import pytest

from stepladder.model import activations, transformer
from stepladder.model.arithmetic import ARITHMETICS
from stepladder.model.execution import Execution
from stepladder.model.gradient import loss_and_gradient, window_losses
from tests.support.model_shapes import SHAPES

CFG = SHAPES["all"]
TOKENS = jax.ShapeDtypeStruct((2, 9), jnp.int32)


def products(cfg, function) -> set[str]:
    """The precisions of the matrix products in a lowered function of (params, tokens)."""
    params = jax.eval_shape(lambda: transformer.init(cfg, jax.random.key(0)))
    text = jax.jit(function).lower(params, TOKENS).as_text()
    found = [line for line in text.splitlines() if "dot_general" in line]
    assert len(found) > 5
    return {"".join(re.findall(r"precision = \[(\w+), \1\]", line)) or "DEFAULT" for line in found}


def functions(cfg):
    yield lambda p, t: window_losses(cfg, p, t)
    yield lambda p, t: transformer.logits(cfg, p, t)
    yield lambda p, t: activations.activations(cfg, p, t)
    executions = [
        Execution(layers=layers, remat=remat, loss_floats=floats, embedding=embedding)
        for layers, remat, floats, embedding in (
            ("scan", "none", 0, "scatter"),
            ("unroll", "full", 64, "sorted"),
            ("scan", "dots", 64, "sorted"),
        )
    ]
    for execution in executions:
        yield lambda p, t, e=execution: loss_and_gradient(cfg, p, t, execution=e)


@pytest.mark.parametrize("which", range(6))
@pytest.mark.parametrize(
    ("name", "precision"), [("float32", {"HIGHEST"}), ("tensorfloat32", {"HIGH", "HIGHEST"})]
)
def test_every_product_has_the_precision_that_its_name_says(name, precision, which):
    cfg = dataclasses.replace(CFG, compute_dtype=name)
    found = products(cfg, list(functions(cfg))[which])
    # the sums of the embedding's gradient are of float32 in every arithmetic
    assert precision - {"HIGHEST"} <= found <= precision


def test_bfloat16_products_are_as_the_dtype_is():
    cfg = dataclasses.replace(CFG, compute_dtype="bfloat16")
    assert products(cfg, lambda p, t: loss_and_gradient(cfg, p, t)) == {"DEFAULT"}


def test_the_activations_have_the_dtype():
    for name, row in ARITHMETICS.items():
        cfg = dataclasses.replace(CFG, compute_dtype=name)
        with jax.enable_x64(name == "float64"):
            params = jax.eval_shape(lambda cfg=cfg: transformer.init(cfg, jax.random.key(0)))
            found = jax.eval_shape(
                lambda p, t, cfg=cfg: transformer.residual_stream(cfg, p, t), params, TOKENS
            )
        assert found.dtype == jnp.dtype(row.dtype)
