"""How the same mathematics is executed: `Execution`, and what each backend does by default, chosen
by measurement.
"""

from dataclasses import dataclass

from jax.sharding import Mesh

from stepladder.model.attention.attend import IMPLEMENTATIONS, Request
from stepladder.model.shape import Shape


@dataclass(frozen=True)
class Execution:
    """How a pass over the model runs: choices that change speed and memory, never the result (up to
    the order of sums).

    Hashable, so it can be a static argument of a jitted function. The defaults are those of one
    device that has memory enough.
    """

    layers: str = "scan"  # key of layer.RUNNERS
    remat: str = "none"  # key of layer.REMAT: what the backward pass finds saved
    attention: str = "xla"  # key of attend.IMPLEMENTATIONS
    loss_floats: int = 0  # most float32 logits that the loss holds at a time; 0: all
    # sequences that a device takes at a time, a divisor of those it holds; 0: all. Read by
    # `loss_and_gradient` alone.
    micro_batch: int = 0
    # the devices that share the work (model/parallel/collectives.py); None: one device
    mesh: Mesh | None = None


@dataclass(frozen=True)
class Layout:
    """Choices that change speed and memory, never the result (up to the order of sums)."""

    layers: str  # key of layers.RUNNERS
    attention: str  # key of attention.IMPLEMENTATIONS: the kernel to use where it can be
    # shortest sequence worth a kernel: below it the scores are small beside a layer's other
    # activations
    kernel_from: int
    loss_floats: (
        int  # the loss holds at most this many float32 logits at a time (loss.chunks); 0 is all
    )
    # a device handles as many sequences at a time as hold this many residual-stream values; 0 is
    # all of them
    micro_batch_floats: int


# cpu, measured on 2 cores of an AMD EPYC (Zen 5, 1 MB of L2 a core), jax 0.10.2, CPU milliseconds a
#     sequence of 128 tokens, 16 sequences: size   unrolled, micro-batches of 1 | 2 | 4 | 8 | 16
#     scanned, micro-batches of 2 | 16
#     25k    0.79  0.57  0.56  0.58  0.72               0.74  0.88
#     200k   4.45  3.07  3.16  4.53  6.01               3.99  7.25
#     1m     13.7  9.49  10.9  11.9  14.3               12.4  17.1
#   A micro-batch keeps the scores and activations in L2, and the whole step's temporaries under the
#   32 MB above which malloc returns memory to the kernel after each step: 16 sequences of the 200k
#   size then cost 31 000 page faults, a third of the step.
# gpu, tpu: not measured; scan for its compile time at the depths they train, and no
#   micro-batches because they live from parallelism. Logits: 512 and 256 MB. A piece of the logits
#   adds its gradient of the unembedding to a float32 sum in memory, 8 D V bytes where its matmuls
#   are 6 D V FLOPs a token; 256 MB at a vocabulary of 50 000 are 1 300 tokens, 1 000 FLOPs a byte,
#   where a v5e wants 240 to stay busy.
DEFAULTS = {
    "cpu": Layout(
        layers="unroll", attention="xla", kernel_from=0, loss_floats=0, micro_batch_floats=2**15
    ),
    "gpu": Layout(
        layers="scan", attention="cudnn", kernel_from=256, loss_floats=2**27, micro_batch_floats=0
    ),
    "tpu": Layout(
        layers="scan", attention="splash", kernel_from=512, loss_floats=2**26, micro_batch_floats=0
    ),
}


def attention_for(
    cfg: Shape, seq_len: int, backend: str, wanted: str = "auto", *, mapped: bool = False
) -> str:
    """Key of attention.IMPLEMENTATIONS for a model's training on a backend: `wanted`, or with
    "auto" the kernel of the table, else xla.

    mapped: whether the model runs under vmap, over the runs of a pack. Raises ValueError when the
    one wanted cannot do it, saying why.
    """
    request = Request(
        cfg.compute_dtype,
        cfg.head_dim,
        seq_len,
        seq_len,
        True,
        cfg.window,
        cfg.document_end >= 0,
        mapped=mapped,
    )
    name = DEFAULTS[backend].attention if wanted == "auto" else wanted
    kernel = IMPLEMENTATIONS[name]
    reason = kernel.refuses(request) or (
        ""
        if backend in kernel.backends
        else f"{name} runs on {' or '.join(kernel.backends)}, not {backend}"
    )
    if wanted == "auto":
        return "xla" if reason or seq_len < DEFAULTS[backend].kernel_from else name
    if reason:
        raise ValueError(reason)
    return name


def micro_batch(cfg: Shape, sequences: int, seq_len: int, backend: str) -> int:
    """Sequences a device handles at a time: the largest divisor of those it holds within
    `micro_batch_floats` (0: all).

    Raises KeyError for an unknown backend.
    """
    floats = DEFAULTS[backend].micro_batch_floats
    fitting = [
        n
        for n in range(1, sequences + 1)
        if sequences % n == 0 and n * seq_len * cfg.d_model <= floats
    ]
    return max(fitting, default=1) if floats else 0
