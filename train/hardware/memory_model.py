"""What a step needs of a device's memory, estimated from shapes; `plan --topology` compiles and
measures it.

Bytes are of one device. The estimate decides between layouts of the same mathematics (mesh, remat,
micro-batches); calibrated on what libtpu reports for the shipped TPU configs (BENCHMARKS.md), it
errs on the large side.
"""

from stepladder.configs.core import counting
from stepladder.configs.core.spec import ModelSpec, RunSpec
from stepladder.model.execution import Execution

FILL = 0.8  # of a device's memory: what estimates may promise
STATE = 12.0  # bytes a parameter: itself and two moments, float32
GRADIENT = 8.0  # a gradient and, with several micro-batches, their sum
# what autodiff keeps of a layer, over what stands in `activations`: norms, rotations and
# activations keep float32 copies
KEPT = 2.0
LOGITS = 3 * 4.0  # bytes a logit: itself, its softmax, its gradient


def step(
    spec: RunSpec, rows: int, remat: str, forward: Execution, fsdp: int = 1, tensor: int = 1
) -> float:
    """All that a device holds in a training step that takes `rows` sequences at a time.

    Of `forward` its attention and loss_floats are read.
    """
    held = state(spec, fsdp * tensor) + gathered(spec, fsdp, tensor)
    work = rows * activations(spec, remat, scores=forward.attention == "xla", tensor=tensor)
    return held + work + logits(spec, rows, forward.loss_floats, tensor)


def state(spec: RunSpec, cut: int) -> float:
    """Parameters, optimizer and gradients, cut into as many pieces."""
    return (STATE + GRADIENT) * counting.count(spec.model, spec.data.seq_len).params_total / cut


def gathered(spec: RunSpec, fsdp: int, tensor: int) -> float:
    """Weights in full size for as long as a layer runs: two layers' (the next is on its way) with a
    gradient, and the embedding's.
    """
    if fsdp * tensor == 1:
        return 0.0
    model, params = spec.model, counting.count(spec.model, spec.data.seq_len).params
    layer = (
        sum(params[name] for name in ("attention_qkv", "attention_out", "mlp"))
        / model.n_layers
        / tensor
    )
    return (
        (2 * _width(model) + 4) * (layer + model.vocab_size * model.d_model)
        if fsdp > 1
        else 6.0 * model.vocab_size * model.d_model
    )


def activations(spec: RunSpec, remat: str, *, scores: bool = True, tensor: int = 1) -> float:
    """What one sequence leaves for the backward pass, and one layer's work on it; `logits` not
    counted.

    scores: whether attention keeps its L x L weights.
    """
    m, L = spec.model, spec.data.seq_len
    heads = (m.n_heads + 2 * m.n_kv_heads) * m.head_dim
    stream = m.d_model / tensor
    dots = (heads + 2 * m.d_ff) / tensor + 2 * m.d_model
    everything = (
        8 * stream
        + 2 * m.d_model
        + (4 * m.d_ff + 3 * heads + (2 * m.n_heads * L if scores else 2 * m.n_heads)) / tensor
    )
    saved = {"none": KEPT * everything, "dots": stream + dots, "full": stream}[remat]
    return _width(m) * L * (m.n_layers * saved + everything)


def logits(spec: RunSpec, sequences: int, loss_floats: int = 0, tensor: int = 1) -> float:
    """Logits that stand in memory at once: of all `sequences`, or of a piece of them of
    `loss_floats`.
    """
    every = sequences * spec.data.seq_len * spec.model.vocab_size / tensor
    return LOGITS * min(every, loss_floats or every)


def _width(model: ModelSpec) -> int:
    return 2 if model.compute_dtype == "bfloat16" else 4
