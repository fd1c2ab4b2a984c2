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
from stepladder.train.loop import run
from stepladder.train.processes import group
from stepladder.train.record import checkpoint


def recording(folder: Path) -> None:
    """Of the first data stream of a pack."""
    read, calls = run._Streams.__call__, []

    def read_and_save(self):
        time.sleep(float(os.environ.get("SLOW", "0")))
        found = read(self)
        if self.read[0]:
            calls.append(len(self.read[0]))
            np.savez(
                folder / f"{group.index()}-{len(calls):05d}.npz",
                tokens=np.stack(self.read[0]),
                rows=self.pack.batch_rows,
            )
        return found

    run._Streams.__call__ = read_and_save


def failing(step: int) -> None:
    read = checkpoint.Checkpoints._read

    def read_or_fail(self, at, abstract):
        if at == step:
            raise OSError("this part is gone")
        return read(self, at, abstract)

    checkpoint.Checkpoints._read = read_or_fail


def differing(name: str) -> None:
    here = consistency.fingerprint
    consistency.fingerprint = lambda loaded: {**here(loaded), name: "another"}


if __name__ == "__main__":
    recording(Path(sys.argv[1]))
    if "UNREADABLE" in os.environ:
        failing(int(os.environ["UNREADABLE"]))
    if "OTHER" in os.environ:
        differing(os.environ["OTHER"])
    sys.exit(main(sys.argv[2:]))
