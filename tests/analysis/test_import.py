"""Importing the analysis brings in neither jax nor matplotlib nor the trainer."""

import subprocess
import sys
from pathlib import Path

ANALYSIS = Path(__file__).parents[2] / "analysis"
MODULES = sorted(
    ".".join(path.relative_to(ANALYSIS).with_suffix("").parts)
    for path in ANALYSIS.rglob("*.py")
    if path.stem != "__init__"
)
FORBIDDEN = tuple("jax flax orbax matplotlib optax grain stepladder.model stepladder.train".split())


def test_all_modules_import_without_jax_or_matplotlib():
    names = ", ".join(f"stepladder.analysis.{m}" for m in MODULES)
    code = f"import sys, {names}; print(*(m for m in {FORBIDDEN} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
