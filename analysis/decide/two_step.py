"""The two-step ladder (arXiv 2412.04403): task loss from (N, D), then accuracy from it.

Intervals resample runs for both steps at once.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from stepladder.analysis.fit.fit import fit
from stepladder.analysis.fit.levels import check_level, percent, percentile_interval
from stepladder.analysis.fit.result import Fit
from stepladder.analysis.fit.solve import solve
from stepladder.analysis.laws import LAWS, law_named
from stepladder.analysis.tables.checks import require_columns
from stepladder.configs.core.errors import UserError, nearest

# How accuracy enters a second step and comes back, by the output of its law: Gadre's form
# (2403.08540) is of the error.
ACCURACY: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "Acc": lambda v: v,
    "Err": lambda v: 1 - v,
}


@dataclass(frozen=True)
class Accuracy:
    """Task loss and accuracy at one point, each with an interval for one new run.

    The intervals hold the errors of the parameters and the noise of both steps.
    """

    inputs: dict[str, float]
    loss: float
    loss_low: float
    loss_high: float
    accuracy: float
    low: float
    high: float
    level: float
    resamples: int  # that entered the interval
    lost: int  # that lost sizes, durations or losses without which a step is not identified
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        where = ", ".join(f"{k} = {v:.4g}" for k, v in self.inputs.items())
        lines = [
            f"accuracy {self.accuracy:.4f} [{self.low:.4f}, {self.high:.4f}] "
            f"({percent(self.level)}) at {where}, from task loss {self.loss:.5g} "
            f"[{self.loss_low:.5g}, {self.loss_high:.5g}]"
        ]
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])


@dataclass(frozen=True)
class TwoStep:
    """The two fits. `runs` names the run of every point of each step: resampling draws runs."""

    first: Fit
    second: Fit
    runs: tuple[np.ndarray, np.ndarray] = field(repr=False)
    losses: tuple[float, float]  # the range of task loss that the second step has seen
    notes: tuple[str, ...]

    def predict(
        self, *, level: float = 0.9, resamples: int = 1000, seed: int = 0, **inputs: float
    ) -> Accuracy:
        """Task loss and accuracy at inputs of the first law.

        E.g. `found.predict(N=7e9, D=4e12)`.

        Every resample draws runs with replacement, refits both steps with it and sends the new
        run's noise through them. Raises UserError for a missing input or when most resamples cannot
        identify a step.
        """
        check_level(level)
        if resamples < 50:
            raise UserError(f"resamples={resamples}: too few for an interval; use 50 or more")
        loss = float(self.first.predict(**inputs))
        weights, lost = self._weights(resamples, seed)
        one, two = (_refit(f, w) for f, w in zip((self.first, self.second), weights))
        good = np.isfinite(one).all(1) & np.isfinite(two).all(1)
        losses, accuracies = self._drawn(one[good], two[good], loss, seed, inputs)
        loss_low, loss_high = percentile_interval(losses, level)
        low, high = np.clip(percentile_interval(accuracies, level), 0.0, 1.0)
        return Accuracy(
            inputs=inputs,
            loss=loss,
            loss_low=loss_low,
            loss_high=loss_high,
            accuracy=float(self._accuracy(np.array(self.second.theta), loss)),
            low=float(low),
            high=float(high),
            level=level,
            resamples=int(good.sum()),
            lost=lost,
            notes=(*self.notes, *self._beyond(loss)),
        )

    def _drawn(
        self,
        one: np.ndarray,
        two: np.ndarray,
        loss: float,
        seed: int,
        inputs: Mapping[str, float],
    ) -> tuple[np.ndarray, np.ndarray]:
        """Task losses and accuracies [K] of a new run in the worlds of the refits.

        `one` and `two` are theta [K, P] of the two steps.
        """
        rng, many = np.random.default_rng([seed, 1]), len(one)
        first, second = self.first, self.second
        moved = np.log(first.problem.predict(one, **inputs) / loss)
        moved = moved * _inflation(first, self.runs[0])
        noise = first.residual_sd * rng.standard_t(first.points - first.rank, many)
        at = loss * np.exp(moved + noise)
        middle = self._accuracy(np.array(second.theta), at)
        spread = (self._accuracy(two, at) - middle) * _inflation(second, self.runs[1])
        noise = second.residual_sd * rng.standard_t(second.points - second.rank, many)
        return at, middle + spread + noise

    def _beyond(self, loss: float) -> list[str]:
        lowest, highest = self.losses
        ends = [("lowest", lowest)] * (loss < lowest) + [("highest", highest)] * (loss > highest)
        return [
            f"task loss {loss:.4g} lies beyond the {end} of the second step ({value:.4g}): the "
            "curve is extrapolated"
            for end, value in ends
        ]

    def _accuracy(self, theta: np.ndarray, loss: np.ndarray | float) -> np.ndarray:
        """Accuracy of theta [P] or [K, P] at losses, elementwise."""
        p = self.second.problem
        x = p.law.to_solver_inputs(np.atleast_1d(loss)[:, None], np.array(p.centre))[:, 0]
        values = SimpleNamespace(**p.law.values(np, theta))
        out = ACCURACY[p.law.output](p.law.formula_fn(np, values, x) * p.scale)
        return out if np.ndim(loss) else out[0]

    def _weights(self, resamples: int, seed: int) -> tuple[tuple[np.ndarray, np.ndarray], int]:
        """Weights [K, n] of the points of both steps from the same resampled runs.

        Resamples that lose what a law needs are left out, and counted.
        """
        names = np.unique(np.concatenate(self.runs))
        counts = (
            np.random.default_rng(seed)
            .multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
            .astype(float)
        )
        many = [counts[:, np.searchsorted(names, runs)] for runs in self.runs]
        keep = np.ones(resamples, bool)
        for found, w in zip((self.first, self.second), many):
            p = found.problem
            keep &= (w > 0).sum(1) >= p.free.sum()
            for i, axis in enumerate(p.law.axes):
                value = np.unique(np.round(p.x[:, i], 6), return_inverse=True)[1]
                seen = np.stack([(w[:, value == v] > 0).any(1) for v in range(value.max() + 1)], 1)
                keep &= seen.sum(1) >= axis.distinct
        if keep.sum() < resamples / 2:
            raise UserError(
                f"runs={len(names)}: {resamples - keep.sum()} of {resamples} resamples lose sizes "
                "or durations that a step needs; add runs"
            )
        return (many[0][keep], many[1][keep]), int(resamples - keep.sum())

    def to_frame(self) -> pd.DataFrame:
        """One row a parameter of either step."""
        return pd.concat(
            {f.law: f.to_frame() for f in (self.first, self.second)}, names=["step", "parameter"]
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "first": self.first.to_dict(),
            "second": self.second.to_dict(),
            "losses": list(self.losses),
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        lines = ["step 1, task loss", str(self.first), "step 2, from task loss", str(self.second)]
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])


def two_step(
    points: pd.DataFrame,
    pairs: pd.DataFrame | None = None,
    *,
    law: str = "chinchilla",
    second: str = "sigmoid",
    loss: str = "loss",
    accuracy: str = "accuracy",
    run: str | None = None,
) -> TwoStep:
    """Fit both steps by least squares: on log loss, then on accuracy.

    Args:
        points: the inputs of `law`, and `loss`.
        pairs: (`loss`, `accuracy`), usually of the same runs with their intermediate checkpoints;
            None takes them from `points`.
        law: of the first step.
        second: "sigmoid" (arXiv 2412.04403) or "gadre_error" (2403.08540), or any law of L alone.
        loss: the column of the task's loss, e.g. bits per byte of the correct answer.
        accuracy: a column in (0, 1).
        run: the column that names runs, in both tables; without it every point is one.

    Raises:
        UserError: for bad tables, and for accuracy that does not rise as the loss falls.
    """
    _check_laws(law, second)
    if pairs is None and run is None:
        run, points = "run", points.assign(run=np.arange(len(points)).astype(str))
    elif run is None:
        raise UserError(
            "run: not named; with two tables name the column of runs, so that both steps resample "
            "the same ones"
        )
    table = points if pairs is None else pairs
    require_columns(points, (run, loss), "points")
    require_columns(table, (run, loss, accuracy), "points" if pairs is None else "pairs")
    _check_accuracy(table, loss, accuracy)
    curve = _curve(table, loss, accuracy, law_named(second).output)
    first = fit(points, law, objective="squared_log", loss=loss)
    found = fit(curve, second, objective="squared")
    for step, one in (("points", first), ("pairs", found)):
        if one.points <= one.rank:
            raise UserError(
                f"{step}={one.points}: as many as parameters of law {one.law}, so the noise is "
                "unknown; add runs"
            )
    notes = [f"step {k}: {note}" for k, f in enumerate((first, found), 1) for note in f.notes]
    alone = sorted(set(table[run]) - set(points[run]))
    if alone:
        notes.append(
            f"{len(alone)} runs of the second step have no point in the first: "
            f"{', '.join(map(str, alone[:5]))}"
        )
    return TwoStep(
        first=first,
        second=found,
        runs=(points[run].astype(str).to_numpy(), table[run].astype(str).to_numpy()),
        losses=(float(curve["L"].min()), float(curve["L"].max())),
        notes=tuple(notes),
    )


def _curve(table: pd.DataFrame, loss: str, accuracy: str, output: str) -> pd.DataFrame:
    """The second step's points: L, and accuracy as its law's output."""
    values = ACCURACY[output](table[accuracy].to_numpy(float))
    return pd.DataFrame({"L": table[loss].to_numpy(float), output: values}, index=table.index)


def _check_laws(law: str, second: str) -> None:
    known = [n for n, one in LAWS.items() if one.inputs == ("L",) and one.output in ACCURACY]
    if second not in known:
        raise UserError(
            f"second={second!r}: no law from L to accuracy or error; {nearest(second, known)}"
        )
    output = law_named(law).output
    if output != "loss":
        raise UserError(
            f"law={law!r}: gives {output}, not a loss; use e.g. chinchilla for the first step"
        )


def _check_accuracy(table: pd.DataFrame, loss: str, accuracy: str) -> None:
    values, losses = table[accuracy].to_numpy(float), table[loss].to_numpy(float)
    bad = ~(np.isfinite(values) & (values > 0) & (values < 1))
    if bad.any():
        hint = "; in percent? divide by 100" if np.nanmax(values) > 1 else ""
        raise UserError(
            f"column {accuracy!r}={values[bad][0]:g}: must lie between 0 and 1 (row "
            f"{table.index[bad.argmax()]}){hint}"
        )
    if not (np.isfinite(losses) & (losses > 0)).all():
        return  # the fit names the row
    ranks = np.array([pd.Series(v).rank().to_numpy() for v in (losses, values)])
    if np.ptp(values) < 1e-9 or (np.ptp(losses) > 0 and np.asarray(np.corrcoef(ranks))[0, 1] >= 0):
        raise UserError(
            f"column {accuracy!r}={values.min():.3g} to {values.max():.3g}: does not rise as the "
            "loss falls, so there is no second step to fit; the models are at chance, or this is "
            "the error (use 1 - error)"
        )


def _refit(found: Fit, weights: np.ndarray) -> np.ndarray:
    """theta [K, P] of the resamples, from the optimum; NaN where there is no finite objective."""
    p = found.problem
    done = solve(
        p.law,
        found.objective,
        1e-3,
        p.x,
        p.y,
        weights * p.w,
        np.tile(np.array(found.theta), (len(weights), 1)),
        free=p.free,
    )
    return np.where(np.isfinite(done.value)[:, None], done.theta, np.nan)


def _inflation(found: Fit, runs: np.ndarray) -> float:
    """What the spread of resampled refits is multiplied by.

    A run pulls the fit towards itself, so that refits spread too little by about
    sqrt(1 - parameters / runs).
    """
    count = len(np.unique(runs))
    return float(np.sqrt(count / max(count - found.rank, 1)))
