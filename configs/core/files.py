"""Write beside, then rename: how everything small is written, so that bad input and crashes never
lose data.
"""

import contextlib
import os
from pathlib import Path

from stepladder.configs.core.errors import UserError


def write_atomic(
    path: Path, content: str | bytes, sync: bool = True, field: str = "workdir"
) -> None:
    """Write `content` to `path` so that a reader or a crash sees the old or the new file, never a
    half.

    Raises UserError when it cannot.

    `sync` waits for the disk: for what must survive a power cut. `field` is the option an error
    names.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(beside, "wb") as f:
            f.write(content.encode() if isinstance(content, str) else content)
            if sync:
                f.flush()
                os.fsync(f.fileno())
        os.replace(beside, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise UserError(
            f"{field}={path.parent}: cannot write {path.name} ({error.strerror}); free space or "
            f"choose another --{field}"
        ) from error
