"""Where compiled programs are kept between processes.

Commands, which own their process, set this; the library never does.
"""

import os
from pathlib import Path


def folder() -> Path:
    """STEPLADDER_CACHE, or stepladder/ in the user's cache folder."""
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("STEPLADDER_CACHE") or user / "stepladder") / "xla"


def settings(path: Path) -> dict[str, object]:
    """jax's options for a persistent compilation cache in `path`.

    Every program that takes 0.1 s or more to compile is kept.
    """
    return {
        "jax_compilation_cache_dir": str(path),
        "jax_persistent_cache_min_compile_time_secs": 0.1,
        "jax_persistent_cache_min_entry_size_bytes": 0,
    }
