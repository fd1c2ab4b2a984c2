"""Which copies of a record's rows are made for dashboards: one table.

A mirror is never the store of record; what it shows has been committed.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from stepladder.train.hardware.machine import Machine
from stepladder.train.record.mirrors import tensorboard

Mirror = Callable[[Path, Sequence[dict]], None]  # (the record's folder, committed rows)

MIRRORS: dict[str, Mirror] = {"tensorboard": tensorboard.mirror}


def chosen(machine: Machine) -> tuple[str, ...]:
    """Names of the mirrors that a machine's settings ask for (config key machine.NAME)."""
    return tuple(name for name in MIRRORS if getattr(machine, name))
