"""From a file of an installed package to documents: code without docstrings, docstrings alone,
prose, plain text.
"""

import ast
import gc
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from stepladder.train.data.prepare.documents import Document

PIECE_CHARS = 1 << 16  # longer files are cut at line ends; the pieces share a group
_SCOPES = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
Scope = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef  # what has a docstring


# folders of packages, not packages themselves
_CONTAINERS = frozenset(("core", "_core", "_src", "test", "tests", "include", "experimental"))


def group_of(label: str) -> str:
    """The package of a file: `numpy/linalg/_linalg.py` -> `numpy/linalg`.

    A module that lies beside packages is its own group.
    """
    parts = label.split("/")
    depth = 2
    while depth < len(parts) and parts[depth - 1] in _CONTAINERS:
        depth += 1
    return "/".join(parts[:depth])


def code(label: str, path: Path) -> Iterator[Document]:
    """Python source with its docstrings removed."""
    source, tree = _parsed(path)
    if tree is None:
        return
    lines = source.splitlines(keepends=True)
    for scope, node, text in _docstrings(tree):
        first, last = node.lineno - 1, node.end_lineno or node.lineno
        if lines[first][: node.col_offset].strip() or not text:
            continue  # shares its line with code, or is empty
        only = len(scope.body) == 1 and not isinstance(scope, ast.Module)
        body = " " * node.col_offset + "...\n" if only else ""
        lines[first:last] = [body] + [""] * (last - first - 1)
    yield from _pieces("".join(lines), group_of(label), label)


def docstrings(label: str, path: Path) -> Iterator[Document]:
    """The docstrings of a module, one after the other, unindented."""
    _, tree = _parsed(path)
    if tree is None:
        return
    texts = [ast.get_docstring(scope, clean=True) for scope, _, _ in _docstrings(tree)]
    text = "\n\n".join(t for t in texts if t and len(t) >= 40)
    yield from _pieces(text + "\n" if text else "", group_of(label), label)


def plain(label: str, path: Path) -> Iterator[Document]:
    """The file as it is, when it is UTF-8.

    Grouped by file: tables and licences have no packages.
    """
    yield from _pieces(_read(path) or "", label, label)


def package(label: str, path: Path) -> Iterator[Document]:
    """The file as it is, grouped by its folder: code that is not Python."""
    yield from _pieces(_read(path) or "", label.rpartition("/")[0], label)


def prose(label: str, path: Path) -> Iterator[Document]:
    """Text that is mostly letters; `pydoc_data.topics` gives one document a topic."""
    text = _read(path) or ""
    if label.endswith("pydoc_data/topics.py"):
        for node in ast.parse(text).body:
            if isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(node.value, ast.Dict):
                for topic, body in sorted(ast.literal_eval(node.value).items()):
                    yield Document(body.strip() + "\n", f"topics/{topic}", f"topics/{topic}")
        return
    if sum(map(str.isalpha, text)) >= 0.55 * len(text):
        yield from _pieces(text, label, label)


READERS: dict[str, Callable[[str, Path], Iterator[Document]]] = {
    r.__name__: r for r in (code, docstrings, package, plain, prose)
}


def _read(path: Path) -> str | None:
    """The file's text; None where it is not UTF-8.

    Those are test fixtures in other encodings, and no part of this corpus.
    """
    try:
        return path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except (UnicodeDecodeError, FileNotFoundError):
        return None


def _parsed(path: Path) -> tuple[str, ast.Module | None]:
    source = _read(path)
    if source is None:
        return "", None
    source = source.replace("\f", " ").replace("\r", "\n").replace("\x00", "")
    collecting = gc.isenabled()
    # a syntax tree is a million small objects without cycles: collecting while it grows takes most
    # of the time
    gc.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's code
            return source, ast.parse(source)
    except (SyntaxError, RecursionError, MemoryError):
        return "", None  # fixtures that are wrong on purpose, templates
    finally:
        if collecting:
            gc.enable()


def _docstrings(scope: Scope) -> Iterator[tuple[Scope, ast.Expr, str]]:
    """Every docstring of a scope and of those inside it: owner, statement, text."""
    first = scope.body[0] if scope.body else None
    if (
        isinstance(first, ast.Expr)
        and isinstance(first.value, ast.Constant)
        and isinstance(first.value.value, str)
    ):
        yield scope, first, first.value.value
    for node in scope.body:
        if isinstance(node, _SCOPES):
            yield from _docstrings(node)


def _pieces(text: str, group: str, name: str) -> Iterator[Document]:
    start, number = 0, 0
    while start < len(text):
        end = start + PIECE_CHARS
        end = len(text) if end >= len(text) else (text.rfind("\n", start, end) + 1 or end)
        if end <= start:
            end = start + PIECE_CHARS
        yield Document(text[start:end], group, name if number == 0 else f"{name}#{number}")
        start, number = end, number + 1
