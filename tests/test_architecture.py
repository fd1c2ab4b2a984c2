"""The package as a whole: who may import whom, no circles, sizes of files and folders, what is
installed, guards.
"""

import ast
import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("configs", "model", "train", "analysis")
SOURCES = sorted(p for folder in FOLDERS for p in (ROOT / folder).rglob("*.py"))
LINES, FILES = 400, 15  # of a file, in a folder

# The arrows: a folder may import itself, what is listed here, and the folders below those; nothing
# else of ours, at the top of a file or inside a function. A folder without a row has its parent's.
CORE = "configs/core"
RECORDS = ("analysis/records", "analysis/tables", "analysis/laws", CORE)
FIT = ("analysis/fit", *RECORDS)
DECIDE = ("analysis/decide", *FIT)
FIGURES = ("analysis/figures", *DECIDE)
REPORT = ("analysis/report", *FIGURES)
HARDWARE = ("train/hardware", "train/processes", "model", CORE)
STEP = ("train/step", "train/data", *HARDWARE)
ARROWS: dict[str, tuple[str, ...]] = {
    "configs": (CORE,),
    "configs/core": (),
    "model": (),
    "train": ("train/cli",),
    "train/cli": ("train", "model", CORE),  # and analysis, when a command runs
    "train/bench": ("configs", "train/ladder", "train/loop", "train/checks", *STEP),
    "train/engines": (CORE,),
    "train/ladder": ("train/loop", "train/checks", "train/record", *STEP),
    "train/loop": ("train/checks", "train/record", *STEP),
    "train/checks": STEP,
    "train/step": ("train/data", *HARDWARE),
    "train/probes": ("train/export", "train/record", *STEP),
    "train/export": ("train/record", *STEP),
    "train/record": HARDWARE,
    "train/tasks": ("train/data", *HARDWARE),
    "train/hardware": ("train/processes", "model", CORE),
    "train/data": ("train/processes", CORE),
    "train/processes": (CORE,),
    "analysis": (),
    "analysis/records": RECORDS,
    "analysis/tables": RECORDS,
    "analysis/laws": (CORE,),
    "analysis/fit": RECORDS,
    "analysis/decide": FIT,
    "analysis/figures": DECIDE,
    "analysis/report": FIGURES,
    "analysis/studies": ("analysis/studies", *REPORT),
    "analysis/studies/extrapolation": ("analysis/studies/learning_rate", *REPORT),
    "analysis/studies/learning_rate": REPORT,
    "analysis/studies/proxy_transfer": REPORT,
    "analysis/studies/overtraining": ("analysis/studies/learning_rate", *REPORT),
    "analysis/studies/split": REPORT,
    "analysis/studies/coordinates": REPORT,
    "analysis/studies/test_time": REPORT,
}

# Third parties, by top-level module; the standard library is free, and so is everything in train/.
THIRD = {
    "configs": {"ml_collections"},
    "model": {"jax", "flax"},
    "analysis": {"numpy", "pandas", "matplotlib", "jax", "etils", "scipy", "jinja2"},
}
# Not at the top of a module: reading a ladder must stay quick.
LAZY = {"analysis": {"jax", "scipy", "matplotlib", "jinja2"}}


def imports(path: Path, *, top_level_only: bool = False) -> set[str]:
    """Dotted names of what a file imports; lazily too, unless `top_level_only`."""
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


def file_of(name: str) -> Path | None:
    """The source file of a dotted name of ours, or of the module that holds it."""
    parts = name.split(".")[1:]
    for n in (len(parts), len(parts) - 1):
        path = ROOT.joinpath(*parts[:n])
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if n and file.is_file():
                return file
    return None


def row_of(folder: str) -> str:
    """The folder's own row of ARROWS, or its nearest parent's."""
    while folder not in ARROWS:
        folder = folder.rpartition("/")[0]
    return folder


def upward(path: Path, names: set[str], lazy: set[str]) -> list[str]:
    """Those of `names` that ARROWS does not allow to `path`; `lazy` are imported inside
    functions.
    """
    here = row_of(path.parent.relative_to(ROOT).as_posix())
    refused = []
    for name in sorted(n for n in names if n.split(".")[0] == "stepladder"):
        file = file_of(name)
        assert file, f"{path}: no {name}"
        there = file.parent.relative_to(ROOT).as_posix()
        allowed = any(there == folder or there.startswith(f"{folder}/") for folder in ARROWS[here])
        from_command = here == "train/cli" and there.startswith("analysis") and name in lazy
        if row_of(there) != here and not allowed and not from_command:
            refused.append(f"{path.relative_to(ROOT)} -> {name}")
    return refused


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_import_direction(path):
    names, eager = imports(path), imports(path, top_level_only=True)
    assert upward(path, names, names - eager) == []
    folder = path.relative_to(ROOT).parts[0]
    for third in {name.split(".")[0] for name in names} - {"stepladder", *sys.stdlib_module_names}:
        assert folder not in THIRD or third in THIRD[folder], f"{folder} must not import {third}"
    for third in {name.split(".")[0] for name in eager} & LAZY.get(folder, set()):
        pytest.fail(f"{folder} must import {third} inside of a function")


@pytest.mark.parametrize(
    ("file", "name", "lazy"),
    [
        ("model/loss/next_token.py", "stepladder.train.step.program.Program", False),
        ("train/hardware/mesh.py", "stepladder.train.loop.run.run_pack", True),
        ("analysis/fit/fit.py", "stepladder.analysis.figures.registry.plot", True),
        ("analysis/studies/learning_rate/study.py", "stepladder.analysis.studies.registry", True),
        ("train/loop/run.py", "stepladder.analysis.fit.fit.fit", True),
        ("train/cli/parser.py", "stepladder.analysis.fit.fit.fit", False),
        ("configs/core/build.py", "stepladder.configs.base.get_config", False),
    ],
)
def test_a_planted_upward_import_is_found(file, name, lazy):
    assert upward(ROOT / file, {name}, {name} if lazy else set()) == [f"{file} -> {name}"]


def test_every_arrow_is_between_folders_that_are_there_or_planned():
    planned = {"train/engines", "train/tasks"}
    for folder in {*ARROWS, *(to for row in ARROWS.values() for to in row)} - planned:
        assert (ROOT / folder / "__init__.py").is_file(), folder


def circles(arrows: dict[Path, set[Path]]) -> list[list[Path]]:
    """The strongly connected parts of more than one file (Tarjan)."""
    index: dict[Path, int] = {}
    low: dict[Path, int] = {}
    stack: list[Path] = []
    found = []

    def visit(node: Path) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in arrows[node]:
            if other not in index:
                visit(other)
            if other in stack:
                low[node] = min(low[node], low[other])
        if low[node] == index[node]:
            part = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            found.extend([part] if len(part) > 1 or node in arrows[node] else [])

    for node in arrows:
        if node not in index:
            visit(node)
    return found


def test_no_file_imports_itself_through_others():
    arrows = {
        path: {file_of(name) for name in imports(path) if name.split(".")[0] == "stepladder"}
        for path in SOURCES
    }
    found = [sorted(str(p.relative_to(ROOT)) for p in part) for part in circles(arrows)]
    assert found == []


def test_a_circle_is_found():
    a, b, c = Path("a"), Path("b"), Path("c")
    assert [sorted(part) for part in circles({a: {b}, b: {c}, c: {b}})] == [[b, c]]
    assert circles({a: {b, c}, b: {c}, c: set()}) == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_file_is_one_idea(path):
    text = path.read_text()
    assert len(text.splitlines()) <= LINES, f"{path} is two files"
    assert path.stem not in ("utils", "util", "helpers", "common", "misc")
    assert ast.get_docstring(ast.parse(text)), f"{path} does not say what it is"


def test_no_folder_is_a_heap():
    folders = {path.parent for path in SOURCES} | {p.parent for p in (ROOT / "tests").rglob("*.py")}
    sizes = {str(f.relative_to(ROOT)): len(list(f.glob("*.py"))) for f in folders}
    assert {folder: n for folder, n in sizes.items() if n > FILES} == {}


def test_every_folder_is_installed():
    found = runpy.run_path(str(ROOT / "setup.py"))["packages"]()
    folders = {path.parent.relative_to(ROOT) for path in SOURCES}
    assert found == {"stepladder." + ".".join(f.parts): f.as_posix() for f in folders}


@pytest.mark.slow
def test_an_installed_copy_has_every_module(tmp_path):
    """By pip, from a copy of the sources: every module is found outside of the checkout."""
    source, target = tmp_path / "source", tmp_path / "target"
    skip = shutil.ignore_patterns("__pycache__")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, source / folder, ignore=skip)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target)]
    subprocess.run([*pip, str(source)], check=True)
    installed = {p.relative_to(target / "stepladder") for p in target.rglob("*.py")}
    assert {path.relative_to(ROOT) for path in SOURCES} <= installed
    templates = {p.relative_to(ROOT) for p in (ROOT / "analysis").rglob("*.j2")}
    assert templates
    assert templates == {p.relative_to(target / "stepladder") for p in target.rglob("*.j2")}


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
