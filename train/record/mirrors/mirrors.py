"""Which copies of a record's rows are made for dashboards: one table.

A mirror is never the store of record. Rows that are made again after a crash appear in it twice.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from stepladder.train.record.mirrors import tensorboard

Mirror = Callable[[Path, Sequence[dict]], None]  # (the record's folder, rows)

# Config key machine.NAME switches one on.
MIRRORS: dict[str, Mirror] = {"tensorboard": tensorboard.mirror}
