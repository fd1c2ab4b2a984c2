"""The size and shape of the code at some commits, as a table: lines, files, functions, statements.

    python benchmarks/code_figures.py 72a7412 HEAD
    python benchmarks/code_figures.py HEAD --json

Python files of configs, model, train and analysis, unless a row says otherwise. A statement is a
node of the syntax tree that is one, without docstrings.
"""

import argparse
import ast
import io
import json
import subprocess
import tarfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("configs", "model", "train", "analysis")


def sources(revision: str) -> dict[str, str]:
    """Path -> text of every Python file of a commit."""
    command = ["git", "-C", str(ROOT), "archive", revision]
    archive = subprocess.run(command, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        return {
            member.name: files.extractfile(member).read().decode()
            for member in files.getmembers()
            if member.isfile() and member.name.endswith(".py")
        }


def length(node: ast.FunctionDef) -> int:
    """Lines of a function without its docstring."""
    body = node.body[1:] if ast.get_docstring(node) else node.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def statements(tree: ast.AST) -> int:
    """Statements without docstrings."""
    found = (node for node in ast.walk(tree) if isinstance(node, ast.stmt))
    return sum(
        not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)) for node in found
    )


def figures(revision: str) -> dict[str, float | int | str]:
    """Name -> figure of a commit."""
    texts = sources(revision)
    ours = {path: text for path, text in texts.items() if path.startswith(FOLDERS)}
    trees = {path: ast.parse(text) for path, text in ours.items()}
    lines = [line for text in texts.values() for line in text.splitlines()]
    written = [line for text in ours.values() for line in text.splitlines() if line.strip()]
    functions = [
        (path, node)
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
    ]
    folders = Counter(str(Path(path).parent) for path in ours)
    run_pack = next(node for _, node in functions if node.name == "run_pack")
    return {
        "files": len(ours),
        "lines": sum(len(text.splitlines()) for text in ours.values()),
        "statements": sum(map(statements, trees.values())),
        "statements of tests": sum(
            statements(ast.parse(text)) for path, text in texts.items() if path.startswith("tests/")
        ),
        "lines above 100 columns, all Python": sum(len(line) > 100 for line in lines),
        "mean of a line that is not blank": round(sum(map(len, written)) / len(written), 1),
        "fmt: skip and named lambdas, all Python": sum(
            "fmt: " + "skip" in line or "noqa: " + "E731" in line for line in lines
        ),
        "files above 400 lines": sum(len(text.splitlines()) > 400 for text in ours.values()),
        "folders above 15 files": sum(n > 15 for n in folders.values()),
        "most files in a folder": max(folders.values()),
        "functions above 60 lines": sum(length(node) > 60 for _, node in functions),
        "longest function": max(length(node) for _, node in functions),
        "run_pack, lines": length(run_pack),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commits", nargs="*", default=["HEAD"])
    parser.add_argument("--tiny", action="store_true", help="the same: it takes seconds")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    table = {commit: figures(commit) for commit in args.commits}
    if args.json:
        print(json.dumps(table, indent=1))
        return
    print("| | " + " | ".join(table) + " |")
    print("|---" * (1 + len(table)) + "|")
    for name in next(iter(table.values())):
        print(f"| {name} | " + " | ".join(f"{row[name]:,}" for row in table.values()) + " |")


if __name__ == "__main__":
    main()
