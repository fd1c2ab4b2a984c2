"""Where a new run will fall: prediction intervals from simulated tables, and profiles of one
parameter.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from stepladder.analysis.fit import simulate
from stepladder.analysis.fit.fit import Fit, threshold
from stepladder.analysis.fit.objective import objective
from stepladder.analysis.fit.solve import solve
from stepladder.analysis.laws.law import in_units
from stepladder.configs.core.errors import UserError


@dataclass(frozen=True)
class Prediction:
    """Of one point: fit and interval.

    `parameter_sd` and `noise_sd` are in logs of the output; `beyond` says how far outside of the
    points.
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
            f"{self.value:.5g} [{self.low:.5g}, {self.high:.5g}] ({self.level:.0%}) at {where}"
            + (f"; {far}" if far else "")
        )
        return "\n".join([line, *(f"  note: {note}" for note in self.notes)])


def prediction_interval(
    fit: Fit,
    inputs: pd.DataFrame | dict,
    level: float = 0.9,
    resamples: int = 400,
    seed: int = 0,
    clusters: Sequence | None = None,
) -> list[Prediction]:
    """For every row of `inputs` (columns of the law's inputs) an interval for the output of one new
    run.

    Tables are simulated from the fitted law and its residual noise, of unknown size (Student's
    tails), and refitted (simulate.py). The law is taken to hold: a wrong form is not in it, so hold
    a size out. Raises UserError without a degree of freedom.
    """
    p = fit.problem
    if not 0 < level < 1:
        raise UserError(f"level={level}: must lie between 0 and 1, e.g. 0.9")
    if fit.points <= fit.rank:
        raise UserError(
            f"points={fit.points}: as many as parameters, so the noise is unknown; add at least "
            "one more point"
        )
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
    names = (
        np.arange(len(p.y)).astype(str)
        if clusters is None
        else np.asarray(list(clusters)).astype(str)
    )
    draws = simulate.simulate(p, fit, names, resamples=resamples, rng=rng)
    loose = [*fit.unidentified, *fit.at_bound]
    notes = (
        (
            (
                f"{', '.join(dict.fromkeys(loose))} not determined by the points: beyond them the "
                "interval may be too short"
            ),
        )
        if loose
        else ()
    )
    out = []
    for row in table[list(p.law.inputs)].to_dict("records"):
        errors, moved = simulate.errors_at(p, fit, draws, row, rng)
        value = float(fit.predict(**row))
        # unbiased in the tails of few draws
        below, above = np.quantile(errors, [(1 - level) / 2, (1 + level) / 2], method="weibull")
        logs = {
            a.name: (a.kind in ("log", "raw"), p.x[:, i].max() + p.centre[i])
            for i, a in enumerate(p.law.axes)
        }
        beyond = {k: float(row[k] / np.exp(top)) for k, (log, top) in logs.items() if log}
        out.append(
            Prediction(
                row,
                value,
                float(value * np.exp(below)),
                float(value * np.exp(above)),
                level,
                float(np.std(moved)),
                float(np.sqrt(np.mean(draws.sd**2))),
                beyond,
                notes,
            )
        )
    return out


@dataclass(frozen=True)
class Profile:
    """The objective with one parameter held at a grid of values and all others refitted; the
    interval by likelihood ratio (F).
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
        return f"{self.parameter}: {self.level:.0%} profile interval {ends[0]} to {ends[1]}"


def profile(
    fit: Fit, parameter: str, level: float = 0.9, width: float = 8.0, steps: int = 161
) -> Profile:
    """Profile one parameter over `width` linearised standard errors to both sides (of its logarithm
    where it is positive), in one batch.

    Only for squared objectives, whose value is a sum of squares with Gaussian noise: sum / least
    sum <= 1 + F / (points - rank). Raises UserError.
    """
    from scipy.stats import f as f_distribution

    p, spec = fit.problem, objective(fit.objective)
    if parameter not in p.law.parameters or parameter in fit.fixed:
        raise UserError(
            f"parameter={parameter!r}: not a free one; use one of "
            f"{', '.join(n for n in p.law.parameters if n not in fit.fixed)}"
        )
    if spec.name not in ("squared", "squared_log"):
        raise UserError(
            f"objective={fit.objective!r}: is no likelihood; fit with 'squared_log' for a profile, "
            "or bootstrap"
        )
    if fit.points <= fit.rank:
        raise UserError(
            f"points={fit.points}: as many as parameters, so the noise is unknown; add at least "
            "one more point"
        )
    i, value = p.law.parameters.index(parameter), fit.params[parameter]
    positive = p.law.params[i].positive
    sigma = fit.log_se[parameter]
    offsets = np.linspace(-1, 1, steps)  # an odd number of them: the optimum is one
    if positive:
        grid = value * np.exp(
            offsets * (np.clip(width * sigma, 1e-6, 6.0) if np.isfinite(sigma) else 6.0)
        )
    else:
        half = width * sigma * abs(value)
        grid = value + offsets * (half if np.isfinite(half) and half > 0 else 6.0)
    held = in_units(p.law, {parameter: value}, np.array(p.centre), p.scale)
    start = np.tile(np.array(fit.theta), (steps, 1))
    start[:, i] = np.log(grid) if positive else grid
    free = np.tile(p.free & (np.arange(len(p.free)) != i), (steps, 1))
    found = solve(held, spec.name, threshold(spec, fit.delta), p.x, p.y, p.w, start, free=free)
    cost = found.value * (p.scale**2 if not spec.log else 1.0)
    ratio = cost / min(fit.value, cost.min())
    limit = 1 + f_distribution.ppf(level, 1, fit.points - fit.rank) / (fit.points - fit.rank)
    middle = int(np.argmin(ratio))
    # The root is nearly a straight line on either side of the optimum, where the sum of squares is
    # a parabola.
    root, mark = np.sqrt(np.maximum(ratio - 1, 0)), np.sqrt(limit - 1)
    below, above = np.flatnonzero(root[:middle] > mark), np.flatnonzero(root[middle:] > mark)
    low = _crossing(grid, root, mark, below[-1], below[-1] + 1) if len(below) else None
    high = (
        _crossing(grid, root, mark, middle + above[0] - 1, middle + above[0])
        if len(above)
        else None
    )
    return Profile(
        parameter,
        level,
        low,
        high,
        float(limit),
        pd.DataFrame({"value": grid, "objective": cost, "ratio": ratio}),
    )


def _crossing(grid: np.ndarray, root: np.ndarray, mark: float, a: int, b: int) -> float:
    return float(grid[a] + (grid[b] - grid[a]) * (mark - root[a]) / (root[b] - root[a]))
