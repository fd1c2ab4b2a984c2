"""What errors of jax, XLA, orbax and the operating system mean, where only their text tells.

These libraries raise one type for many causes. Every decision made by such a text is made here, and
each has a test with the real text (tests/train/processes/test_foreign_errors.py): an update of a
library may change it.
"""

import errno
import re

# A collective, or jax's key-value store, when another process is gone.
_LOST_PROCESS = re.compile(
    r"gloo|nccl.*(remote|time|abort)|UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|CANCELLED"
    r"|connection (closed|reset)|heartbeat|barrier",
    re.IGNORECASE,
)
# XLA, when a program does not fit a device's memory: "Used 20.1G of 15.75G hbm", or
# "requires ... (20.1G) exceeds available HBM (15.75G)".
_OUT_OF_MEMORY = re.compile(
    r"RESOURCE_EXHAUSTED.*?([\d.]+)([KMGT])\b.*?([\d.]+)([KMGT])\b", re.DOTALL
)
_BYTES = {unit: 2.0 ** (10 * i) for i, unit in enumerate("KMGT", 1)}


def first_line(error: BaseException, most: int = 120) -> str:
    """The first line of what an error says, at most `most` characters of it."""
    return (str(error).splitlines() or [type(error).__name__])[0][:most]


def is_lost_process(error: BaseException) -> bool:
    """Whether another process of the job is gone."""
    return _LOST_PROCESS.search(str(error)) is not None


def is_missing_key(error: BaseException) -> bool:
    """Whether jax's key-value store answers that it has no such key."""
    return "NOT_FOUND" in str(error)


def is_disk_full(error: BaseException) -> bool:
    """Whether a file could not be written because the disk, or a quota, is full."""
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return True
    return any(text in str(error) for text in ("No space left", "RESOURCE_EXHAUSTED"))


def is_not_writable(error: BaseException) -> bool:
    """Whether a file could not be written for want of a permission."""
    if isinstance(error, PermissionError):
        return True
    return any(text in str(error) for text in ("PERMISSION_DENIED", "Permission denied"))


def is_out_of_reach(error: BaseException) -> bool:
    """Whether a file could not be read for a reason that does not lie in the file: no memory, too
    many open files, no permission, a mount that is gone.
    """
    reasons = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EPERM, errno.ESTALE)
    if isinstance(error, MemoryError) or is_not_writable(error) or is_disk_full(error):
        return True
    texts = ("Too many open files", "Cannot allocate memory", "Stale file handle")
    return getattr(error, "errno", None) in reasons or any(text in str(error) for text in texts)


def memory_exceeded(error: BaseException) -> tuple[float, float] | None:
    """(bytes a compiled program needs, bytes a device has); None when the error is another."""
    found = _OUT_OF_MEMORY.search(str(error))
    if not found:
        return None
    needed, needed_unit, available, available_unit = found.groups()
    return float(needed) * _BYTES[needed_unit], float(available) * _BYTES[available_unit]
