"""The fits of a back-test: all in one batch, or as the paper's authors do it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from stepladder.analysis.decide.backtest.plan import Plan
from stepladder.analysis.decide.backtest.rules import Rules
from stepladder.analysis.fit.exponent_grid import starts_from_grid
from stepladder.analysis.fit.objective import OBJECTIVES
from stepladder.analysis.fit.reference import reference_thetas
from stepladder.analysis.fit.solve import solve
from stepladder.analysis.laws import LAWS

LAW = "chinchilla"


@dataclass(frozen=True)
class Block:
    """The fits of one family: x [n, 2] centred logs, y [n] loss / scale, w [K, n]."""

    x: np.ndarray
    y: np.ndarray
    w: np.ndarray
    centre: np.ndarray
    scale: float


def block_of(plans: Sequence[Plan], w: np.ndarray) -> Block:
    """The fits w [K, n] of the plans of one family, without the points that none of them uses."""
    points, keep = plans[0].points, w.any(0)
    logs = np.log(points[["N", "D"]].to_numpy(float))[keep]
    loss = points["loss"].to_numpy(float)[keep]
    centre = logs.mean(0) if keep.any() else np.zeros(2)
    scale = float(np.median(loss)) if keep.any() else 1.0
    return Block(logs - centre, (loss - plans[0].known[keep]) / scale, w[:, keep], centre, scale)


def _descend(blocks: Sequence[Block], rules: Rules) -> list[np.ndarray]:
    """theta [K, 5] of every block's jobs: the one place that knows the solver.

    Few shapes, so that few programs are compiled.
    """
    out, width = {}, 0
    for i in sorted(range(len(blocks)), key=lambda i: -len(blocks[i].y)):
        b = blocks[i]
        if not len(b.w):
            out[i] = np.zeros((0, 5))
            continue
        # a new shape is a new compilation: 2 s
        if width == 0 or (len(b.y) < width / 8 and width > 1024):
            width = len(b.y)
        pad = width - len(b.y)  # points of weight 0
        # the term of N is already subtracted: A' is one more constant
        logs = b.x * (0.0, 1.0) if rules.borrow else b.x
        x = np.pad(logs, ((0, pad), (0, 0)))
        y = np.pad(b.y, (0, pad), constant_values=1.0)
        w = np.pad(b.w, ((0, 0), (0, pad)))
        # In log loss an error of dL is one of dL / L.
        starts = starts_from_grid(logs, b.y, b.w if rules.objective == "squared" else b.w / b.y**2)
        jobs = np.repeat(w, starts.shape[1], 0)
        delta = OBJECTIVES[rules.objective].solver_delta(rules.delta)
        found = solve(
            LAWS[LAW], rules.objective, delta, x, y, jobs, starts.reshape(-1, starts.shape[-1])
        )
        value = np.where(np.isfinite(found.value), found.value, np.inf).reshape(starts.shape[:2])
        out[i] = found.theta.reshape(starts.shape)[np.arange(len(b.w)), value.argmin(1)]
    return [out[i] for i in range(len(blocks))]


def _as_the_authors(blocks: Sequence[Block], rules: Rules) -> list[np.ndarray]:
    return [
        reference_thetas(b.x + b.centre, b.y * b.scale, b.w, b.centre, b.scale, rules.borrow)
        for b in blocks
    ]


FITTERS: dict[str, Callable[[Sequence[Block], Rules], list[np.ndarray]]] = {
    "batched": _descend,  # the lowest of several minima, every cell in one program
    "reference": _as_the_authors,
}


def params_of(theta: np.ndarray, b: Block) -> dict[str, float]:
    """E, A, B, alpha and beta in the units of the data, from theta [5].

    The authors' fits have no bounds: exp(alpha * centre) may be beyond float64 where A is not, so
    the change of units stays in logs. A parameter that is itself beyond float64 is inf.
    """
    log_e, log_a, log_b, *log_exponents = theta
    alpha, beta = np.exp(log_exponents)
    logs = np.array([log_e, log_a + alpha * b.centre[0], log_b + beta * b.centre[1]])
    with np.errstate(over="ignore"):
        coefficients = np.exp(logs + np.log(b.scale))
    return dict(zip(LAWS[LAW].parameters, map(float, (*coefficients, alpha, beta))))
