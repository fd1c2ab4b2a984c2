"""One preparation of a folder at a time."""

import json
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

LOCK, HOLDER = ".lock", ".lock.holder"
FILES = (LOCK, HOLDER)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder, waiting for another process that does and saying on stderr who it is.

    A folder that cannot be written is not locked: it can only be a finished store.
    """
    if not os.access(folder, os.W_OK):
        yield
        return
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"out={folder}: waiting for {_holder(folder)}, which prepares it", file=sys.stderr)
        lock.acquire()
    try:
        # The note only serves the message above: a full disk must not bar a finished store.
        with suppress(OSError):
            note = {"host": platform.node(), "process": os.getpid()}
            (folder / HOLDER).write_text(json.dumps(note))
        yield
    finally:
        (folder / HOLDER).unlink(missing_ok=True)
        lock.release()


def _holder(folder: Path) -> str:
    """Who wrote the note beside the lock; it may not be there yet."""
    try:
        note = json.loads((folder / HOLDER).read_text())
    except (OSError, ValueError):
        return "another process"
    return f"process {note['process']} on {note['host']}"
