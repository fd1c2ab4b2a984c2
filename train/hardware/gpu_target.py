"""The cards of GPU nodes that are not here, to compile for them on a machine without a GPU.

Needs XLA's compiler for CUDA (`pip install stepladder[gpu-plan]`), no driver and no cuDNN. A card
is one file in targets/ and a row of DEVICES (defaults.py).
"""

import contextlib
import functools
import importlib.util
import os
import re
from collections.abc import Iterator
from pathlib import Path

from stepladder.configs.core.errors import UserError
from stepladder.model.parallel.device import JaxDevice

TARGETS = Path(__file__).parent / "targets"
CARDS = tuple(sorted(path.stem for path in TARGETS.glob("*.textproto")))
EXAMPLES = "h100:8, of two nodes h100:8*2"
KNOWN = (
    f"a GPU node like {EXAMPLES} (cards: {', '.join(CARDS)}; to describe another, add "
    "train/hardware/targets/CARD.textproto)"
)
# Triton's matrix products are chosen by trying them on the card: untried ones of small matrices do
# not compile. cuBLAS, which large ones take anyway, needs no trial.
OPTIONS: dict[str, str | bool] = {"xla_gpu_enable_triton_gemm": False}
_VERSION = ("major", "minor", "patch")
_NAME = re.compile(r"(\w+)(?::([1-9]\d*))?(?:\*([1-9]\d*))?")


def card_of(name: str) -> str:
    """The card that a topology like "h100:8*2" has; "" when it is none that is described here."""
    card = re.split(r"[:*]", name)[0]
    return card if card in CARDS else ""


@functools.cache
def devices(name: str) -> tuple[JaxDevice, ...]:
    """The cards of a node like "h100:8", or of several nodes like "h100:8*2".

    A node is a slice: its cards are wired to each other. Raises UserError for another form, or
    without the compiler.
    """
    found = _NAME.fullmatch(name)
    if not found:
        raise UserError(f"topology={name!r}: not CARD:CARDS*NODES; use e.g. {EXAMPLES}")
    if importlib.util.find_spec("jax_plugins.xla_cuda13") is None:
        raise UserError(
            f"topology={name!r}: compiling for a GPU needs XLA's compiler for CUDA; pip install "
            "'stepladder[gpu-plan]'"
        )
    import jax
    from jax.experimental import topologies

    card, cards, nodes = found[1], int(found[2] or 1), int(found[3] or 1)
    _start_compiler()
    target = (TARGETS / f"{card}.textproto").read_text()
    several = f"{nodes}x1x{cards}"  # slices, hosts of a slice, cards of a host
    try:
        described = topologies.get_topology_desc(
            "", platform="cuda", target_config=target, topology=several
        )
    except jax.errors.JaxRuntimeError as error:
        raise UserError(
            f"topology={name!r}: {str(error).splitlines()[0]}; use e.g. {EXAMPLES}"
        ) from error
    return tuple(described.devices)


@contextlib.contextmanager
def attention_of(card: str) -> Iterator[None]:
    """Let jax take the version of cuDNN and the compute capability from a card's description while
    it traces attention: it asks the library and the card at hand, and neither need be here.
    """
    from jax._src.cudnn import fused_attention_stablehlo as asks

    text = (TARGETS / f"{card}.textproto").read_text()
    major, minor, patch = (int(_number(text, "dnn_version_info", part)) for part in _VERSION)
    capability = tuple(int(_number(text, "cuda_compute_capability", part)) for part in _VERSION[:2])
    answers = {
        "check_cudnn_version": lambda: 10_000 * major + 100 * minor + patch,
        "check_compute_capability": lambda least: capability >= _parts(least),
        "is_cuda_compute_capability_equal": lambda other: capability == _parts(other),
    }
    before = {name: getattr(asks, name) for name in answers}
    try:
        for name, answer in answers.items():
            setattr(asks, name, answer)
        yield
    finally:
        for name, question in before.items():
            setattr(asks, name, question)


def _number(text: str, message: str, field: str) -> str:
    """A number of a message of a text proto; 0 where it is left out, as in every proto."""
    (body,) = re.findall(rf"{message} {{([^}}]*)}}", text)
    return next(iter(re.findall(rf"\b{field}: (\d+)", body)), "0")


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def hush(dev: Path = Path("/dev")) -> None:
    """Tell jax, before it looks for devices, not to ask for a driver and cuDNN where there is no
    card; on a machine with one nothing changes. dev: the folder of device files.
    """
    if not any(dev.glob("nvidia*")):
        os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")


def _start_compiler() -> None:
    """Load XLA's plugin for CUDA, which needs no driver."""
    import jax
    from jaxlib import xla_client

    hush()
    # read when the plugin is loaded: for every sort it warns that it has not tried the card's
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    jax.devices("cpu")  # jax looks for plugins
    # jax has no public name for it; the same from 0.10 to 0.12
    if not xla_client.pjrt_plugin_initialized("cuda"):
        xla_client.initialize_pjrt_plugin("cuda")
