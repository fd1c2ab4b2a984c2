"""Where a new run will fall, and profiles of one parameter.

Prediction intervals come from simulated tables.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from stepladder.analysis.fit import simulate
from stepladder.analysis.fit.bootstrap import names_of_points
from stepladder.analysis.fit.levels import check_level, percent, percentile_interval
from stepladder.analysis.fit.objective import objective_named
from stepladder.analysis.fit.result import Fit
from stepladder.analysis.fit.solve import solve
from stepladder.analysis.laws.law import in_units
from stepladder.configs.core.errors import UserError


@dataclass(frozen=True)
class Prediction:
    """The output at one point, and the interval of one new run there.

    `parameter_sd` and `noise_sd` are in logs of the output. `beyond` holds each input over the
    largest one of the points.
    """

    inputs: dict[str, float]
    value: float
    low: float
    high: float
    level: float
    parameter_sd: float
    noise_sd: float
    beyond: dict[str, float]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        where = ", ".join(f"{k} = {v:.4g}" for k, v in self.inputs.items())
        far = ", ".join(
            f"{k} {v:.3g}x the points' largest" for k, v in self.beyond.items() if v > 1
        )
        line = (
            f"{self.value:.5g} [{self.low:.5g}, {self.high:.5g}] ({percent(self.level)}) at {where}"
            + (f"; {far}" if far else "")
        )
        return "\n".join([line, *(f"  note: {note}" for note in self.notes)])


def prediction_interval(
    fit: Fit,
    inputs: pd.DataFrame | Mapping[str, Any],
    level: float = 0.9,
    resamples: int = 400,
    seed: int = 0,
    clusters: Sequence[Any] | None = None,
) -> list[Prediction]:
    """An interval for the output of one new run, at every row of `inputs`.

    Tables are simulated from the fitted law and its residual noise, of unknown size (Student's
    tails), and refitted (simulate.py). The law is taken to hold: a wrong form is not in the
    interval, so hold a size out.

    Args:
        fit: the fitted law.
        inputs: columns, or numbers, of the law's inputs.
        level: of the intervals.
        resamples: how many tables are simulated.
        seed: of the simulation.
        clusters: a name a point; points of one name (a trunk) share a part of their noise.

    Raises:
        UserError: for a missing input, or a fit that leaves no degree of freedom.
    """
    p = fit.problem
    check_level(level)
    if resamples < 50:
        raise UserError(f"resamples={resamples}: too few for an interval; use 50 or more")
    _check_noise(fit)
    if fit.objective.startswith("quantile"):
        raise UserError(
            f"objective={fit.objective!r}: a quantile has no noise to simulate; fit with "
            "'squared_log', or bootstrap the quantile"
        )
    table = pd.DataFrame(
        inputs
        if isinstance(inputs, pd.DataFrame)
        else {k: np.atleast_1d(v) for k, v in inputs.items()}
    )
    for name in p.law.inputs:
        if name not in table:
            raise UserError(
                f"inputs={sorted(map(str, table.columns))}: law {fit.law} needs {name}; add "
                f"{name}=<number>"
            )
    rng = np.random.default_rng(seed)
    names = names_of_points(len(p.y), clusters)
    draws = simulate.simulate(p, fit, names.astype(str), resamples=resamples, rng=rng)
    rows = [{n: float(v) for n, v in zip(p.law.inputs, row)} for row in _rows(table, p.law.inputs)]
    return [_prediction(fit, row, draws, level, rng) for row in rows]


def _rows(table: pd.DataFrame, names: tuple[str, ...]) -> np.ndarray:
    return table[list(names)].to_numpy(float)


def _check_noise(fit: Fit) -> None:
    if fit.points <= fit.rank:
        raise UserError(
            f"points={fit.points}: as many as parameters, so the noise is unknown; add at least "
            "one more point"
        )


def _prediction(
    fit: Fit,
    row: dict[str, float],
    draws: simulate.Resamples,
    level: float,
    rng: np.random.Generator,
) -> Prediction:
    p = fit.problem
    errors, moved = simulate.errors_at(p, fit, draws, row, rng)
    value = float(fit.predict(**row))
    # this definition of a quantile is unbiased in the tails of few draws
    below, above = percentile_interval(errors, level, method="weibull")
    beyond = {
        a.name: float(row[a.name] / np.exp(p.x[:, i].max() + p.centre[i]))
        for i, a in enumerate(p.law.axes)
        if a.kind in ("log", "raw")
    }
    loose = ", ".join(dict.fromkeys((*fit.unidentified, *fit.at_bound)))
    note = f"{loose} not determined by the points: beyond them the interval may be too short"
    return Prediction(
        inputs=row,
        value=value,
        low=float(value * np.exp(below)),
        high=float(value * np.exp(above)),
        level=level,
        parameter_sd=float(np.std(moved)),
        noise_sd=float(np.sqrt(np.mean(draws.sd**2))),
        beyond=beyond,
        notes=(note,) if loose else (),
    )


@dataclass(frozen=True)
class Profile:
    """The objective with one parameter held at a grid of values and all others refitted.

    The interval is by likelihood ratio (F).
    """

    parameter: str
    level: float
    # None: the interval has no end within the grid, so the points do not bound the parameter on
    # this side
    low: float | None
    high: float | None
    limit: float  # of the ratio
    frame: pd.DataFrame  # value, objective, ratio: objective over the least one

    def __str__(self) -> str:
        ends = [f"{v:.5g}" if v is not None else "unbounded" for v in (self.low, self.high)]
        return f"{self.parameter}: {percent(self.level)} profile interval {ends[0]} to {ends[1]}"


def profile(
    fit: Fit, parameter: str, level: float = 0.9, width: float = 8.0, steps: int = 161
) -> Profile:
    """Profile one parameter over `width` linearised standard errors to both sides, in one batch.

    The steps are even in the logarithm of a positive parameter. Only squared objectives have a
    profile: their value is a sum of squares with Gaussian noise, and the interval holds where sum /
    least sum <= 1 + F / (points - rank).

    Raises:
        UserError: for a parameter that is not free, another objective, a level that is no
            probability, or a fit that leaves no degree of freedom.
    """
    from scipy.stats import f as f_distribution

    p, goal = fit.problem, objective_named(fit.objective)
    if parameter not in p.law.parameters or parameter in fit.fixed:
        raise UserError(
            f"parameter={parameter!r}: not a free one; use one of "
            f"{', '.join(n for n in p.law.parameters if n not in fit.fixed)}"
        )
    if goal.name not in ("squared", "squared_log"):
        raise UserError(
            f"objective={fit.objective!r}: is no likelihood; fit with 'squared_log' for a profile, "
            "or bootstrap"
        )
    check_level(level)
    _check_noise(fit)
    i = p.law.parameters.index(parameter)
    positive = p.law.params[i].positive
    grid = _grid(fit.params[parameter], fit.log_se[parameter], positive, width, steps)
    held = in_units(p.law, {parameter: fit.params[parameter]}, np.array(p.centre), p.scale)
    start = np.tile(np.array(fit.theta), (steps, 1))
    start[:, i] = np.log(grid) if positive else grid
    free = np.tile(p.free & (np.arange(len(p.free)) != i), (steps, 1))
    found = solve(held, goal.name, goal.solver_delta(fit.delta), p.x, p.y, p.w, start, free=free)
    cost = found.value * (p.scale**2 if not goal.log else 1.0)
    ratio = cost / min(fit.value, cost.min())
    freedom = fit.points - fit.rank
    limit = 1 + float(f_distribution.ppf(level, 1, freedom)) / freedom
    low, high = _ends(grid, ratio, limit)
    frame = pd.DataFrame({"value": grid, "objective": cost, "ratio": ratio})
    return Profile(parameter, level, low, high, limit, frame)


def _grid(value: float, error: float, positive: bool, width: float, steps: int) -> np.ndarray:
    """Values to hold the parameter at; with an odd number of steps the optimum is one of them."""
    offsets = np.linspace(-1, 1, steps)
    if positive:
        half = np.clip(width * error, 1e-6, 6.0) if np.isfinite(error) else 6.0
        return value * np.exp(offsets * half)
    half = width * error * abs(value)
    return value + offsets * (half if np.isfinite(half) and half > 0 else 6.0)


def _ends(grid: np.ndarray, ratio: np.ndarray, limit: float) -> tuple[float | None, float | None]:
    """Where the ratio crosses the limit on both sides of the optimum; None where it does not.

    The root of ratio - 1 is nearly a straight line on either side, where the sum of squares is a
    parabola.
    """
    root, mark = np.sqrt(np.maximum(ratio - 1, 0)), float(np.sqrt(limit - 1))
    middle = int(np.argmin(ratio))
    below, above = np.flatnonzero(root[:middle] > mark), np.flatnonzero(root[middle:] > mark)
    low = _crossing(grid, root, mark, below[-1], below[-1] + 1) if len(below) else None
    high = (
        _crossing(grid, root, mark, middle + above[0] - 1, middle + above[0])
        if len(above)
        else None
    )
    return low, high


def _crossing(grid: np.ndarray, root: np.ndarray, mark: float, a: int, b: int) -> float:
    return float(grid[a] + (grid[b] - grid[a]) * (mark - root[a]) / (root[b] - root[a]))
