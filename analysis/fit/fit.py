"""Fit one law to a table of points: several starts, one program.

The fit says plainly what the points do and do not identify.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from stepladder.analysis.fit.describe import describe
from stepladder.analysis.fit.objective import objective_named
from stepladder.analysis.fit.prepare import Prepared, prepare
from stepladder.analysis.fit.result import Fit
from stepladder.analysis.fit.solve import solve
from stepladder.analysis.fit.starts import starts_named
from stepladder.configs.core.errors import UserError


def fit(
    points: pd.DataFrame,
    law: str = "chinchilla",
    *,
    objective: str = "huber_log",
    delta: float = 1e-3,
    tau: float = 0.5,
    loss: str | None = None,
    weights: str | None = None,
    unidentified: str = "refuse",
    fixed: Mapping[str, float] | None = None,
    starts: str = "spread",
) -> Fit:
    """Fit `law` to the columns of its inputs and its output.

    The default is Hoffmann's objective (arXiv 2203.15556): Huber at 1e-3 on log loss, summed.

    Args:
        points: a row a point.
        law: a name of `analysis.laws.LAWS`.
        objective: a name of `analysis.fit.objective.OBJECTIVES`, or its short name.
        delta: Huber's threshold, in log output.
        tau: the quantile, for an objective that fits one.
        loss: the column of the output, where it is not called as the law calls it.
        weights: a column of weights, 0 for a point that does not count.
        unidentified: "refuse" a table that cannot identify the parameters, or "report" which ones
            it leaves open.
        fixed: parameters to hold at values in the units of the data, e.g. of another family.
        starts: a name of `analysis.fit.starts.STARTS`.

    Returns:
        The lowest minimum over all starts, with its errors and notes.

    Raises:
        UserError: for an unknown name, a bad table, or one that cannot identify the parameters.
    """
    problem = prepare(
        points, law, loss=loss, weights=weights, unidentified=unidentified, fixed=fixed
    )
    return fit_prepared(problem, objective=objective, delta=delta, tau=tau, starts=starts)


def fit_prepared(
    p: Prepared,
    *,
    objective: str = "huber_log",
    delta: float = 1e-3,
    tau: float = 0.5,
    starts: str = "spread",
) -> Fit:
    """`fit` for a problem that was already centred."""
    goal = objective_named(objective)
    if not 0 < tau < 1:
        raise UserError(f"tau={tau}: must lie between 0 and 1; 0.5 is the median")
    if p.fixed and starts != "spread":  # a grid has values of its own for them
        raise UserError(f"starts={starts!r}: not with parameters held fixed; use 'spread'")
    begin = starts_named(starts)(p.law, p.x, p.y, p.w, np.array(p.centre), p.scale)
    begin, which = np.unique(begin, axis=0, return_inverse=True)  # equal starts are solved once
    smoothing = goal.solver_delta(delta)
    found = solve(p.law, goal.name, smoothing, p.x, p.y, p.w, begin, tau=tau, free=p.free)
    found = found.take(which.ravel())
    if not np.isfinite(found.value).any():
        raise UserError(
            f"law={p.law.name}: no start has a finite objective; check the units of the columns or "
            "fit a smaller law"
        )
    return describe(p, found, goal.name, delta, tau)
