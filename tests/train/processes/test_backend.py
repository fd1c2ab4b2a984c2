"""No import starts jax's backend: devices and processes are set up after all modules are there."""

import subprocess
import sys

CODE = """
import importlib
from pathlib import Path

from jax._src import xla_bridge

for path in sorted(p for folder in ("model", "train") for p in Path(folder).rglob("*.py")):
    if path.stem != "__main__":
        name = ".".join(("stepladder", *path.with_suffix("").parts)).removesuffix(".__init__")
        importlib.import_module(name)
        assert not xla_bridge.backends_are_initialized(), name
"""


def test_no_import_starts_the_backend(root):
    done = subprocess.run([sys.executable, "-c", CODE], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
