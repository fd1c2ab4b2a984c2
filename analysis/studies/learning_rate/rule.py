"""How the best learning rate moves with N and D.

lr* = c N^a D^b through the optima, or with the batch through the runs near the best.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from stepladder.analysis.fit.levels import percentile_interval
from stepladder.analysis.studies.learning_rate.curves import Curve
from stepladder.analysis.studies.learning_rate.points import RatePoints
from stepladder.configs.core.errors import UserError

Coefficient = tuple[float, float, float, float]  # value, low, high, s.d.


@dataclass(frozen=True)
class Rule:
    """log lr* = log c + a log N + b log D.

    Attributes:
        se: standard errors of `names`.
        residual_sd: in log lr.
        points: how many optima were used.
        notes: what was left out.
    """

    c: float
    a: float
    b: float
    se: dict[str, float | None]
    residual_sd: float | None
    points: int
    notes: tuple[str, ...]
    names: tuple[str, ...] = ("ln c", "a", "b")  # of the coefficients that were fitted

    def at(self, n: float, d: float) -> float:
        """lr* for N parameters and D tokens."""
        return float(self.c * n**self.a * d**self.b)

    def spans(self, level: float = 0.9) -> dict[str, tuple[float, float, float]]:
        """ln c, a, b -> (value, low, high) by Student's t; only those with a standard error."""
        from scipy.stats import t

        if self.residual_sd is None:
            return {}
        reach = float(t.ppf((1 + level) / 2, self.points - len(self.names)))
        value = {"ln c": float(np.log(self.c)), "a": self.a, "b": self.b}
        return {
            k: (value[k], value[k] - reach * se, value[k] + reach * se)
            for k in self.names
            if (se := self.se[k]) is not None
        }

    def __str__(self) -> str:
        return f"lr* = {self.c:.4g} N^{self.a:.4f} D^{self.b:.4f}   ({self.points} optima" + (
            f", residual s.d. {self.residual_sd:.3g} in ln lr)"
            if self.residual_sd is not None
            else ")"
        )


def fit_rule(found: list[Curve], *, fixed_b: float | None = None) -> Rule:
    """Least squares of ln lr* on ln N and ln D over the curves that have an optimum.

    fixed_b: an exponent of D that is given, not fitted.

    Raises:
        UserError: with fewer optima than coefficients, or when D is tied to N over the optima (only
            a + b k would be known).
    """
    good = [c for c in found if c.optimum is not None]
    free = 2 if fixed_b is not None else 3
    if len(good) < free:
        raise UserError(
            f"optima={len(good)}: the rule has {free} coefficients; sweep more sizes or durations "
            f"(refused: {len(found) - len(good)})"
        )
    x = np.log([[c.N, c.D] for c in good])
    y = np.log([c.best for c in good])
    centre = x.mean(0)
    design = np.column_stack([np.ones(len(good)), x - centre])
    if fixed_b is not None:
        y, design = y - fixed_b * (x[:, 1] - centre[1]), design[:, :2]
    singular = np.linalg.svd(
        design / np.maximum(np.linalg.norm(design, axis=0), 1e-300), compute_uv=False
    )
    if np.ptp(x[:, 0]) < 1e-6:
        raise UserError("N: one size among the optima; sweep a second size")
    if singular[-1] < 1e-3:
        raise UserError(
            "D: a fixed power of N (or constant) over the optima, so N and D cannot be told apart; "
            "sweep a second duration, or give fixed_b"
        )
    beta = np.linalg.lstsq(design, y, rcond=None)[0]
    freedom = len(good) - free
    sd = float(np.sqrt(((y - design @ beta) ** 2).sum() / freedom)) if freedom else None
    a, b = float(beta[1]), float(fixed_b if fixed_b is not None else beta[2])
    # Back to uncentred logs: ln c = beta0 - a mean ln N - b mean ln D.
    back = np.eye(free)
    back[0, 1:] = -centre[: free - 1]
    spread = (
        np.sqrt(np.diag(back @ np.linalg.inv(design.T @ design) @ back.T)) * sd
        if sd is not None
        else [None] * free
    )
    names = ("ln c", "a", "b")[:free]
    notes = ["as many optima as coefficients: no standard errors"] if sd is None else []
    notes += [
        f"left out: size {c.size}, D = {c.D:.3g}: {c.refused}" for c in found if c.optimum is None
    ]
    log_c = beta[0] - a * centre[0] - b * centre[1]
    se = {k: None if v is None else float(v) for k, v in zip(names, spread)}
    return Rule(float(np.exp(log_c)), a, b, se, sd, len(good), tuple(notes), names)


def best_batch(found: list[Curve]) -> tuple[list[Curve], tuple[str, ...]]:
    """The best of the curves that differ in the batch size alone, and a note on the others."""
    best: dict[tuple[object, ...], Curve] = {}
    for curve in found:
        key = (
            curve.N,
            curve.D,
            *((k, str(v)) for k, v in curve.settings.items() if k != "batch_size"),
        )
        other = best.get(key)
        if other is None or other.optimum is None or _lowest(curve) < _lowest(other):
            best[key] = curve
    more = len(found) - len(best)
    return list(best.values()), (
        f"{more} curves at other batch sizes lie higher or have no optimum",
    ) if more else ()


def _lowest(curve: Curve) -> float:
    """The loss at the optimum; infinite for a curve without one."""
    return np.inf if curve.loss_at_optimum is None else curve.loss_at_optimum


@dataclass(frozen=True)
class NearBest:
    """Power laws of the runs close to the best of their cell.

    lr = e^(ln c) N^a D^b, batch = e^(ln c) D^b (tokens).

    Attributes:
        rate, batch: each coefficient as (value, low, high, s.d.); batch is empty where all runs
            have one.
        within: how near, as a fraction of the lowest loss of the cell; runs: how many are.
        cells: different (N, D).
        resampled: what the intervals resample.
        lost: resamples that could not tell N from D.
    """

    rate: dict[str, Coefficient]
    batch: dict[str, Coefficient]
    batch_unit: str
    within: float
    runs: int
    cells: int
    resampled: str
    level: float
    lost: int
    notes: tuple[str, ...]


def near_best(
    points: RatePoints,
    *,
    within: float = 0.0025,
    level: float = 0.9,
    resample: str = "cells",
    draws: int = 1000,
    seed: int = 0,
) -> NearBest:
    """One regression over all runs whose loss is near the best of their cell (arXiv 2503.04715).

    Args:
        points: the runs; those of a cell differ in learning rate, batch, warm-up and seeds alone.
        within: how near, as a fraction of the best loss.
        level: of the intervals, from `draws` resamples.
        resample: "rows" is the authors' bootstrap; the runs of one cell share its best run, so
            "cells" is the honest one, and wider.

    Raises:
        UserError: with too few cells, or when D is tied to N over them.
    """
    if resample not in ("cells", "rows"):
        raise UserError(f"resample={resample!r}: use 'cells' or 'rows'")
    near, cells = _runs_near_best(points, within)
    number = int(cells.max()) + 1
    if number < 4:
        raise UserError(
            f"cells={number}: three coefficients need at least 4 different (N, D); sweep more "
            "sizes or durations"
        )
    logs = np.log(near[["N", "D"]].to_numpy(float))
    centre = logs.mean(0)
    x = np.column_stack([np.ones(len(near)), logs - centre])
    if not _told_apart(x):
        raise UserError(
            "D: a fixed power of N (or constant) over the cells, so N and D cannot be told apart; "
            "sweep a second duration"
        )
    rng = np.random.default_rng(seed)
    drawn = [_resampled(cells, number, resample, rng) for _ in range(draws)]
    kept = [rows for rows in drawn if _told_apart(x[rows])]
    y = np.log(near["learning_rate"].to_numpy(float))
    batch: dict[str, Coefficient] = {}
    # a batch that is not known for all rows has no law
    if (
        "batch_size" in near
        and near["batch_size"].notna().all()
        and near["batch_size"].nunique() > 1
    ):
        z = np.log((near["batch_size"] * near.get("seq_len", 1.0)).to_numpy(float))
        batch = _coefficients(("ln c", "b"), x[:, [0, 2]], z, centre[1:], kept, level)
    lonely = np.bincount(cells).max() / len(near)
    return NearBest(
        rate=_coefficients(("ln c", "a", "b"), x, y, centre, kept, level),
        batch=batch,
        batch_unit="tokens" if "seq_len" in near else "the table's own unit",
        within=within,
        runs=len(near),
        cells=number,
        resampled=resample,
        level=level,
        lost=len(drawn) - len(kept),
        notes=(f"one cell holds {lonely:.0%} of the runs",) if lonely > 0.3 else (),
    )


def _runs_near_best(points: RatePoints, within: float) -> tuple[pd.DataFrame, np.ndarray]:
    """Mean losses over the seeds that are near the best of their cell, and the cell of each row."""
    settings = [name for name in points.settings if name not in ("batch_size", "warmup_steps")]
    alive = points.frame[~points.frame["diverged"]]
    same = [*settings, *(n for n in ("batch_size", "seq_len") if n in alive), "learning_rate"]
    runs = alive.groupby(same, dropna=False, as_index=False)["loss"].mean()
    best = runs.groupby(settings, dropna=False)["loss"].transform("min")
    near = runs[runs["loss"] < best * (1 + within)].reset_index(drop=True)
    return near, near.groupby(settings, dropna=False).ngroup().to_numpy()


def _resampled(
    cells: np.ndarray, number: int, resample: str, rng: np.random.Generator
) -> np.ndarray:
    """Positions of one resample of the rows, or of whole cells."""
    if resample == "rows":
        return rng.integers(0, len(cells), len(cells))
    return np.concatenate([np.flatnonzero(cells == k) for k in rng.integers(0, number, number)])


def _told_apart(x: np.ndarray) -> bool:
    singular = np.linalg.svd(x / np.maximum(np.linalg.norm(x, axis=0), 1e-300), compute_uv=False)
    return bool(singular[-1] > 0.02)


def _uncentred(x: np.ndarray, y: np.ndarray, centre: np.ndarray) -> np.ndarray:
    beta = np.linalg.lstsq(x, y, rcond=None)[0]
    return np.r_[beta[0] - centre @ beta[1:], beta[1:]]


def _coefficients(
    names: tuple[str, ...],
    x: np.ndarray,
    y: np.ndarray,
    centre: np.ndarray,
    resamples: list[np.ndarray],
    level: float,
) -> dict[str, Coefficient]:
    """The regression of y on x, with what each coefficient is over the resamples."""
    value = _uncentred(x, y, centre)
    drawn = np.array([_uncentred(x[rows], y[rows], centre) for rows in resamples])
    low, high = percentile_interval(drawn, level, axis=0)
    return {
        n: (float(value[i]), float(low[i]), float(high[i]), float(drawn[:, i].std()))
        for i, n in enumerate(names)
    }
