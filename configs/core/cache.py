"""Where compiled programs are kept between processes: set by commands, which own their process,
never by the library.
"""

import os
from pathlib import Path


def folder() -> Path:
    """STEPLADDER_CACHE, or stepladder/ in the user's cache folder."""
    named = os.environ.get("STEPLADDER_CACHE")
    return (
        Path(
            named or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stepladder"
        )
        / "xla"
    )


def settings(path: Path) -> dict[str, object]:
    """jax's options for a persistent compilation cache in `path` that keeps every program of 0.1 s
    and more.
    """
    return {
        "jax_compilation_cache_dir": str(path),
        "jax_persistent_cache_min_compile_time_secs": 0.1,
        "jax_persistent_cache_min_entry_size_bytes": 0,
    }
