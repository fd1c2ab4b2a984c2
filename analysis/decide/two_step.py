"""The two-step ladder (arXiv 2412.04403): task loss from (N, D), then accuracy from task loss;
intervals resample runs for both at once.
"""

import dataclasses
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pandas as pd

from stepladder.analysis.fit.fit import Fit, fit
from stepladder.analysis.fit.solve import solve
from stepladder.analysis.laws import LAWS
from stepladder.configs.core.errors import UserError, nearest

# How accuracy enters a second step and comes back, by the output of its law: Gadre's form
# (2403.08540) is of the error.
ACCURACY = {"Acc": lambda v: v, "Err": lambda v: 1 - v}


@dataclass(frozen=True)
class Accuracy:
    """Of one point: task loss and accuracy, each with an interval for one new run (parameters and
    noise of both steps).
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

    def to_dict(self) -> dict:
        """JSON-able."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        where = ", ".join(f"{k} = {v:.4g}" for k, v in self.inputs.items())
        lines = [
            f"accuracy {self.accuracy:.4f} [{self.low:.4f}, {self.high:.4f}] ({self.level:.0%}) at "
            f"{where}, from task loss {self.loss:.5g} [{self.loss_low:.5g}, {self.loss_high:.5g}]"
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
        """Task loss and accuracy at the inputs of the first law, e.g. `found.predict(N=7e9,
        D=4e12)`.

        Every resample draws runs with replacement, refits both steps with it and sends the new
        run's noise through them. Raises UserError for a missing input or when most resamples cannot
        identify a step.
        """
        if not 0 < level < 1:
            raise UserError(f"level={level}: must lie between 0 and 1, e.g. 0.9")
        if resamples < 50:
            raise UserError(f"resamples={resamples}: too few for an interval; use 50 or more")
        loss = float(self.first.predict(**inputs))
        weights, lost = self._weights(resamples, seed)
        one, two = (_refit(f, w) for f, w in zip((self.first, self.second), weights))
        good = np.isfinite(one).all(1) & np.isfinite(two).all(1)
        rng, many = np.random.default_rng([seed, 1]), int(good.sum())
        moved = np.log(self.first.problem.predict(one[good], **inputs) / loss) * _short(
            self.first, self.runs[0]
        )
        at = loss * np.exp(
            moved
            + self.first.residual_sd * rng.standard_t(self.first.points - self.first.rank, many)
        )
        value = float(self._accuracy(np.array(self.second.theta), loss))
        middle = self._accuracy(np.array(self.second.theta), at)
        accuracy = middle + (self._accuracy(two[good], at) - middle) * _short(
            self.second, self.runs[1]
        )
        accuracy = accuracy + self.second.residual_sd * rng.standard_t(
            self.second.points - self.second.rank, many
        )
        tail = [(1 - level) / 2, (1 + level) / 2]
        (loss_low, loss_high), (low, high) = (
            np.quantile(at, tail),
            np.clip(np.quantile(accuracy, tail), 0.0, 1.0),
        )
        notes = list(self.notes)
        for end, value_there, beyond in (
            ("lowest", self.losses[0], loss < self.losses[0]),
            ("highest", self.losses[1], loss > self.losses[1]),
        ):
            if beyond:
                notes.append(
                    f"task loss {loss:.4g} lies beyond the {end} of the second step "
                    f"({value_there:.4g}): the curve is extrapolated"
                )
        return Accuracy(
            inputs,
            loss,
            float(loss_low),
            float(loss_high),
            value,
            float(low),
            float(high),
            level,
            int(good.sum()),
            lost,
            tuple(notes),
        )

    def _accuracy(self, theta: np.ndarray, loss: np.ndarray | float) -> np.ndarray:
        """Of theta [P] or [K, P] at losses, elementwise."""
        p = self.second.problem
        x = p.law.enter(np.atleast_1d(loss)[:, None], np.array(p.centre))[:, 0]
        values = SimpleNamespace(**p.law.values(np, theta))
        out = ACCURACY[p.law.output](p.law.call(np, values, x) * p.scale)
        return out if np.ndim(loss) else out[0]

    def _weights(self, resamples: int, seed: int) -> tuple[tuple[np.ndarray, np.ndarray], int]:
        """Weights [K, n] of the points of both steps from the same resampled runs, without those
        that lose what a law needs.
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

    def to_dict(self) -> dict:
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
    """Fit both steps: `law` of task loss to `points` (its inputs and `loss`), `second` to (`loss`,
    `accuracy`) of `pairs`, or of `points`.

    loss: of the task, e.g. bits per byte of the correct answer; accuracy in (0, 1). pairs: usually
    the same runs with their intermediate checkpoints. run: the column that names runs, in both
    tables; without it every point is one. second: "sigmoid" (arXiv 2412.04403) or "gadre_error"
    (2403.08540), or any law of L alone. Least squares on log loss, then on accuracy. Raises
    UserError for bad tables and for accuracy that does not rise as the loss falls.
    """
    if second not in LAWS or LAWS[second].inputs != ("L",) or LAWS[second].output not in ACCURACY:
        known = [n for n, one in LAWS.items() if one.inputs == ("L",) and one.output in ACCURACY]
        raise UserError(
            f"second={second!r}: no law from L to accuracy or error; {nearest(second, known)}"
        )
    if law in LAWS and LAWS[law].output != "loss":
        raise UserError(
            f"law={law!r}: gives {LAWS[law].output}, not a loss; use e.g. chinchilla for the first "
            "step"
        )
    if pairs is None and run is None:
        points = points.assign(run=np.arange(len(points)).astype(str))
        run = "run"
    elif run is None:
        raise UserError(
            "run: not named; with two tables name the column of runs, so that both steps resample "
            "the same ones"
        )
    table = points if pairs is None else pairs
    for where, frame, names in (
        ("points", points, (run, loss)),
        ("points" if pairs is None else "pairs", table, (run, loss, accuracy)),
    ):
        for name in names:
            if name not in frame:
                raise UserError(
                    f"column {name!r}: missing from {where}; "
                    f"{nearest(name, map(str, frame.columns))}"
                )
    _check_accuracy(table, loss, accuracy)
    first = fit(points, law, objective="squared_log", loss=loss)
    output = LAWS[second].output
    curve = pd.DataFrame(
        {
            "L": table[loss].to_numpy(float),
            output: ACCURACY[output](table[accuracy].to_numpy(float)),
        },
        index=table.index,
    )
    found = fit(curve, second, objective="squared")
    notes = [f"step 1: {note}" for note in first.notes] + [
        f"step 2: {note}" for note in found.notes
    ]
    alone = set(table[run]) - set(points[run])
    if alone:
        notes.append(
            f"{len(alone)} runs of the second step have no point in the first: "
            f"{', '.join(map(str, sorted(alone)[:5]))}"
        )
    runs = points[run].astype(str).to_numpy(), table[run].astype(str).to_numpy()
    for step, one in (("points", first), ("pairs", found)):
        if one.points <= one.rank:
            raise UserError(
                f"{step}={one.points}: as many as parameters of law {one.law}, so the noise is "
                "unknown; add runs"
            )
    return TwoStep(
        first, found, runs, (float(curve["L"].min()), float(curve["L"].max())), tuple(notes)
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
    ranks = [pd.Series(v).rank().to_numpy() for v in (losses, values)]
    if np.ptp(values) < 1e-9 or (np.ptp(losses) > 0 and np.corrcoef(*ranks)[0, 1] >= 0):
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


def _short(found: Fit, runs: np.ndarray) -> float:
    """Resampled refits spread too little by about sqrt(1 - parameters / runs): a run pulls the fit
    towards itself.

    Its inverse.
    """
    count = len(np.unique(runs))
    return float(np.sqrt(count / max(count - found.rank, 1)))
