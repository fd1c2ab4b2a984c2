"""The best split of every size and total: observed, predicted by every law, and what it costs to
follow the law.

A law chooses among the fractions that were trained, so that its choice has an observed loss; the
regret is that loss minus the lowest one. The lowest is chosen on the same noise, so a regret is
rather too large than too small.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from stepladder.analysis.decide.split import FLAT, INTERIOR, Split, best_split
from stepladder.analysis.studies.split.measures import Row
from stepladder.analysis.studies.split.measures.cells import Cells, Curve, Estimate, Sample
from stepladder.analysis.studies.split.measures.held_out import SIZE, TOTAL, HeldOut
from stepladder.analysis.studies.split.measures.laws import Fitted, LawFits

ALL = "all cells"
_GRID = 241  # shares at which redrawn laws are compared
_REACH = 8.0  # of them, in the logit
_LIKE = 1e-9  # relative difference of losses that is none


def observed_rows(cells: Cells, sample: Sample) -> list[Row]:
    """A row a size and total: the best fraction, and those within one standard error of it."""
    draws = sample.draws(cells)
    rows: list[Row] = []
    for curve in cells.curves():
        loss, se = cells.loss[curve.at], cells.se[curve.at]
        best = int(loss.argmin())
        known = bool(np.isfinite(se).all())
        reach = np.sqrt(se**2 + se[best] ** 2) if known else np.zeros(len(loss))
        near = curve.s[loss - loss[best] <= reach]
        place = curve.s[draws[:, curve.at].argmin(1)]
        row: Row = {**curve.key, "T_per_N": curve.T / curve.N, "fractions": len(curve.s)}
        row |= sample.estimate(curve.s[best], place, known=known).row("s")
        row |= sample.estimate(loss[best], draws[:, curve.at[best]], known=known).row("loss")
        edge = best in (0, len(curve.s) - 1)
        rows.append(
            row
            | {"near": near.tolist(), "flat": len(near) > 1, "edge": edge, "interval": cells.how}
        )
    return rows


def predicted_rows(cells: Cells, fits: LawFits, held: HeldOut, sample: Sample) -> list[Row]:
    """A row a law, size and total: the predicted optimum, the choice, its regret.

    fit: ALL, or the split of held_out.py whose cells the law did not see.
    """
    draws = sample.draws(cells)
    rows: list[Row] = []
    for code, one in fits.pooled.items():
        for curve in cells.curves():
            drawn = fits.draws.get(code)
            rows.append(_row(one, ALL, curve, cells, draws, one.theta, drawn, sample))
        for split in (SIZE, TOTAL):
            if split not in held.folds:
                continue
            hidden, theta = held.folds[split][0], held.thetas[split, code][0]
            if not np.isfinite(theta).all():
                continue
            rows += [
                _row(one, split, curve, cells, draws, theta, None, sample)
                for curve in cells.curves()
                if hidden[curve.at].all()
            ]
    return rows


def regret_rows(cells: Cells, predicted: list[Row], sample: Sample) -> list[Row]:
    """A row a law and fit: the mean regret over sizes and totals, jointly redrawn."""
    draws = sample.draws(cells)
    known = bool(np.isfinite(cells.se).all())
    curves = {(c.N, c.T): c for c in cells.curves()}
    rows: list[Row] = []
    for key in dict.fromkeys((r["law"], r["fit"]) for r in predicted):
        mine = [r for r in predicted if (r["law"], r["fit"]) == key and r["choice"] is not None]
        if not mine:
            continue
        values, drawn = [], []
        for r in mine:
            curve = curves[r["N"], r["T"]]
            at, best = _places(curve, r["choice"], cells)
            values.append(cells.loss[at] - cells.loss[best])
            drawn.append(draws[:, at] - draws[:, curve.at].min(1))
        row: Row = {"law": key[0], "fit": key[1], "curves": len(mine)}
        row["largest"] = float(max(values))
        mean = np.mean(drawn, axis=0)
        row |= _regret(float(np.mean(values)), mean, sample, known).row("regret")
        row["right"] = sum(r["among_near"] for r in mine)
        rows.append(row)
    return rows


def split_of(one: Fitted, n: float, tokens: float, general: float, special: float) -> Split:
    """The optimum of a fitted law at a size and a budget."""
    return best_split(
        lambda d, d2: one.loss(np.full(np.shape(d), n), d, d2), tokens, general, special
    )


def share_draws(
    one: Fitted, n: float, tokens: float, general: float, special: float, theta: np.ndarray
) -> np.ndarray:
    """The best share D / (D + D2) of redrawn laws theta [B, P]: [B].

    On a grid with both ends, and by a parabola through the lowest three points inside.
    """
    u = np.linspace(-_REACH, _REACH, _GRID)
    d, d2 = tokens / general / (1 + np.exp(-u)), tokens / special / (1 + np.exp(u))
    d, d2 = np.r_[0.0, d, tokens / general], np.r_[tokens / special, d2, 0.0]
    loss = one.loss(np.full(len(d), n), d, d2, theta)
    loss = np.where(np.isfinite(loss), loss, np.inf)
    best = loss.argmin(1)
    inside = np.clip(best, 2, _GRID - 1)  # of the places 1 .. _GRID of the grid's own points
    row = np.arange(len(loss))
    before, lowest, after = (loss[row, inside + k] for k in (-1, 0, 1))
    with np.errstate(all="ignore"):
        step = 0.5 * (before - after) / (before - 2 * lowest + after)
    at = u[inside - 1] + np.clip(np.nan_to_num(step), -0.5, 0.5) * (u[1] - u[0])
    d_at, d2_at = 1 / general / (1 + np.exp(-at)), 1 / special / (1 + np.exp(at))
    return np.where(best == inside, d_at / (d_at + d2_at), (d / (d + d2))[best])


def _row(
    one: Fitted,
    fit: str,
    curve: Curve,
    cells: Cells,
    draws: np.ndarray,
    theta: np.ndarray,
    drawn: np.ndarray | None,
    sample: Sample,
) -> Row:
    row: Row = {"law": one.code, "fit": fit, **curve.key}
    found = best_split(lambda d, d2: one.loss(np.full(np.shape(d), curve.N), d, d2, theta), curve.T)
    shares = (
        share_draws(one, curve.N, curve.T, 1, 1, drawn) if drawn is not None else np.array([np.nan])
    )
    row |= sample.estimate(found.share, shares, known=drawn is not None).row("s")
    row["state"] = found.state
    guess = one.predict(cells, theta)[curve.at]
    good = np.isfinite(guess)
    if found.state == FLAT or not good.any():
        return row | {"choice": None, "among_near": False, **_no_regret()}
    # Fractions the law cannot tell apart are no choice of it.
    lowest = guess[good].min()
    same = good & (np.where(good, guess, np.inf) <= lowest * (1 + _LIKE))
    at, best = _places(curve, float(curve.s[same][0]), cells)
    known = bool(np.isfinite(cells.se[curve.at]).all())
    regret = _regret(
        float(cells.loss[at] - cells.loss[best]),
        draws[:, at] - draws[:, curve.at].min(1),
        sample,
        known,
    )
    error = np.sqrt(cells.se[at] ** 2 + cells.se[best] ** 2) if known else 0.0
    within = cells.loss[at] - cells.loss[best] <= error
    return (
        row | {"choice": float(curve.s[same][0]), "among_near": bool(within)} | regret.row("regret")
    )


def _regret(value: float, draws: np.ndarray, sample: Sample, known: bool) -> Estimate:
    """A regret with its interval, in which every redrawn curve has its own lowest loss.

    The redrawn ones are never negative and rather too large, so the interval reaches down to the
    value at least.
    """
    found = sample.estimate(value, draws, known=known)
    return replace(found, low=min(found.low, value)) if np.isfinite(found.low) else found


def _no_regret() -> Row:
    return {"regret": None, "regret_low": None, "regret_high": None}


def _places(curve: Curve, share: float, cells: Cells) -> tuple[int, int]:
    """The rows of the chosen and of the best cell."""
    at = curve.at[int(np.abs(curve.s - share).argmin())]
    return int(at), int(curve.at[cells.loss[curve.at].argmin()])


def corner_laws(predicted: list[Row]) -> Mapping[str, list[str]]:
    """Law -> the states of its optima, of the laws that never have an interior one."""
    out: dict[str, list[str]] = {}
    for code in dict.fromkeys(r["law"] for r in predicted):
        states = [r["state"] for r in predicted if r["law"] == code and r["fit"] == ALL]
        if states and INTERIOR not in states:
            out[code] = sorted(set(states))
    return out
