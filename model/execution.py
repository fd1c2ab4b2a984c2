"""How the same mathematics is executed: `Execution`, and rules that choose parts of it.

What each kind of device prefers is one table, train/hardware/defaults.py.
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
    embedding: str = "scatter"  # key of parallel.embedding.SUMS: how its gradient is summed
    normaliser: str = "two_passes"  # key of loss.cross_entropy.NORMALISERS
    loss_floats: int = 0  # most float32 logits that the loss holds at a time; 0: all
    # sequences that a device takes at a time, a divisor of those it holds; 0: all. Read by
    # `loss_and_gradient` alone.
    micro_batch: int = 0
    # the devices that share the work (model/parallel/collectives.py); None: one device
    mesh: Mesh | None = None


def attention_for(
    cfg: Shape,
    seq_len: int,
    backend: str,
    wanted: str = "auto",
    *,
    kernel: str = "xla",
    kernel_from: int = 0,
    mapped: bool = False,
) -> str:
    """Key of attend.IMPLEMENTATIONS for training a model on a backend.

    Args:
        backend: cpu | gpu | tpu.
        wanted: a key, or "auto": `kernel` where it can be used, else xla.
        kernel: the implementation that the backend prefers.
        kernel_from: the shortest sequence worth it.
        mapped: whether the model runs under vmap, over the runs of a pack.

    Raises:
        ValueError: when the one wanted cannot do it; says why.
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
    name = kernel if wanted == "auto" else wanted
    found = IMPLEMENTATIONS[name]
    reason = found.refuses(request)
    if not reason and backend not in found.backends:
        reason = f"{name} runs on {' or '.join(found.backends)}, not {backend}"
    if wanted == "auto":
        return "xla" if reason or seq_len < kernel_from else name
    if reason:
        raise ValueError(reason)
    return name


def micro_batch_within(cfg: Shape, sequences: int, seq_len: int, floats: int) -> int:
    """Sequences that a device takes at a time, of the `sequences` that it has; 0: all.

    The largest divisor of `sequences` with at most `floats` values of the residual stream; all for
    `floats` 0.
    """
    fitting = [
        n
        for n in range(1, sequences + 1)
        if sequences % n == 0 and n * seq_len * cfg.d_model <= floats
    ]
    return max(fitting, default=1) if floats else 0
