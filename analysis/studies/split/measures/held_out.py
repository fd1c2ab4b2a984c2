"""How well the laws predict what they did not see, and which is best.

Hidden in turn: the largest size, the largest total of every size, each split fraction. Laws are
compared on the cells that all of them predict, with the same resamples. Beside them stands the
nearest cell that was seen: a law that is no better has learned nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from stepladder.analysis.studies.split.measures import Row
from stepladder.analysis.studies.split.measures.cells import Cells, Sample
from stepladder.analysis.studies.split.measures.laws import (
    Fitted,
    LawFits,
    agreement,
    redrawn,
    refit,
)

SIZE, TOTAL, SHARE = "largest N", "largest T of every N", "each split fraction"
NEAREST = "nearest cell seen"
_SIZES = 3  # must be left to fit a term in N
_WORDS = {
    SIZE: "needs 4 sizes: 3 must be left to fit the term in N",
    TOTAL: "needs 3 totals at every size: 2 must be left to show how the loss falls",
    SHARE: "needs 4 split fractions: 3 must be left",
}


@dataclass(frozen=True)
class HeldOut:
    """rows: a row a split and law; thetas: parameters [folds, P] by split and law.

    predictions: by split and law, of the cells; NaN where a cell was not hidden.
    """

    rows: list[Row]
    folds: Mapping[str, np.ndarray] = field(repr=False)
    thetas: Mapping[tuple[str, str], np.ndarray] = field(repr=False)
    missing: list[str]


def held_out(cells: Cells, fits: LawFits, sample: Sample) -> HeldOut:
    """Refit every law without what is hidden, and predict it."""
    folds, missing = folds_of(cells)
    rows, thetas = [], {}
    for split, hidden in folds.items():
        guesses = {NEAREST: nearest(cells, hidden)}
        for code, one in fits.pooled.items():
            theta = refit(one, hidden)
            thetas[split, code] = theta
            guesses[code] = _predicted(one, cells, hidden, theta)
        rows += _compared(split, guesses, cells, sample, missing)
    return HeldOut(rows, folds, thetas, missing)


def folds_of(cells: Cells) -> tuple[dict[str, np.ndarray], list[str]]:
    """What is hidden in each split: bool [folds, cells]; and the splits that are not possible."""
    frame = cells.frame
    n, s = frame["N"].to_numpy(float), frame["s"].to_numpy(float)
    last = (frame["T"] == frame.groupby("N")["T"].transform("max")).to_numpy()
    totals = frame.groupby("N")["T"].nunique().min()
    shares = np.unique(s)
    possible = {
        SIZE: (len(np.unique(n)) > _SIZES, (n == n.max())[None]),
        TOTAL: (totals > 2, last[None]),
        SHARE: (len(shares) > 3, np.stack([s == v for v in shares])),
    }
    folds = {name: hidden for name, (good, hidden) in possible.items() if good}
    return folds, [f"{name}: {_WORDS[name]}" for name in possible if name not in folds]


def _predicted(one: Fitted, cells: Cells, hidden: np.ndarray, theta: np.ndarray) -> np.ndarray:
    guess = np.full(len(cells.loss), np.nan)
    for fold, values in zip(hidden, theta):
        guess[fold] = one.predict(cells, values)[fold]
    return guess


def nearest(cells: Cells, hidden: np.ndarray) -> np.ndarray:
    """The loss of the seen cell that is nearest in s, ln N and ln T [cells]."""
    frame = cells.frame
    place = np.stack([frame["s"], np.log(frame["N"]), np.log(frame["T"])], 1)
    guess = np.full(len(frame), np.nan)
    for fold in hidden:
        far = np.abs(place[fold][:, None] - place[~fold][None]).sum(-1)
        guess[fold] = cells.loss[~fold][far.argmin(1)]
    return guess


def _compared(
    split: str,
    guesses: Mapping[str, np.ndarray],
    cells: Cells,
    sample: Sample,
    missing: list[str],
) -> list[Row]:
    """A row a law: its errors, its place, and the difference to the best and to the nearest."""
    laws = [name for name in guesses if name != NEAREST]
    defined = {k: np.isfinite(v) & (v > 0) for k, v in guesses.items()}
    common = np.logical_and.reduce(list(defined.values()))
    if not common.any() or not laws:
        missing.append(f"{split}: no cell that all laws predict")
        return []
    group = cells.frame.groupby(["N", "T"]).ngroup().to_numpy()[common]
    truth = cells.loss[common]
    parts = {k: agreement(v[common], truth) for k, v in guesses.items()}
    rmse = {k: redrawn(p["rmse"], group, sample) for k, p in parts.items()}
    best = min(laws, key=lambda k: rmse[k][0])
    order = sorted(guesses, key=lambda k: rmse[k][0])
    first = np.stack([rmse[k][1] for k in laws]).argmin(0)
    rows: list[Row] = []
    for code in order:
        value, drawn = rmse[code]
        row: Row = {"held_out": split, "law": code, "cells": int(common.sum())}
        row |= {"rank": order.index(code) + 1}
        row |= sample.estimate(value, drawn).row("rmse")
        for name in ("mre", "huber"):
            row |= sample.estimate(*redrawn(parts[code][name], group, sample)).row(name)
        row["first"] = float((first == laws.index(code)).mean()) if code in laws else float("nan")
        for name, other in (("above_best", best), ("above_nearest", NEAREST)):
            difference = (value - rmse[other][0], drawn - rmse[other][1])
            row |= sample.estimate(*difference).row(name)
        rows.append(row | _on_own_cells(guesses[code], defined[code], cells, sample))
    return rows


def _on_own_cells(guess: np.ndarray, defined: np.ndarray, cells: Cells, sample: Sample) -> Row:
    """The error on all hidden cells where this law has a value, with D = 0 and D2 = 0."""
    group = cells.frame.groupby(["N", "T"]).ngroup().to_numpy()[defined]
    parts = agreement(guess[defined], cells.loss[defined])["rmse"]
    row: Row = {"own_cells": int(defined.sum())}
    return row | sample.estimate(*redrawn(parts, group, sample)).row("own_rmse")


def chosen(found: HeldOut, codes: Sequence[str]) -> str | None:
    """The law with the least error on held-out split fractions, of `codes`; else of any split."""
    for split in (SHARE, TOTAL, SIZE):
        rows = [r for r in found.rows if r["held_out"] == split and r["law"] in codes]
        if rows:
            return min(rows, key=lambda r: r["rmse"])["law"]
    return None
