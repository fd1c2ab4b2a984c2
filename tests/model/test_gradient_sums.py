"""What devices that share a batch send each other: gradients in float32."""

import re

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from stepladder.configs import base
from stepladder.configs.core.build import rung
from stepladder.model.execution import Execution
from stepladder.model.gradient import loss_and_gradient
from stepladder.model.parallel.rules import AXES
from stepladder.model.transformer import init


@pytest.mark.parametrize("layers", ["unroll", "scan"])
def test_gradients_of_bfloat16_meet_in_float32(layers):
    """Compilers may sum in bfloat16 what a program widens just before the sum (libtpu does), so
    something that they cannot look through lies between: the loop over layers, or a barrier.
    """
    c = base.get_config()
    c.model.size, c.model.compute_dtype, c.data.seq_len = "6k", "bfloat16", 16
    cfg = rung(c).model
    mesh = Mesh(np.array(jax.devices()[:2]).reshape(1, 2, 1, 1), AXES)
    execution = Execution(layers, mesh=mesh)
    params = jax.eval_shape(lambda: init(cfg, jax.random.key(0)))
    tokens_BT = jax.ShapeDtypeStruct((4, 17), np.int32)
    text = (
        jax.jit(lambda p, t: loss_and_gradient(cfg, p, t, execution=execution))
        .lower(params, tokens_BT)
        .as_text()
    )
    sums = re.findall(r'"stablehlo.all_reduce".*?\}\) : \(([^)]*)\)', text, flags=re.S)
    assert sums and all("bf16" not in operands for operands in sums)
    barrier = text.find("stablehlo.optimization_barrier")
    assert (-1 < barrier < text.find('"stablehlo.all_reduce"')) == (layers == "unroll")
    assert ("stablehlo.while" in text) == (layers == "scan")
