"""`stepladder` in a process of its own that writes down what it puts on its devices: FOLDER, then
the command's words.

UNREADABLE=step makes this process fail to read its part of that checkpoint; SLOW=seconds is added
to every dispatch; OTHER=name gives that part of the installation another value.
"""

import os
import sys
import time
from pathlib import Path

import numpy as np

from stepladder.train.cli.parser import main
from stepladder.train.ladder import consistency
from stepladder.train.loop.batch_streams import BatchStreams
from stepladder.train.processes import group
from stepladder.train.record.checkpoint import Checkpoints


def record_dispatches(folder: Path) -> None:
    """Write the tokens of the first data stream of every dispatch."""
    next_dispatch, count = BatchStreams.next_dispatch, 0

    def read_and_save(self):
        nonlocal count
        time.sleep(float(os.environ.get("SLOW", "0")))
        dispatch = next_dispatch(self)
        if dispatch and dispatch.tokens[0]:
            count += 1
            np.savez(
                folder / f"{group.index()}-{count:05d}.npz",
                tokens=np.stack(dispatch.tokens[0]),
                rows=self.pack.batch_rows,
            )
        return dispatch

    BatchStreams.next_dispatch = read_and_save


def fail_to_read(step: int) -> None:
    read = Checkpoints.read

    def read_or_fail(self, at, abstract):
        if at == step:
            raise OSError("this part is gone")
        return read(self, at, abstract)

    Checkpoints.read = read_or_fail


def differ_in(name: str) -> None:
    here = consistency.fingerprint
    consistency.fingerprint = lambda loaded: {**here(loaded), name: "another"}


if __name__ == "__main__":
    record_dispatches(Path(sys.argv[1]))
    if "UNREADABLE" in os.environ:
        fail_to_read(int(os.environ["UNREADABLE"]))
    if "OTHER" in os.environ:
        differ_in(os.environ["OTHER"])
    sys.exit(main(sys.argv[2:]))
