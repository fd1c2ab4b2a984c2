"""`stepladder` in a process of its own that writes down what it puts on its devices: FOLDER, then the command's words.

UNREADABLE=step makes this process fail to read its part of that checkpoint; SLOW=seconds is added to every dispatch.
"""

import os
import sys
import time
from pathlib import Path

import numpy as np

from stepladder.train import checkpoint, hosts, program
from stepladder.train.cli import main


def recording(folder: Path) -> None:
    put, calls = program.Program.put_batches, []

    def put_and_save(self, batches):
        time.sleep(float(os.environ.get("SLOW", "0")))
        calls.append(len(batches))
        np.savez(folder / f"{hosts.index()}-{len(calls):05d}.npz", tokens=np.stack(batches), rows=self.batch_rows)
        return put(self, batches)

    program.Program.put_batches = put_and_save


def failing(step: int) -> None:
    read = checkpoint.Checkpoints._read

    def read_or_fail(self, at, abstract):
        if at == step:
            raise OSError("this part is gone")
        return read(self, at, abstract)

    checkpoint.Checkpoints._read = read_or_fail


if __name__ == "__main__":
    recording(Path(sys.argv[1]))
    if "UNREADABLE" in os.environ:
        failing(int(os.environ["UNREADABLE"]))
    sys.exit(main(sys.argv[2:]))
