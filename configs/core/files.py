"""Write beside, then rename: how every file is written that a crash must not leave half done."""

import contextlib
import os
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO

from stepladder.configs.core.errors import UserError


def write_atomic(
    path: Path, content: str | bytes, sync: bool = True, field: str = "workdir"
) -> None:
    """Write `content` to `path`; a reader or a crash sees the old or the new file, never a half.

    Args:
        path: its folder is made where it is missing.
        content: text is written as UTF-8.
        sync: wait for the disk: for what must survive a power cut.
        field: the option that errors name.

    Raises:
        UserError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, sync) as file:
            file.write(content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise UserError(
            f"{field}={path.parent}: cannot write {path.name} ({error.strerror}); free space or "
            f"choose another --{field}"
        ) from error


@contextlib.contextmanager
def replacing(
    path: Path, sync: bool = True, beside: Path | None = None
) -> Generator[BinaryIO, None, None]:
    """Yield a file that takes the place of `path` when the block ends; not when it raises.

    `beside` is where it is written meanwhile: by default under a name of this process, for others
    may write the same file. Raises OSError.
    """
    beside = beside or path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(beside, "wb") as file:
            yield file
            if sync:
                flush(file)
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise


@contextlib.contextmanager
def new_folder(out: Path, field: str = "out") -> Generator[Path, None, None]:
    """Yield an empty folder that becomes `out` when the block ends; it is gone when that raises.

    Raises:
        UserError: `out` is there already, or cannot be written. `field` is what errors name.
    """
    if out.exists():
        raise UserError(f"{field}={out}: is there already; delete it, or name a new folder")
    beside = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        beside.mkdir(parents=True)
        yield beside
        beside.rename(out)
    except OSError as error:
        raise UserError(
            f"{field}={out}: cannot be written ({error.strerror}); free space or name another"
        ) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def flush(file: BinaryIO) -> None:
    """Wait until what was written is on the disk."""
    file.flush()
    os.fsync(file.fileno())
