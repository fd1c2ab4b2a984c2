"""The NVIDIA cards of this machine: what share of their memory this process claims, whether jax has
reached them, and whether attention has its library.
"""

import functools
import logging
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax

from stepladder.configs.core.errors import UserError

MOST = 0.75  # of a card that nobody else uses: jax's own default
LEFT = 0.95  # of what is free where others hold some: a little is lost between the allocations
_DECIDED = (  # by the user: nothing is chosen
    "XLA_CLIENT_MEM_FRACTION",
    "XLA_PYTHON_CLIENT_MEM_FRACTION",
    "XLA_PYTHON_CLIENT_PREALLOCATE",
    "XLA_PYTHON_CLIENT_ALLOCATOR",
)
_QUERY = ("nvidia-smi", "--query-gpu=index,memory.free,memory.total", "--format=csv,noheader")


class Memory(NamedTuple):
    """Bytes of one card."""

    index: int
    free: float
    total: float


def claim(memory_gb: float = 0.0) -> None:
    """Before jax starts: choose the share of each card that this process takes for itself.

    jax takes 75 % of every card at its start, whatever other processes hold, and fails later. Here
    it is at most what is free; where another process has some, that is said. Without NVIDIA's tools
    or a card nothing happens, nor where the user has decided by jax's own variables.

    memory_gb: what the user wants of a card, in GB (machine.memory_gb); 0: as above.
    """
    cards = [] if any(name in os.environ for name in _DECIDED) else list(_cards())
    if not cards:
        return
    fullest = min(cards, key=lambda card: card.free / card.total)
    share = min(MOST, LEFT * fullest.free / fullest.total)
    if memory_gb:
        share = min(share, memory_gb * 1e9 / fullest.total)
    os.environ["XLA_CLIENT_MEM_FRACTION"] = f"{share:.3f}"
    held = fullest.total - fullest.free
    if held > 0.1 * fullest.total:
        logging.warning(
            "card %d: other processes hold %.1f of its %.1f GiB; this one takes at most %.1f GiB "
            "(what does not fit is refused before it starts; two ladders share a card best with "
            "machine.memory_gb set for each)",
            fullest.index,
            held / 2**30,
            fullest.total / 2**30,
            share * fullest.total / 2**30,
        )


def check_reached(dev: Path = Path("/dev")) -> None:
    """After jax has started: refuse to train on the CPU of a machine whose card jax cannot use,
    unless JAX_PLATFORMS asks for the CPU. dev: the folder of device files.

    Raises UserError; nothing where jax is installed without CUDA.
    """
    found = (dev / "nvidia0").exists() and os.environ.get("CUDA_VISIBLE_DEVICES") != ""
    if not found or os.environ.get("JAX_PLATFORMS") or not _has_cuda():
        return
    if jax.default_backend() == "cpu":
        raise UserError(
            f"JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')!r}: there is a card here "
            "(/dev/nvidia0), but jax cannot use it, for the reason that it has printed (a driver "
            "older than jax's CUDA, or a library that is missing); install the driver or the "
            "jax[cuda] that belong together, or set JAX_PLATFORMS=cpu to use the CPU"
        )


@functools.cache
def without_cudnn() -> str:
    """Why attention cannot run by cuDNN on the cards at hand; "" where it can. Said once."""
    from jax._src.cudnn import fused_attention_stablehlo  # jax has no public name for it

    try:
        fused_attention_stablehlo.check_cudnn_version()
    except RuntimeError as error:
        reason = f"cuDNN cannot be loaded ({str(error).splitlines()[0]})"
        logging.warning("%s: attention runs by XLA, which is slower; install cuDNN", reason)
        return reason
    return ""


def _has_cuda() -> bool:
    """Whether jax is installed with CUDA."""
    from importlib.util import find_spec

    return any(find_spec(f"jax_plugins.xla_cuda{version}") for version in (12, 13))


def _cards() -> Iterator[Memory]:
    """The cards that this process may use, as nvidia-smi sees them."""
    try:
        said = subprocess.run(_QUERY, capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):  # no such tool, or no driver
        return
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "all")
    own = {int(word) for word in visible.split(",") if word.strip().isdigit()}
    for line in said.splitlines():
        index, free, total = (part.split()[0] for part in line.split(","))
        if not free.isdigit() or not total.isdigit():  # "[N/A]", of a card that shares the host's
            continue
        if visible == "all" or int(index) in own:
            yield Memory(int(index), float(free) * 2**20, float(total) * 2**20)
