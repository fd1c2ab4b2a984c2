"""How to divide a budget under the three ways to count it, for every law; and the check against the
closed forms.
"""

import math

import numpy as np

from stepladder.analysis.decide.split import ACCOUNTINGS, best_split, closed_form_ratio
from stepladder.analysis.studies.split.measures import Row
from stepladder.analysis.studies.split.measures.best_split import share_draws, split_of
from stepladder.analysis.studies.split.measures.cells import Cells, Sample
from stepladder.analysis.studies.split.measures.laws import LawFits

SEPARATE = "H1"  # the law with closed forms


def allocation_rows(cells: Cells, fits: LawFits, sample: Sample) -> list[Row]:
    """A row a law, accounting, size and budget.

    The budget is C = 6 N T for the totals T of the table; K separate seeds then have T / K each.
    """
    rows: list[Row] = []
    k = cells.experts
    for code, one in fits.pooled.items():
        drawn = fits.draws.get(code)
        for name, counted in ACCOUNTINGS.items():
            general, special = counted.general(k), counted.special(k)
            for curve in cells.curves():
                found = split_of(one, curve.N, curve.T, general, special)
                row: Row = {"law": code, "accounting": name, **curve.key}
                row |= {"C": 6 * curve.N * curve.T, "D": found.D, "D2": found.D2}
                shares = (
                    share_draws(one, curve.N, curve.T, general, special, drawn)
                    if drawn is not None
                    else np.array([np.nan])
                )
                row |= sample.estimate(found.share, shares, known=drawn is not None).row("s")
                at = [np.array([v]) for v in (curve.N, found.D, found.D2)]
                loss = math.nan if math.isnan(found.D) else float(one.loss(*at)[0])
                rows.append(
                    row | {"state": found.state, "loss": loss} | _inside(cells, found.D, found.D2)
                )
    return rows


def _inside(cells: Cells, d: float, d2: float) -> Row:
    """Whether an optimum lies among the tokens that were trained."""
    frame = cells.frame
    inside = (
        frame["D"].min() <= d <= frame["D"].max() and frame["D2"].min() <= d2 <= frame["D2"].max()
    )
    return {"within": bool(inside)}


def check_rows(cells: Cells, fits: LawFits) -> list[Row]:
    """The numerical optimum of H1 without offsets and with one exponent, beside the closed form.

    The coefficients are those of the fit; the exponent is the geometric mean of its two.
    """
    if SEPARATE not in fits.pooled:
        return []
    p = fits.pooled[SEPARATE].fit.params
    beta, k, tokens = (
        math.sqrt(p["beta"] * p["beta2"]),
        cells.experts,
        float(cells.frame["T"].max()),
    )
    # In units of the budget, so that the two terms are of order one.
    b, b2 = p["B"] / tokens ** p["beta"], p["B2"] / tokens ** p["beta2"]
    rows: list[Row] = []
    for name, counted in ACCOUNTINGS.items():
        general, special = counted.general(k), counted.special(k)
        found = best_split(lambda d, d2: b / d**beta + b2 / d2**beta, 1.0, general, special)
        exact = closed_form_ratio(b, b2, beta, special / general)
        row: Row = {"accounting": name, "numerical": found.D / found.D2, "closed_form": exact}
        rows.append(row | {"relative_difference": abs(found.D / found.D2 / exact - 1)})
    return rows
