"""The minimum of one isoFLOP profile, by a parabola or by interpolation, with its intervals."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from stepladder.analysis.fit.levels import percentile_interval

SAME_N = 1e-6  # in ln N: nearer than this, two points are of one size
_GRID = 25  # interpolated points per gap between sizes
_LEAST_SD = 0.33 * _GRID  # least standard error of ln N*, in steps of that grid: Porian's choice
_MAJORITY = 0.5  # of the draws must have a minimum, else the observed one is an accident


class Located(NamedTuple):
    """One entry a row of losses."""

    log_n: np.ndarray  # ln N*
    loss: np.ndarray  # at N*
    curvature: np.ndarray  # loss per squared ln N; NaN where interpolated
    refused: np.ndarray  # why there is no minimum; '' where there is one


def _parabola(x: np.ndarray, y: np.ndarray, w: np.ndarray) -> Located:
    """Least squares of y [K, n] on a parabola in x [n], with weights w [K, n]."""
    middle, half = (x.max() + x.min()) / 2, (x.max() - x.min()) / 2
    t = (x - middle) / half  # normal equations of t in [-1, 1] are well conditioned
    design = np.stack([np.ones_like(t), t, t * t], 1)
    known = np.array([len(np.unique(np.round(x[row > 0] / SAME_N))) > 2 for row in w])
    matrix = np.where(
        known[:, None, None], np.einsum("kn,ni,nj->kij", w, design, design), np.eye(3)
    )
    c = np.linalg.solve(matrix, np.einsum("kn,ni,kn->ki", w, design, y)[..., None])[..., 0]
    convex = known & (c[:, 2] > 0)
    vertex = np.where(convex, -c[:, 1] / (2 * np.where(convex, c[:, 2], 1)), np.nan)
    why = np.where(
        vertex < -1,
        "the minimum lies below the smallest N: add smaller models",
        np.where(vertex > 1, "the minimum lies above the largest N: add larger models", ""),
    )
    why = np.where(
        convex,
        why,
        np.where(known, "not convex in ln N: there is no minimum", "fewer than 3 sizes"),
    )
    return Located(middle + half * vertex, c[:, 0] + c[:, 1] * vertex / 2, c[:, 2] / half**2, why)


def _akima(x: np.ndarray, y: np.ndarray, w: np.ndarray) -> Located:
    """The lowest point of Akima's interpolation of ln y [K, n] on a grid of x [n].

    x ascends and repeats no value.
    """
    from scipy.interpolate import Akima1DInterpolator

    grid = np.linspace(x[0], x[-1], (len(x) - 1) * _GRID)
    curve = Akima1DInterpolator(x, np.log(y), axis=1)(grid)
    lowest = np.nanargmin(curve, axis=1)
    why = np.where(
        lowest == 0,
        "the smallest N is the best: add smaller models",
        np.where(lowest == len(grid) - 1, "the largest N is the best: add larger models", ""),
    )
    return Located(
        grid[lowest], np.exp(curve[np.arange(len(y)), lowest]), np.full(len(y), np.nan), why
    )


@dataclass(frozen=True)
class Method:
    """How a minimum is found.

    locate: (ln N [n], losses [K, n], weights [K, n]) -> K minima.
    median: N* and loss are medians over the draws.
    weighted: budgets weigh 1 / s.e.^2 in the power laws.
    """

    name: str
    locate: Callable[[np.ndarray, np.ndarray, np.ndarray], Located]
    median: bool
    weighted: bool
    source: str  # arXiv id


METHODS = {
    m.name: m
    for m in (
        Method("parabola", _parabola, False, False, "2203.15556"),
        Method("akima", _akima, True, True, "2406.19146"),
    )
}


@dataclass(frozen=True)
class Minimum:
    """One budget: its minimum with intervals over the draws, or why it was refused.

    failed: share of the draws that have no minimum within the sizes; in the intervals these count
    as the nearer end, so that an interval that reaches the end says "or beyond".
    """

    C: float  # FLOPs; geometric mean of its points
    points: int
    N: float | None = None
    D: float | None = None
    loss: float | None = None
    N_interval: tuple[float, float] | None = None
    D_interval: tuple[float, float] | None = None
    loss_interval: tuple[float, float] | None = None
    curvature: float | None = None
    se_log_n: float | None = None  # standard error of ln N*
    failed: float | None = None
    refused: str = ""

    def __str__(self) -> str:
        if self.refused or self.N is None or self.D is None:
            return self.refused
        said = f"N* {self.N:.4g}  D* {self.D:.4g}  D*/N* {self.D / self.N:.3g}"
        said += f"  loss {self.loss:.4f}"
        if self.N_interval:
            said += "  N* from {:.4g} to {:.4g}".format(*self.N_interval)
        return said


@dataclass(frozen=True)
class Drawing:
    """How a profile is drawn again: the noise added to its losses, or its points resampled.

    noise: s.d. of one loss of weight 1; None is unknown. freedom: degrees of freedom that the noise
    was estimated with; None when it was given.
    """

    resample: str  # "noise" or "points"
    noise: float | None
    freedom: int | None
    level: float
    draws: int

    def locate(
        self, method: Method, x: np.ndarray, y: np.ndarray, w: np.ndarray, rng: np.random.Generator
    ) -> Located | None:
        """The minima of `draws` profiles like this one; None when the noise is not known."""
        if self.resample == "points":
            counts = rng.multinomial(len(x), np.full(len(x), 1 / len(x)), size=self.draws)
            return method.locate(x, np.broadcast_to(y, counts.shape), w * counts)
        if self.noise is None:
            return None
        sd: float | np.ndarray = self.noise
        if self.freedom is not None:
            sd = self.noise * np.sqrt(self.freedom / rng.chisquare(self.freedom, (self.draws, 1)))
        shaken = y + sd / np.sqrt(w) * rng.standard_normal((self.draws, len(x)))
        return method.locate(x, shaken, np.broadcast_to(w, shaken.shape))


def refusal(group: pd.DataFrame, why: str, failed: float | None = None) -> Minimum:
    """A budget without a minimum."""
    return Minimum(float(group["C"].iloc[0]), len(group), failed=failed, refused=why)


def minimum_of(
    group: pd.DataFrame, method: Method, drawing: Drawing, rng: np.random.Generator
) -> tuple[Minimum, np.ndarray | None]:
    """The minimum of one budget's points (C, N, D, loss, w), and draws of it.

    The draws are (ln N*, ln D*) [2, K], NaN where a draw has no minimum; None where there are none.
    """
    x, y, w = (group[name].to_numpy(float) for name in ("N", "loss", "w"))
    x = np.log(x)
    seen = method.locate(x, y[None], w[None])
    if seen.refused[0]:
        return refusal(group, str(seen.refused[0])), None
    line = np.polyfit(x, np.log(group["D"].to_numpy(float)), 1)  # exact where C = 6 N D
    found = drawing.locate(method, x, y, w, rng)
    good = np.zeros(0, bool) if found is None else found.refused == ""
    failed = None if found is None else 1 - float(good.mean())
    if failed is not None and failed > _MAJORITY:
        why = f"{failed:.0%} of the draws have no minimum: it is lost in the noise"
        return refusal(group, why, failed), None
    log_n, loss = float(seen.log_n[0]), float(seen.loss[0])
    if found is not None and method.median:
        log_n = float(np.log(np.median(np.exp(found.log_n[good]))))
        loss = float(np.median(found.loss[good]))
    minimum = Minimum(
        C=float(group["C"].iloc[0]),
        points=len(group),
        N=float(np.exp(log_n)),
        D=float(np.exp(np.polyval(line, log_n))),
        loss=loss,
        curvature=None if np.isnan(seen.curvature[0]) else float(seen.curvature[0]),
        failed=failed,
        **({} if found is None else _spread(found, good, x, line, method, drawing)),
    )
    if found is None:
        return minimum, None
    return minimum, np.where(good, np.stack([found.log_n, np.polyval(line, found.log_n)]), np.nan)


def _spread(
    found: Located,
    good: np.ndarray,
    x: np.ndarray,
    line: np.ndarray,
    method: Method,
    drawing: Drawing,
) -> dict[str, Any]:
    """The fields of a Minimum that come from its draws; `line` is ln D on ln N."""
    ends = _ends_of_n(found.log_n, x, drawing)
    low, high = np.sort(np.exp(np.polyval(line, np.log(ends))))
    return {
        "N_interval": ends,
        "D_interval": (float(low), float(high)),
        "loss_interval": percentile_interval(found.loss[good], drawing.level),
        "se_log_n": _standard_error(found.log_n[good], x, method, drawing),
    }


def _ends_of_n(log_n: np.ndarray, x: np.ndarray, drawing: Drawing) -> tuple[float, float]:
    """The interval of N*, within the sizes.

    A draw without a minimum counts as the end of the range that it points to; one that is not
    convex points to neither, so every other one counts as either end.
    """
    either = np.where(np.arange(drawing.draws) % 2 == 0, x.min(), x.max())
    known = np.clip(np.where(np.isnan(log_n), either, log_n), x.min(), x.max())
    low, high = np.exp(percentile_interval(known, drawing.level))
    return float(low), float(high)


def _standard_error(log_n: np.ndarray, x: np.ndarray, method: Method, drawing: Drawing) -> float:
    """The standard error of ln N*, from the draws that have a minimum.

    With medians it is at least a third of the grid's step for each gap, and grows with the share of
    draws without a minimum (Porian).
    """
    error = float(log_n.std())
    if not method.median:
        return error
    step = (x.max() - x.min()) / ((len(x) - 1) * _GRID - 1)
    return float(max(error, _LEAST_SD * step) * drawing.draws / len(log_n))
