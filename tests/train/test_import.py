"""Importing the model and the trainer does not bring up jax's backend: a machine's settings (how
many CPU devices, which compilation cache) can only be made before it is up.
"""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def modules(folder: str) -> list[str]:
    """Names of all modules below a folder, but those that run as a script."""
    paths = (path.relative_to(ROOT).with_suffix("") for path in (ROOT / folder).rglob("*.py"))
    names = (".".join(("stepladder", *path.parts)) for path in paths if path.stem != "__main__")
    return sorted(name.removesuffix(".__init__") for name in names)


@pytest.mark.parametrize("folder", ["model", "train"])
def test_no_import_brings_up_the_backend(folder):
    code = f"""
import importlib
from jax._src import xla_bridge
for name in {modules(folder)}:
    importlib.import_module(name)
    assert not xla_bridge.backends_are_initialized(), name
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
