"""FLOPs of the matrix products that a function executes, read from its jaxpr.

Recomputation and masked-out work are included, as they cost time. The FLOPs that the mathematics
asks for are those of configs/core/counting.py; the quotient of the two is what recomputation and
dense masks cost.

Decides nothing. `plan --topology` prints the FLOPs and the quotient, and its estimate of time is
made from them (checks/roofline.py).
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

from jax.extend import core


def executed(jaxpr: Any) -> float:
    """FLOPs of a jaxpr over all devices; a multiply-add is two.

    A while loop of unknown length (the steps of a dispatch) counts once, a conditional as its most
    expensive branch, and a shard_map as its local work times its devices. A Pallas kernel counts
    as its own estimate, or else as its body in every grid cell.
    """
    equations = getattr(jaxpr, "jaxpr", jaxpr).eqns
    return sum(_COUNT.get(eqn.primitive.name, _inner)(eqn) for eqn in equations)


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
    devices = math.prod(mesh.shape[axis] for axis in manual or mesh.axis_names)
    return devices * executed(eqn.params["jaxpr"])


def _pallas(eqn) -> float:
    estimate, grid = eqn.params.get("cost_estimate"), eqn.params["grid_mapping"].grid
    if estimate is not None and estimate.flops:
        return float(estimate.flops)
    name = str(eqn.params.get("name") or eqn.params.get("name_and_src_info"))
    share = _splash(eqn) if "splash" in name else 1.0
    return share * math.prod(n for n in grid if isinstance(n, int)) * executed(eqn.params["jaxpr"])


def _splash(eqn) -> float:
    """The share of the grid of a causal splash kernel that does work.

    Of n rows of blocks, row i attends to i + 1 blocks; with a window, to w at most.
    """
    w, n = sorted(eqn.invars[1].aval.shape[-2:])  # the shape of the kernel's table of blocks
    return 1 - (w - 1) / (2 * n)


def _cudnn(products: int) -> Callable:
    """The count of cuDNN's flash attention: `products` of 2 L M K a head that the mask leaves.

    The backward pass has five, for it computes q k^T again.
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


# Primitive -> FLOPs of an equation; others count what is inside of them.
_COUNT: dict[str, Callable[[Any], float]] = {
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
