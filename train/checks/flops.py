"""FLOPs of the matrix products that a function executes, read from its jaxpr: recomputation and
masked-out work show, as they cost time.

configs/core/counting.py counts what the mathematics asks for; the quotient of the two is what
rematerialisation and dense masks cost.
"""

import math
from collections.abc import Callable, Iterator

from jax.extend import core


def executed(jaxpr) -> float:
    """FLOPs over all devices, two a multiply-add. A while loop of unknown length (the steps of a
    dispatch) counts once, a conditional its dearest branch, a shard_map its local work times its
    devices, a Pallas kernel its own estimate or else its body in every grid cell.
    """
    return sum(
        _TABLE.get(eqn.primitive.name, _inner)(eqn) for eqn in getattr(jaxpr, "jaxpr", jaxpr).eqns
    )


def _dot(eqn) -> float:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    return (
        2.0
        * math.prod(eqn.outvars[0].aval.shape)
        * math.prod(eqn.invars[0].aval.shape[d] for d in contracted)
    )


def _convolution(eqn) -> float:
    kernel, features = eqn.invars[1].aval.shape, eqn.params["dimension_numbers"].rhs_spec[0]
    return 2.0 * math.prod(eqn.outvars[0].aval.shape) * math.prod(kernel) / kernel[features]


def _shard_map(eqn) -> float:
    mesh, manual = eqn.params["mesh"], eqn.params.get("manual_axes")
    return math.prod(mesh.shape[axis] for axis in manual or mesh.axis_names) * executed(
        eqn.params["jaxpr"]
    )


def _pallas(eqn) -> float:
    estimate, grid = eqn.params.get("cost_estimate"), eqn.params["grid_mapping"].grid
    if estimate is not None and estimate.flops:
        return float(estimate.flops)
    share = (
        _splash(eqn)
        if "splash" in str(eqn.params.get("name") or eqn.params.get("name_and_src_info"))
        else 1.0
    )
    return share * math.prod(n for n in grid if isinstance(n, int)) * executed(eqn.params["jaxpr"])


def _splash(eqn) -> float:
    """The part of the grid of a causal splash kernel that works: of n rows of blocks row i sees i +
    1, and with a window at most w.
    """
    w, n = sorted(eqn.invars[1].aval.shape[-2:])  # of the table that says what is in a block
    return 1 - (w - 1) / (2 * n)


def _cudnn(products: int) -> Callable:
    """cuDNN's flash attention: `products` of 2 L M K a head (it computes q k^T again in its
    backward pass), of what the mask leaves.
    """

    def count(eqn) -> float:
        q, k = (v.aval.shape for v in eqn.invars[:2])
        memory = k[-3] if eqn.params["layout"] == 0 else k[-2]  # BTNH or BNTH
        window = eqn.params["sliding_window_length"] or memory
        causal = "CAUSAL" in str(eqn.params["mask_type"]).upper()
        seen = window / memory * (1 - window / (2 * memory)) if causal else 1.0
        return products * 2.0 * math.prod(q) * memory * seen

    return count


def _inner(eqn) -> float:
    return sum(executed(jaxpr) for jaxpr in _jaxprs(eqn.params))


def _jaxprs(params: dict) -> Iterator:
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, core.Jaxpr | core.ClosedJaxpr):
                yield item


_TABLE = {
    "dot_general": _dot,
    "conv_general_dilated": _convolution,
    "scan": lambda eqn: eqn.params["length"] * executed(eqn.params["jaxpr"]),
    "while": lambda eqn: executed(eqn.params["body_jaxpr"]),
    "cond": lambda eqn: max(map(executed, eqn.params["branches"])),
    "shard_map": _shard_map,
    "pallas_call": _pallas,
    "dot_product_attention_fwd_wrapper": _cudnn(2),
    "dot_product_attention_bwd_wrapper": _cudnn(5),
    "custom_vjp_call": lambda eqn: executed(eqn.params["call_jaxpr"]),
}
