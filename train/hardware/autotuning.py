"""The kernels that XLA chose by trying them on a card, kept with the workdir: a run that goes on
elsewhere chooses the same, and with it the same bits.

XLA keeps one file a kernel in jax's compilation cache, which is the machine's. They are copied: to
the cache before something compiles, to the workdir after it. A file that is there already stays.
"""

import logging
from pathlib import Path

import jax

from stepladder.configs.core.errors import UserError
from stepladder.configs.core.files import write_atomic
from stepladder.configs.core.record import AUTOTUNING
from stepladder.train.processes import group

_IN_CACHE = "xla_gpu_per_fusion_autotune_cache_dir"  # jax's name for it, in its cache


def bring(workdir: Path) -> None:
    """Give this machine's compiler what is kept with the workdir; warns where it cannot."""
    if cached := _cached():
        try:
            _copy(Path(workdir) / AUTOTUNING, cached, "compilation_cache")
        except UserError as error:
            logging.warning("kernels are chosen anew: %s", error)


def keep(workdir: Path) -> None:
    """Keep with the workdir what this machine's compiler has chosen; process 0 does.

    Raises UserError where it cannot be written.
    """
    if group.is_leader() and (cached := _cached()):
        _copy(cached, Path(workdir) / AUTOTUNING, "workdir")


def _cached() -> Path | None:
    """Where jax keeps it on this machine; None without a compilation cache."""
    cache = jax.config.values["jax_compilation_cache_dir"]
    return Path(cache) / _IN_CACHE if cache else None


def _copy(source: Path, target: Path, field: str) -> None:
    for file in sorted(source.glob("*")):
        if file.is_file() and not (target / file.name).exists():
            write_atomic(target / file.name, file.read_bytes(), field=field)
