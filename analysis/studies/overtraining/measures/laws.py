"""Laws of Delta and of the loss after a change, and how well they predict what they did not see.

Delta = k gamma^p (T / N)^q, twice: log-linear (least squares of ln Delta) and nonlinear (least
squares of Delta). The loss after the change: `ushape` (one size, one strength), `perturbed` (all
sizes and strengths at once), `shannon` (all sizes, one strength; arXiv 2605.23901), and the
measured loss before the change plus the log-linear law of Delta. Two things are held out in turn,
the largest budget of every size and the largest size. Beside the laws stands the nearest cell that
was seen: a law that is no better has learned nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from stepladder.analysis.fit.bootstrap import Bootstrap, bootstrap
from stepladder.analysis.fit.fit import fit
from stepladder.analysis.fit.result import Fit
from stepladder.analysis.studies.overtraining.changes import SEPARATE, size_of
from stepladder.analysis.studies.overtraining.measures import Row
from stepladder.analysis.studies.overtraining.measures.cells import Estimate, Grid, Sample
from stepladder.configs.core.errors import UserError

LOG_LINEAR, NONLINEAR = "log-linear", "nonlinear"
_OBJECTIVES = {LOG_LINEAR: "squared_log", NONLINEAR: "squared"}
LAWS = ("sensitivity", "ushape", "perturbed", "shannon")
BUDGET, SIZE = "largest budget of every size", "largest size"
NEAREST = "the nearest cell seen"
_PER = {"ushape": ["N", "gamma"], "perturbed": [], "shannon": ["gamma"]}  # what one fit is of
_COMPARED = 3  # strengths at which laws of one strength are compared
_REFITS = 300
_FEWEST = 3  # held-out cells for an interval


@dataclass(frozen=True)
class LawResults:
    """params: a row a fit; held_out: a row a law and split; minima: T* by the law `perturbed`."""

    params: list[Row]
    held_out: list[Row]
    minima: list[Row]
    missing: list[str]


def law_results(grids: Sequence[Grid], sample: Sample, laws: Sequence[str] = LAWS) -> LawResults:
    """Fit and compare the laws on every family of changes of the arm "separate".

    What cannot be fitted stands in `missing` with its reason.
    """
    found = LawResults([], [], [], [])
    mine = [g for g in grids if g.arm == SEPARATE]
    if not mine:
        found.missing.append(f"laws: no row of the arm {SEPARATE}; laws are of separate runs only")
    for family in dict.fromkeys(g.family for g in mine):
        cells = _cells([g for g in mine if g.family == family])
        _delta_law(family, cells, sample, laws, found)
        _loss_laws(family, cells, sample, laws, found)
    return found


def _cells(grids: Sequence[Grid]) -> pd.DataFrame:
    rows = [
        {
            "N": g.N,
            "D": g.D[i],
            "strength": s,
            "gamma": size_of(g.family, s),
            "loss": g.mean("loss")[i, j],
            "delta": g.mean("delta")[i, j],
            "base": g.mean("base_loss")[i, j],
        }
        for g in grids
        for j, s in enumerate(g.strengths)
        for i in np.flatnonzero(g.seeds[:, j])
    ]
    return pd.DataFrame(rows)


def _delta_law(
    family: str, cells: pd.DataFrame, sample: Sample, laws: Sequence[str], found: LawResults
) -> None:
    if "sensitivity" not in laws:
        return
    good = cells[cells["delta"] > 0]
    if len(good) < len(cells):
        found.missing.append(
            f"{family}: {len(cells) - len(good)} of {len(cells)} cells have a Delta of 0 or less "
            "and no logarithm: they are not in the law of Delta"
        )
    for form, objective in _OBJECTIVES.items():

        def fitted(rows: pd.DataFrame, objective: str = objective) -> Fit:
            return fit(rows, "sensitivity", objective=objective)

        whole = _try(lambda rows=good: fitted(rows), f"{family}: Delta, {form}", found.missing)
        if whole is None:
            return
        found.params.append(_params(family, f"Delta, {form}", whole, good, sample))
        for split, hidden in _splits(good).items():
            if not hidden.any():
                continue
            name = f"{family}: Delta, {form}, without the {split}"
            part = _try(lambda rows=good[~hidden]: fitted(rows), name, found.missing)
            if part is None:
                continue
            held = good[hidden]
            guess = part.predict(**_inputs(part, held))
            error = np.log(np.asarray(guess, float) / held["delta"].to_numpy())
            plain = np.log(_nearest(good[~hidden], held, "delta") / held["delta"].to_numpy())
            row = {
                "change": family,
                "of": "delta",
                "law": f"sensitivity, {form}",
                "held_out": split,
            }
            found.held_out.append(row | _errors(error, plain, sample))


def _loss_laws(
    family: str, cells: pd.DataFrame, sample: Sample, laws: Sequence[str], found: LawResults
) -> None:
    strengths = np.sort(cells["gamma"].unique())
    some = np.unique(np.linspace(0, len(strengths) - 1, min(len(strengths), _COMPARED)).round())
    compared = cells["gamma"].isin(strengths[some.astype(int)]).to_numpy()
    for split, hidden in _splits(cells).items():
        held = cells[hidden & compared]
        if not len(held):
            continue
        truth, seen = held["loss"].to_numpy(), cells[~hidden]
        plain = _nearest(seen, held, "loss") - truth
        for law in (name for name in _PER if name in laws):
            if law == "ushape" and split == SIZE:
                continue  # it is of one size
            guess = _predictions(family, law, split, seen, held, found.missing)
            if guess is None:
                continue
            row = {"change": family, "of": "loss", "law": law, "held_out": split}
            found.held_out.append(row | _errors(guess - truth, plain, sample))
        if "sensitivity" in laws:
            _base_and_delta(family, split, seen, held, plain, sample, found)
    if "perturbed" in laws:
        whole = _try(
            lambda: fit(cells, "perturbed", objective="squared_log"),
            f"{family}: loss, perturbed",
            found.missing,
        )
        if whole is not None:
            again = _refits(whole, cells, sample)
            found.params.append(_row_of(family, "loss, perturbed", whole, again, sample))
            found.minima.extend(_minima(family, cells, whole, again, sample))


def _base_and_delta(
    family: str,
    split: str,
    seen: pd.DataFrame,
    held: pd.DataFrame,
    plain: np.ndarray,
    sample: Sample,
    found: LawResults,
) -> None:
    """The measured loss before the change, plus Delta by its law."""
    good = seen[seen["delta"] > 0]
    name = f"{family}: loss, base + sensitivity, without the {split}"
    part = _try(lambda: fit(good, "sensitivity", objective="squared_log"), name, found.missing)
    if part is None:
        return
    guess = held["base"].to_numpy() + part.predict(**_inputs(part, held))
    row = {"change": family, "of": "loss", "law": "base + sensitivity", "held_out": split}
    error = guess - held["loss"].to_numpy()
    found.held_out.append(row | _errors(error, plain, sample))


def _predictions(
    family: str,
    law: str,
    split: str,
    seen: pd.DataFrame,
    held: pd.DataFrame,
    missing: list[str],
) -> np.ndarray | None:
    """Predictions at all held-out cells [n]; None where one of the fits is not possible."""
    guess = np.full(len(held), np.nan)
    for _, rows in held.groupby(_PER[law]) if _PER[law] else [((), held)]:
        mine = seen
        for name in _PER[law]:
            mine = mine[mine[name] == rows[name].iloc[0]]
        at = " ".join(f"{name}={rows[name].iloc[0]:g}" for name in _PER[law])
        name = f"{family}: loss, {law} {at}".strip() + f", without the {split}"
        part = _try(lambda m=mine: fit(m, law, objective="squared_log"), name, missing)
        if part is None:
            return None
        guess[held.index.get_indexer(rows.index)] = part.predict(**_inputs(part, rows))
    return guess


def _splits(cells: pd.DataFrame) -> dict[str, np.ndarray]:
    """What is hidden in each split [n]; nothing where nothing would be left."""
    last = (cells["D"] == cells.groupby("N")["D"].transform("max")).to_numpy()
    large = (cells["N"] == cells["N"].max()).to_numpy()
    nothing = np.zeros(len(cells), bool)
    return {
        BUDGET: nothing if last.all() else last,
        SIZE: nothing if cells["N"].nunique() < 2 else large,
    }


def _nearest(seen: pd.DataFrame, held: pd.DataFrame, name: str) -> np.ndarray:
    """The value of the seen cell of equal strength that is nearest in ln N, then in ln (D / N)."""
    out = []
    for n, d, gamma in held[["N", "D", "gamma"]].to_numpy(float):
        mine = seen[seen["gamma"] == gamma]
        if not len(mine):
            out.append(np.nan)
            continue
        far = np.abs(np.log(mine["N"].to_numpy() / n))
        ratio = np.abs(np.log(mine["D"].to_numpy() / mine["N"].to_numpy() / (d / n)))
        out.append(mine[name].to_numpy()[np.lexsort((ratio, far))[0]])
    return np.array(out, float)


def _errors(error: np.ndarray, plain: np.ndarray, sample: Sample) -> Row:
    """Root mean square of the errors, those of the nearest cell, and the first minus the second;
    intervals resample the held-out cells.
    """
    both = np.isfinite(error) & np.isfinite(plain)
    error, plain = error[both], plain[both]
    rng = np.random.default_rng(sample.seed)
    pick = rng.integers(0, max(len(error), 1), (sample.resamples, len(error)))
    known = len(error) >= _FEWEST

    def rms(values: np.ndarray) -> np.ndarray:
        return np.sqrt((values**2).mean(-1))

    row: Row = {"cells": len(error)}
    if not len(error):
        return row | Estimate(np.nan).row("error")
    row |= sample.estimate(float(rms(error)), rms(error[pick]), known=known).row("error")
    row |= sample.estimate(float(rms(plain)), rms(plain[pick]), known=known).row("nearest")
    gain = rms(error[pick]) - rms(plain[pick])
    return row | sample.estimate(float(rms(error) - rms(plain)), gain, known=known).row("above")


def _params(family: str, name: str, found: Fit, cells: pd.DataFrame, sample: Sample) -> Row:
    return _row_of(family, name, found, _refits(found, cells, sample), sample)


def _row_of(family: str, name: str, found: Fit, again: Bootstrap | None, sample: Sample) -> Row:
    spans: Mapping[str, tuple[float, float]] = {}
    if again is not None:
        ends = again.interval(sample.level)
        spans = {str(k): (float(r["low"]), float(r["high"])) for k, r in ends.iterrows()}
    return {
        "change": family,
        "law": name,
        "points": found.points,
        "residual_sd": found.residual_sd,
        "params": dict(found.params),
        "intervals": dict(spans),
        "notes": list(found.notes)
        + ([] if again is not None else ["no interval: too few models to resample"]),
    }


def _refits(found: Fit, cells: pd.DataFrame, sample: Sample) -> Bootstrap | None:
    """Refits of resampled pretrained models (a budget and size with all its strengths)."""
    clusters = [f"{n:g} {d:g}" for n, d in zip(cells["N"], cells["D"])]
    try:
        return bootstrap(found, min(sample.resamples, _REFITS), sample.seed, clusters)
    except UserError:
        return None  # said in the row's notes


def _minima(
    family: str, cells: pd.DataFrame, found: Fit, again: Bootstrap | None, sample: Sample
) -> list[Row]:
    """Where the law `perturbed` has its minimum: beta B N^q / (q K gamma^p) = T*^(beta + q)."""

    def place(p: Mapping[str, np.ndarray], n: float, g: float) -> np.ndarray:
        with np.errstate(all="ignore"):
            top = np.log(p["beta"] * p["B"] / (p["q"] * p["K"])) + p["q"] * np.log(n)
            return np.exp((top - p["p"] * np.log(g)) / (p["beta"] + p["q"]))

    rows = []
    for n, g, s in sorted(set(zip(cells["N"], cells["gamma"], cells["strength"]))):
        value = float(place({k: np.asarray(v) for k, v in found.params.items()}, n, g))
        drawn = (
            np.array([np.nan])
            if again is None
            else place({str(k): again.params[k].to_numpy() for k in again.params}, n, g)
        )
        largest = cells.loc[cells["N"] == n, "D"].max()
        row: Row = {"change": family, "N": n, "strength": s, "within": value <= largest}
        row |= sample.estimate(value, drawn, known=again is not None).row("T_star")
        rows.append(row | {"tokens_per_parameter": value / n})
    return rows


def _inputs(found: Fit, rows: pd.DataFrame) -> dict[str, np.ndarray]:
    return {name: rows[name].to_numpy(float) for name in found.problem.law.inputs}


def _try(make: Callable[[], Fit], what: str, missing: list[str]) -> Fit | None:
    try:
        return make()
    except UserError as error:
        missing.append(f"{what}: {error}")
        return None
