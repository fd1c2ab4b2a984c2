"""Bootstrap of a fit: resample rows, or whole clusters of them, and refit.

Clusters are runs, seeds or problems. All refits start at the optimum and are one batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from stepladder.analysis.fit.levels import percentile_interval, percentiles
from stepladder.analysis.fit.objective import objective_named
from stepladder.analysis.fit.prepare import Prepared
from stepladder.analysis.fit.result import Fit
from stepladder.analysis.fit.solve import solve
from stepladder.configs.core.errors import UserError

_MOST_VALUES = 64  # of an input: with more different ones a resample does not lose them


@dataclass(frozen=True)
class Bootstrap:
    """K refits.

    `params` has a row a refit, in the units of the data; `lost` resamples kept too few different
    inputs to identify the law.
    """

    fit: Fit
    params: pd.DataFrame
    theta: np.ndarray = field(repr=False)  # [K, P]
    resamples: int
    clusters: int
    lost: int
    failed: int
    seed: int

    @property
    def stderr(self) -> dict[str, float]:
        """Standard deviation of each parameter.

        For a heavy-tailed one (B) read `interval`, or the spread of its logarithm.
        """
        return {str(k): float(v) for k, v in self.params.std(ddof=1).items()}

    def interval(self, level: float = 0.9) -> pd.DataFrame:
        """Percentile interval of every parameter: columns low, high."""
        ends = self.params.quantile(list(percentiles(level)))
        return ends.T.set_axis(["low", "high"], axis=1)

    def predict(self, level: float = 0.9, **inputs: float) -> tuple[float, float, float]:
        """(fit, low, high) of the law at one point.

        It is the error of the parameters, without the noise of a new run.
        """
        low, high = percentile_interval(self.fit.problem.predict(self.theta, **inputs), level)
        return float(self.fit.predict(**inputs)), low, high

    def to_frame(self) -> pd.DataFrame:
        """One row a parameter: fit, standard error, 90 % interval."""
        frame = pd.DataFrame({"value": self.fit.params, "stderr": self.stderr})
        return frame.join(self.interval())

    def __str__(self) -> str:
        said = f"{len(self.params)} refits of {self.clusters} resampled clusters"
        if self.lost or self.failed:
            said += (
                f"; left out: {self.lost} that lost too many different inputs, {self.failed} "
                "without a finite objective"
            )
        return f"{said}\n{self.to_frame().to_string(float_format=lambda v: f'{v:.5g}')}"


def bootstrap(
    fit: Fit, resamples: int = 4000, seed: int = 0, clusters: Sequence[Any] | None = None
) -> Bootstrap:
    """Resample the points of `fit` with replacement and refit every resample.

    A resample is a row of weights, made when its turn comes: memory does not grow with `resamples`.

    Args:
        fit: the fit of the whole table.
        resamples: how many; 4000 is the published number.
        seed: of the resamples.
        clusters: a name a point (its run, seed or problem): points of one name stay together.

    Returns:
        The refits that have a finite objective.

    Raises:
        UserError: for clusters that do not fit the points, or when most resamples cannot identify
            the law.
    """
    p, goal = fit.problem, objective_named(fit.objective)
    if resamples < 2:
        raise UserError(f"resamples={resamples}: needs 2 at least; 4000 is the published number")
    count, index = _clusters(p, clusters)

    def weights(jobs: np.ndarray) -> np.ndarray:
        even = np.full(count, 1 / count)
        counts = [np.random.default_rng([seed, int(j)]).multinomial(count, even) for j in jobs]
        return np.array(counts, float)[:, index] * p.w

    kept = _identifying(p, weights, resamples)
    if len(kept) < max(2, resamples / 2):
        raise UserError(
            f"clusters={count}: {resamples - len(kept)} of {resamples} resamples lose sizes "
            "the law needs; resample rows, or use `prediction_interval`, which simulates from the "
            "fit"
        )

    def kept_weights(jobs: np.ndarray) -> np.ndarray:
        return weights(kept[jobs])

    start = np.tile(np.array(fit.theta), (len(kept), 1))
    delta = goal.solver_delta(fit.delta)
    found = solve(p.law, goal.name, delta, p.x, p.y, kept_weights, start, tau=fit.tau, free=p.free)
    good = np.isfinite(found.value)
    params = pd.DataFrame(
        {k: np.broadcast_to(v, good.sum()) for k, v in p.to_data_units(found.theta[good]).items()}
    )
    return Bootstrap(
        fit=fit,
        params=params,
        theta=found.theta[good],
        resamples=resamples,
        clusters=count,
        lost=resamples - len(kept),
        failed=int((~good).sum()),
        seed=seed,
    )


def names_of_points(points: int, clusters: Sequence[Any] | None) -> np.ndarray:
    """The cluster of each point [points], by default its own. Raises UserError unless there is one
    name a point.
    """
    names = np.arange(points) if clusters is None else np.asarray(list(clusters))
    if len(names) != points:
        raise UserError(
            f"clusters={len(names)} names: the fit has {points} points; give one name a point"
        )
    return names


def _clusters(p: Prepared, clusters: Sequence[Any] | None) -> tuple[int, np.ndarray]:
    """How many clusters there are, and the number of each point's [n]."""
    names = names_of_points(len(p.y), clusters)
    seen, index = p.w > 0, np.zeros(len(names), int)
    # a cluster whose points are all hidden is none
    label, index[seen] = np.unique(names[seen], return_inverse=True)
    if len(label) < 2:
        raise UserError("clusters: one cluster only, nothing to resample; cluster by run or by row")
    return len(label), index


def _identifying(
    p: Prepared, weights: Callable[[np.ndarray], np.ndarray], resamples: int
) -> np.ndarray:
    """The resamples that keep as many different values of every input as the law needs.

    With parameters held the law needs fewer, and which ones no count says: all are kept.
    """
    few = {
        a.name: (a.distinct, np.unique(np.round(p.x[:, i], 6), return_inverse=True)[1])
        for i, a in enumerate(p.law.axes)
        if p.distinct[a.name] <= _MOST_VALUES
    }
    if not few or p.fixed:
        return np.arange(resamples)
    kept = []
    for first in range(0, resamples, 256):
        jobs = np.arange(first, min(first + 256, resamples))
        drawn = weights(jobs) > 0
        enough = np.ones(len(jobs), bool)
        for needed, value in few.values():
            member = value[None, :] == np.arange(value.max() + 1)[:, None]
            enough &= (drawn.astype(np.float32) @ member.T.astype(np.float32) > 0).sum(1) >= needed
        kept.append(jobs[enough])
    return np.concatenate(kept)
