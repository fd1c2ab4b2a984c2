"""The notebook, cell by cell: it stores no outputs, runs from the top in an empty folder, and
recovers the law that it states.
"""

import ast
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.support import published_rows

PATH = Path(__file__).resolve().parents[2] / "docs" / "notebook.ipynb"
NOTEBOOK = json.loads(PATH.read_text())
CELLS = ["".join(c["source"]) for c in NOTEBOOK["cells"] if c["cell_type"] == "code"]


def run(folder: Path, capsys) -> tuple[dict, list[tuple[object, str]]]:
    """The namespace at the end; of every cell the value of its last expression and what it
    printed.
    """
    space, shown, before = {"__name__": "__main__"}, [], Path.cwd()
    os.chdir(folder)
    try:
        for source in CELLS:
            body = ast.parse(
                "\n".join(line for line in source.splitlines() if not line.startswith("%"))
            ).body  # magics are IPython's
            last = ast.Expression(body.pop().value) if isinstance(body[-1], ast.Expr) else None
            exec(compile(ast.Module(body, []), str(PATH), "exec"), space)
            value = eval(compile(last, str(PATH), "eval"), space) if last else None
            shown.append((value, capsys.readouterr().out))
    finally:
        os.chdir(before)
    return space, shown


def check(space: dict, shown: list[tuple[object, str]], folder: Path) -> None:
    from matplotlib.figure import Figure

    figures = [value for value, _ in shown if isinstance(value, Figure)]
    assert len(figures) == 6 and all(figure.axes for figure in figures)
    for value, text in shown:
        # what Jupyter displays well by itself
        assert value is None or isinstance(value, (Figure, pd.DataFrame))
        assert value is not None or text.strip()
        assert (
            " object at 0x" not in text
            and "array(" not in text
            and max(map(len, text.splitlines()), default=0) < 400
        )
    assert sorted(p.name for p in (folder / "figures").iterdir()) == [
        "contours.svg",
        "ellipses.svg",
        "extrapolation.svg",
        "residuals.svg",
    ]
    assert list(pd.read_csv(folder / "parameters.csv", index_col=0).index) == list(
        space["fitted"].params
    )


def test_is_valid_and_stores_no_outputs():
    assert (NOTEBOOK["nbformat"], NOTEBOOK["nbformat_minor"]) == (4, 5) and set(NOTEBOOK) == {
        "cells",
        "metadata",
        "nbformat",
        "nbformat_minor",
    }
    ids = [c["id"] for c in NOTEBOOK["cells"]]
    assert len(set(ids)) == len(ids) and PATH.stat().st_size < 20_000
    for cell in NOTEBOOK["cells"]:
        wanted = {"cell_type", "id", "metadata", "source"} | (
            {"outputs", "execution_count"} if cell["cell_type"] == "code" else set()
        )
        assert set(cell) == wanted and isinstance(cell["source"], list)
        assert not cell.get("outputs") and cell.get("execution_count") is None
    for source in CELLS[2:]:  # after the data
        assert len(ast.parse(source).body) <= 5, "imports and three statements"


def test_recovers_the_law_it_states(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("STEPLADDER_DATA", raising=False)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    space, shown = run(tmp_path, capsys)
    check(space, shown, tmp_path)
    true, intervals = space["TRUE"], space["refits"].interval(0.99)
    for name, value in true.items():
        assert intervals.loc[name, "low"] < value < intervals.loc[name, "high"]
    at, forecast = space["target"], space["forecast"]
    truth = true["E"] + true["A"] / at["N"] ** true["alpha"] + true["B"] / at["D"] ** true["beta"]
    assert forecast.low < truth < forecast.high and forecast.high / forecast.low < 1.05
    exponent = true["beta"] / (true["alpha"] + true["beta"])
    low, high = space["allocation"].intervals["a"]
    assert low < exponent < high and high - low < 0.06
    assert space["profiles"].N.exponent == pytest.approx(exponent, abs=0.05)
    assert np.nanmin(space["hidden"].are) < 0.01 and space["hidden"].target == "1.5e+10"
    printed = "".join(text for _, text in shown)
    assert (
        "L = E + A / N^alpha + B / D^beta" in printed
        and "(90%) at N = 7e+10, D = 1.4e+12" in printed
        and "isoFLOP minima" in printed
    )


def test_published_table_in_place_of_ours(tmp_path, capsys, monkeypatch):
    table = published_rows.path("chinchilla/svg_extracted_data.csv")
    # the notebook runs in another folder
    monkeypatch.setenv("STEPLADDER_DATA", str(table.resolve().parents[1]))
    space, shown = run(tmp_path, capsys)
    check(space, shown, tmp_path)
    assert len(space["points"].frame) == 240 and len(space["points"].excluded) == 5
    assert space["fitted"].params == pytest.approx(
        {"E": 1.8172, "A": 477.8, "B": 2143.9, "alpha": 0.3473, "beta": 0.3672}, rel=0.01
    )
    assert 0.45 < space["allocation"].exponent < 0.55
