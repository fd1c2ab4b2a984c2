"""Learning-rate curves: final loss against learning rate at each (size, D), their optima, and the rule lr* = c N^a D^b through them."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from stepladder.analysis.load import EXCLUDED, Runs
from stepladder.analysis.select import final_points
from stepladder.configs.errors import UserError

_WINDOW = 2  # grid points each side of the best one that the parabola is fitted to
_DRAWS = 2000
_SAME = ("schedule", "weight_decay", "batch_size", "warmup_steps")


@dataclass(frozen=True)
class Curve:
    """One (size, N, D): learning rates, mean final losses (nats per token) over `seeds` runs each, and the optimum or why there is none.

    low, high: 90 % interval of the optimum from Gaussian draws around the losses with `noise` (nats per token) as their standard deviation;
    `noise_source` says whether it comes from repeated seeds or, for want of those, from the evaluation's standard error. curvature: of the
    parabola, nats per token per squared natural log of the rate.
    """

    size: str
    N: float
    D: float
    rates: tuple[float, ...]
    losses: tuple[float, ...]
    seeds: tuple[int, ...]
    optimum: float | None
    low: float | None
    high: float | None
    loss_at_optimum: float | None
    curvature: float | None
    noise: float | None
    noise_source: str
    refused: str  # empty when there is an optimum


@dataclass(frozen=True)
class Rule:
    """log lr* = log c + a log N + b log D; `se` of (log c, a, b), residual s.d. in log lr, used points, sentence for a config."""

    c: float
    a: float
    b: float
    se: dict[str, float | None]
    residual_sd: float | None
    points: int
    notes: tuple[str, ...]

    def at(self, n: float, d: float) -> float:
        """lr* for N parameters and D tokens."""
        return float(self.c * n**self.a * d**self.b)

    def __str__(self) -> str:
        return f"lr* = {self.c:.4g} N^{self.a:.4f} D^{self.b:.4f}   ({self.points} optima" + (
            f", residual s.d. {self.residual_sd:.3g} in ln lr)" if self.residual_sd is not None else ")"
        )


def curves(runs: Runs | pd.DataFrame, *, level: float = 0.9, seed: int = 0) -> tuple[list[Curve], pd.DataFrame]:
    """Curves of every (size, D) with at least three rates, smallest N first, and what was left out (run_id, step, domain, reason).

    Points are final decayed losses of all roles but the target: a proxy joins the curve of its sweep when it differs in nothing but the
    rate and the seeds (columns `_SAME`, where the table has them); a cooldown branch never does.
    """
    if isinstance(runs, Runs):
        points, excluded = final_points(runs, roles={"target": "the target"})
        settings = runs.runs.set_index("run_id").reindex(points["run_id"])
        points = points.assign(**{name: settings[name].to_numpy() for name in (*_SAME, "parent")})
        branch = points["parent"].notna()
        cooldowns = points[branch].assign(reason="a cooldown branch: its rate was tuned for the trunk")[list(EXCLUDED)]
        points, excluded = points[~branch], _join(excluded, cooldowns)
    else:
        points, excluded = runs, pd.DataFrame(columns=list(EXCLUDED))
    rng = np.random.default_rng(seed)
    out, few = [], []
    keys = ["N", "D", *(name for name in _SAME if name in points)]
    for (n, d, *_), group in points.groupby(keys, sort=True):
        if group["learning_rate"].nunique() < 3:
            few.append(group.assign(reason="fewer than three learning rates with these settings")[list(EXCLUDED)])
            continue
        out.append(_curve(float(n), float(d), group, level, rng))
    return out, _join(excluded, *few)


def _join(*tables: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([t for t in tables if len(t)] or [tables[0]], ignore_index=True)


def fit_rule(found: list[Curve], *, fixed_b: float | None = None) -> Rule:
    """Least squares of ln lr* on ln N and ln D over the curves that have an optimum; `fixed_b` fixes the exponent of D.

    Raises UserError with fewer optima than coefficients, or when D is tied to N over the optima (only a + b k would be known).
    """
    good = [c for c in found if c.optimum is not None]
    free = 2 if fixed_b is not None else 3
    if len(good) < free:
        raise UserError(
            f"optima={len(good)}: the rule has {free} coefficients; sweep more sizes or durations (refused: {len(found) - len(good)})"
        )
    x = np.log([[c.N, c.D] for c in good])
    y = np.log([c.optimum for c in good])
    centre = x.mean(0)
    design = np.column_stack([np.ones(len(good)), x - centre])
    if fixed_b is not None:
        y, design = y - fixed_b * (x[:, 1] - centre[1]), design[:, :2]
    singular = np.linalg.svd(design / np.maximum(np.linalg.norm(design, axis=0), 1e-300), compute_uv=False)
    if singular[-1] < 1e-3:
        raise UserError(
            "D: a fixed power of N (or constant) over the optima, so N and D cannot be told apart; sweep a second duration, or give fixed_b"
        )
    beta = np.linalg.lstsq(design, y, rcond=None)[0]
    freedom = len(good) - free
    sd = float(np.sqrt(((y - design @ beta) ** 2).sum() / freedom)) if freedom else None
    a, b = float(beta[1]), float(fixed_b if fixed_b is not None else beta[2])
    # Back to uncentred logs: ln c = beta0 - a mean ln N - b mean ln D.
    back = np.eye(free)
    back[0, 1:] = -centre[: free - 1]
    spread = np.sqrt(np.diag(back @ np.linalg.inv(design.T @ design) @ back.T)) * sd if sd is not None else [None] * free
    names = ("ln c", "a", "b")[:free]
    notes = ["as many optima as coefficients: no standard errors"] if sd is None else []
    notes += [f"left out: size {c.size}, D = {c.D:.3g}: {c.refused}" for c in found if c.optimum is None]
    log_c = beta[0] - a * centre[0] - b * centre[1]
    se = {k: None if v is None else float(v) for k, v in zip(names, spread)}
    return Rule(float(np.exp(log_c)), a, b, se, sd, len(good), tuple(notes))


def _curve(n: float, d: float, group: pd.DataFrame, level: float, rng: np.random.Generator) -> Curve:
    table = group.groupby("learning_rate")["loss"].agg(["mean", "count", "var"]).sort_index()
    rates, losses, counts = table.index.to_numpy(float), table["mean"].to_numpy(), table["count"].to_numpy()
    noise, source = _noise(group, table)
    best = int(np.argmin(losses))
    window = slice(max(0, best - _WINDOW), best + _WINDOW + 1)
    x, y = np.log(rates[window]), losses[window]
    refused, optimum, spread, bottom, curvature = "", None, (None, None), None, None
    if best in (0, len(rates) - 1):
        refused = f"the lowest loss is at the {'low' if best == 0 else 'high'} edge of the grid ({rates[best]:.3g}): widen it"
    else:
        curvature, slope, level_0 = np.polyfit(x - x.mean(), y, 2)
        centre = -slope / (2 * curvature) + x.mean() if curvature > 0 else np.nan
        if not curvature > 0:
            refused = "the losses near the minimum are not convex in log learning rate"
        elif not x[0] <= centre <= x[-1]:
            refused = f"the parabola's minimum ({np.exp(centre):.3g}) lies outside of the points it was fitted to"
        else:
            optimum, bottom = float(np.exp(centre)), float(level_0 - slope**2 / (4 * curvature))
            spread = _spread(x, y, noise, counts[window], level, rng)
    return Curve(
        size=str(group["size"].iloc[0]) if "size" in group else f"{n:.3g}", N=n, D=d, rates=tuple(map(float, rates)),
        losses=tuple(map(float, losses)),
        seeds=tuple(map(int, counts)), optimum=optimum, low=spread[0], high=spread[1], loss_at_optimum=bottom,
        curvature=None if curvature is None else float(curvature), noise=noise, noise_source=source, refused=refused,
    )  # fmt: skip


def _noise(group: pd.DataFrame, table: pd.DataFrame) -> tuple[float | None, str]:
    """Standard deviation of one run's loss: pooled over repeated seeds, else the evaluation's standard error, which is too small."""
    freedom = (table["count"] - 1).clip(lower=0)
    if freedom.sum():
        return float(np.sqrt((table["var"].fillna(0) * freedom).sum() / freedom.sum())), "repeated seeds"
    if "loss_se" in group and np.isfinite(group["loss_se"].astype(float)).any():
        return float(group["loss_se"].astype(float).median()), "evaluation standard error (no repeated seeds: a lower bound)"
    return None, "unknown: no repeated seeds"


def _spread(x: np.ndarray, y: np.ndarray, noise: float | None, counts: np.ndarray, level: float, rng: np.random.Generator) -> tuple:
    """Interval of the optimum; draws whose parabola has no minimum within the window count as its nearer end, so the interval is honest."""
    if noise is None:
        return None, None
    drawn = y + rng.standard_normal((_DRAWS, len(y))) * noise / np.sqrt(counts)
    two, one, _ = np.polyfit(x - x.mean(), drawn.T, 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        vertex = np.where(two > 0, -one / (2 * two) + x.mean(), np.where(drawn[:, 0] < drawn[:, -1], x[0], x[-1]))
    low, high = np.quantile(np.clip(vertex, x[0], x[-1]), [(1 - level) / 2, (1 + level) / 2])
    return float(np.exp(low)), float(np.exp(high))
