"""The memory that a training step needs, estimated from shapes: bytes of one device.

The estimate chooses the mesh (mesh.py), recomputation and micro-batch (micro_batch.py) and how many
runs train together (ladder/packing.py); whether the program then fits is decided by what the
compiler reports (checks/memory.py). It is calibrated on what the compilers report for the shipped
configs (docs/benchmarks/tpu_programs.md, docs/benchmarks/hardware.md), and errs on the large side.
"""

from stepladder.configs.core import counting
from stepladder.configs.core.spec import ModelSpec, RunSpec
from stepladder.model.execution import Execution

FILL = 0.8  # share of a device's memory that estimates may fill
STATE = 12.0  # bytes a parameter: itself and two moments in float32
START = 4.0  # bytes a parameter: where a fine-tuned run started, when it is kept
GRADIENT = 8.0  # bytes a parameter: its gradient and, with several micro-batches, their sum
LOGITS = 3 * 4.0  # bytes a logit: itself, its softmax, its gradient


def step(
    spec: RunSpec,
    rows: int,
    remat: str,
    forward: Execution,
    kept: float,
    fsdp: int = 1,
    tensor: int = 1,
) -> float:
    """Bytes that a device holds in a training step that takes `rows` sequences at a time.

    forward: its attention and loss_floats are read. kept: of its layers, as in `activations`.
    """
    held = state(spec, fsdp * tensor) + gathered(spec, fsdp, tensor)
    scores = forward.attention == "xla"
    work = rows * activations(spec, remat, kept, scores=scores, tensor=tensor)
    return held + work + logits(spec, rows, forward.loss_floats, tensor)


def state(spec: RunSpec, cut: int) -> float:
    """Bytes of parameters, optimizer state and gradients on a device, cut into `cut` pieces."""
    plain = spec.optimizer.trainable != "lora" and not spec.optimizer.to_start
    each = STATE + GRADIENT + (0.0 if plain else START)
    return each * counting.count(spec.model, spec.data.seq_len).params_total / cut


def gathered(spec: RunSpec, fsdp: int, tensor: int) -> float:
    """Bytes of weights that are gathered to full size while a layer runs.

    Those of two layers (the next is on its way) with a gradient, and the embedding.
    """
    if fsdp * tensor == 1:
        return 0.0
    model, params = spec.model, counting.count(spec.model, spec.data.seq_len).params
    embedding = model.vocab_size * model.d_model
    if fsdp == 1:
        return 6.0 * embedding
    matrices = sum(params[name] for name in ("attention_qkv", "attention_out", "mlp"))
    layer = matrices / model.n_layers / tensor
    return (2 * _width(model) + 4) * (layer + embedding)


def activations(
    spec: RunSpec, remat: str, kept: float, *, scores: bool = True, tensor: int = 1
) -> float:
    """Bytes that one sequence leaves for the backward pass, and those of one layer's work on it.

    Logits are not counted. kept: what autodiff keeps of a layer, over what is listed here
    (`DeviceKind.kept`). scores: whether attention keeps its L x L weights.
    """
    m, L = spec.model, spec.data.seq_len
    heads = (m.n_heads + 2 * m.n_kv_heads) * m.head_dim
    stream = m.d_model / tensor
    dots = (heads + 2 * m.d_ff) / tensor + 2 * m.d_model
    attention = 2 * m.n_heads * L if scores else 2 * m.n_heads
    shared = 4 * m.d_ff + 3 * heads + attention
    everything = 8 * stream + 2 * m.d_model + shared / tensor
    saved = {"none": kept * everything, "dots": stream + dots, "full": stream}[remat]
    return _width(m) * L * (m.n_layers * saved + everything)


def logits(spec: RunSpec, sequences: int, loss_floats: int = 0, tensor: int = 1) -> float:
    """Bytes of the logits in memory at a time: of all `sequences`, or of `loss_floats` of them."""
    every = sequences * spec.data.seq_len * spec.model.vocab_size / tensor
    return LOGITS * min(every, loss_floats or every)


def _width(model: ModelSpec) -> int:
    """Bytes of a number in the compute dtype."""
    return 2 if model.compute_dtype == "bfloat16" else 4
