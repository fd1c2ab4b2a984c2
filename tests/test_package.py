"""The package as a whole: import directions, package list, file sizes, guards."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("configs", "model", "train", "analysis")
SOURCES = sorted(p for folder in FOLDERS for p in (ROOT / folder).rglob("*.py"))

# Who may import what of ours, and which third parties (by top-level module); the standard library
# is free.
OURS = {
    "configs": {"configs"},
    "model": {"model"},
    "train": {"train", "model", "configs"},
    "analysis": {"analysis", "configs"},
}
THIRD = {
    "configs": {"ml_collections"},
    "model": {"jax", "flax"},
    "analysis": {"numpy", "pandas", "matplotlib", "jax", "etils", "scipy"},
}
# not at the top of a module: reading a ladder must stay quick
LAZY = {"analysis": {"jax", "scipy", "matplotlib"}}


def imports(path: Path, *, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_import_direction(path):
    folder = path.relative_to(ROOT).parts[0]
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "stepladder":
            lazily = (
                path == ROOT / "train" / "cli.py"
                and parts[1] == "analysis"
                and name not in imports(path, top_level_only=True)
            )
            assert parts[1] in OURS[folder] or lazily, f"{folder} must not import {name}"
        elif parts[0] not in sys.stdlib_module_names and folder in THIRD:
            assert parts[0] in THIRD[folder], f"{folder} must not import {parts[0]}"
            eager = parts[0] in LAZY.get(folder, ()) and name in imports(path, top_level_only=True)
            assert not eager, f"{folder} must import {parts[0]} inside of a function"


def test_package_list_is_complete():
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {p.parent.relative_to(ROOT) for p in SOURCES}
    want = {"stepladder." + ".".join(f.parts) for f in folders}
    assert set(setuptools["packages"]) == want
    assert setuptools["package-dir"] == {"stepladder." + ".".join(f.parts): str(f) for f in folders}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_file_is_one_idea(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 600, f"{path} is two files"
    assert path.stem not in ("utils", "util", "helpers", "common", "misc")
    assert ast.get_docstring(ast.parse(text)), f"{path} does not say what it is"


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_second_copy_is_refused(folder):
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {folder}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode != 0
    assert f"import this package as 'stepladder.{folder}'" in done.stderr


def test_every_version_has_constraints():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11,<3.14"
    for version in ("3.11", "3.12", "3.13"):
        pins = (ROOT / "constraints" / f"{version}.txt").read_text()
        for name in ("jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy"):
            assert f"\n{name}==" in "\n" + pins, f"constraints/{version}.txt does not pin {name}"
