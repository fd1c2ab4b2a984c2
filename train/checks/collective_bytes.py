"""Bytes that a training step should send between devices, by a formula for each mesh axis.

Decides nothing. `plan --topology` prints how much the compiled program sends (checks/hlo.py) as a
share of this, and the tests fail where the program sends much more.

Bytes are those that one device sends in one step, by kind of collective. f, t and d are the sizes
of the mesh axes fsdp, tensor and data. share(g) = (g - 1) / g is the part of an array that each
device of a ring of g sends. W is the number of weights in the layers' matrices, T that in the
embedding tables, w the bytes of the compute dtype, and m the number of micro-batches of b sequences
in a step.

- fsdp (ZeRO-3, arXiv:1910.02054). Every micro-batch gathers the layers twice, forward and backward:
  2 m w W/t share(f). It scatters their gradients in float32: m 4 W/t share(f). The embedding is cut
  over fsdp and tensor, and is gathered and scattered once (XLA merges the two uses of a tied one):
  m (w + 4) T share(f t).
- tensor, with the sequence divided between blocks (arXiv:2205.05198, section 4.2.2). A layer has
  two blocks. Each is entered by an all-gather and left by a reduce-scatter of the residual stream,
  and the other way round in the backward pass: 4 and 4 times w b L D share(t) for each layer and
  micro-batch. Recomputation enters both blocks and leaves the first once more.
- data. One all-reduce a step of the gradients as they are cut: 2 share(d) 4 (W + T)/(f t).
- Norms are whole on every device: 2 share(f t d) 4 bytes a number, once a step.
"""

from collections.abc import Mapping

from stepladder.configs.core import counting
from stepladder.configs.core.spec import RunSpec
from stepladder.model.execution import Execution


def expected(
    spec: RunSpec, shape: Mapping[str, int], execution: Execution, members: int = 1
) -> dict[str, float]:
    """Kind of collective -> bytes that a device sends in a step of the `members` that it trains.

    Of `execution` its micro_batch and remat are read.
    """
    model, params = spec.model, counting.count(spec.model, spec.data.seq_len).params
    f, t, d = (shape[axis] for axis in ("fsdp", "tensor", "data"))
    W = sum(params[name] for name in ("attention_qkv", "attention_out", "mlp"))
    T = params["embed"] + params["unembed"]
    w = 2 if model.compute_dtype == "bfloat16" else 4
    local = spec.batch_size // (d * f)
    b = execution.micro_batch or local
    m = local // b
    stream = m * model.n_layers * w * b * spec.data.seq_len * model.d_model * _share(t)
    again = execution.remat != "none"
    sent = {
        "all-gather": 2 * m * w * W / t * _share(f)
        + m * w * T * _share(f * t)
        + (4 + 2 * again) * stream,
        "reduce-scatter": m * 4 * W / t * _share(f)
        + m * 4 * T * _share(f * t)
        + (4 + again) * stream,
        "all-reduce": 2 * 4 * (_share(d) * (W + T) / (f * t) + _share(d * f * t) * params["norms"]),
    }
    return {kind: members * size for kind, size in sent.items()}


def _share(group: int) -> float:
    return (group - 1) / group
