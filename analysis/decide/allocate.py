"""Compute-optimal allocation: which N and D (and k) to buy, in closed form where a law has one,
numerically for every law of N and D.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from stepladder.analysis.fit.bootstrap import Bootstrap
from stepladder.analysis.fit.fit import Fit
from stepladder.analysis.laws import LAWS
from stepladder.configs.core.errors import UserError

_GRID = 400  # sizes in the numerical search


@dataclass(frozen=True)
class Allocation:
    """Optimum at a budget.

    `intervals` (low, high at `level`) come from the refits of a bootstrap, when one was given.
    """

    law: str
    C: float
    N: float
    D: float
    loss: float
    how: str  # "closed form" or "numerical"
    exponent: float | None  # a in N* ~ C^a, where it is a constant
    intervals: Mapping[str, tuple[float, float]]
    level: float
    notes: tuple[str, ...] = ()

    @property
    def tokens_per_parameter(self) -> float:
        return self.D / self.N

    def to_frame(self) -> pd.DataFrame:
        rows = {"N": self.N, "D": self.D, "loss": self.loss, "D/N": self.tokens_per_parameter}
        rows |= {"a": self.exponent} if self.exponent is not None else {}
        frame = pd.DataFrame({"value": rows})
        frame["low"] = [self.intervals.get(k, (np.nan, np.nan))[0] for k in frame.index]
        frame["high"] = [self.intervals.get(k, (np.nan, np.nan))[1] for k in frame.index]
        return frame

    def __str__(self) -> str:
        head = (
            f"law {self.law}, C = {self.C:.4g} FLOPs "
            f"({self.how}{f', {self.level:.0%} intervals' if self.intervals else ''})"
        )
        return "\n".join(
            [
                head,
                self.to_frame().to_string(float_format=lambda v: f"{v:.5g}", na_rep=""),
                *self.notes,
            ]
        )


def _two_terms(p: Mapping, c: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Chinchilla and Gadre under C = 6 N D (arXiv 2203.15556): (N, D, loss, a)."""
    alpha = np.asarray(p["alpha"], float)
    beta = np.asarray(p.get("beta", alpha), float)
    total = alpha + beta
    g = (alpha * p["A"] / (beta * p["B"])) ** (1 / total)
    n, d = g * (c / 6) ** (beta / total), (c / 6) ** (alpha / total) / g
    return n, d, p["E"] + p["A"] / n**alpha + p["B"] / d**beta, beta / total


def span(found: Mapping[str, np.ndarray], level: float) -> dict[str, tuple[float, float]]:
    """(low, high) of each quantity over refits [K]."""
    tail = (1 - level) / 2
    return {
        k: tuple(float(q) for q in np.quantile(np.asarray(v, float), [tail, 1 - tail]))
        for k, v in found.items()
    }


CLOSED: dict[str, Callable] = {"chinchilla": _two_terms, "gadre": _two_terms}


def allocate(
    fit: Fit, C: float, *, bootstrap: Bootstrap | None = None, level: float = 0.9, **given: float
) -> Allocation:
    """The N and D of least loss with 6 N D = C. `given` are the law's other inputs (U of a
    repetition law, k, gamma).

    Raises UserError for a law without N and D, or without `given`.
    """
    _check(fit, C, given)
    p = fit.problem
    closed = CLOSED.get(fit.law)
    if closed:
        n, d, loss, a = (float(v) for v in closed(fit.params, C))
    else:
        n, d, loss = _search(fit, np.array([fit.theta]), C, given)[0]
        a = None
    found: dict[str, np.ndarray] = {}
    if bootstrap is not None:
        if closed:
            columns = {k: bootstrap.params[k].to_numpy() for k in bootstrap.params}
            found = dict(zip(("N", "D", "loss", "a"), closed(columns, C)))
        else:
            found = dict(
                zip(("N", "D", "loss"), np.array(_search(fit, bootstrap.theta, C, given)).T)
            )
        found["D/N"] = found["D"] / found["N"]
    intervals = span(found, level)
    notes = []
    for name, value in (("N", n), ("D", d)):
        i = p.law.inputs.index(name)
        if p.law.axes[i].kind in ("log", "raw"):
            top = np.exp(p.x[:, i].max() + p.centre[i])
            least = np.exp(p.x[:, i].min() + p.centre[i])
            if not least <= value <= top:
                notes.append(
                    f"{name}* = {value:.3g} lies outside of the points' {least:.3g} to {top:.3g}: "
                    "an extrapolation"
                )
    return Allocation(
        fit.law,
        C,
        n,
        d,
        loss,
        "closed form" if closed else "numerical",
        a,
        intervals,
        level,
        tuple(notes),
    )


def _check(fit: Fit, c: float, given: Mapping[str, float]) -> None:
    law = LAWS[fit.law]
    if not {"N", "D"} <= set(law.inputs):
        raise UserError(
            f"law={fit.law!r}: has no N and D to choose; use a law of both, e.g. chinchilla"
        )
    missing = [name for name in law.inputs if name not in ("N", "D") and name not in given]
    if missing:
        raise UserError(
            f"{missing[0]}: law {fit.law} needs it for an allocation; add {missing[0]}=<number>"
        )
    if not c > 0:
        raise UserError(f"C={c}: must be a positive number of FLOPs")


def _search(
    fit: Fit, thetas: np.ndarray, c: float, given: Mapping[str, float]
) -> list[tuple[float, float, float]]:
    """(N, D, loss) of each theta [K, P]: a grid in log N, then a parabola through the three points
    around its minimum.
    """
    p = fit.problem
    centre = float(p.centre[p.law.inputs.index("N")])
    span = np.log(1e6)
    log_n = np.linspace(centre - span, centre + span, _GRID)
    out = []
    for theta in thetas:
        n = np.exp(log_n)
        loss = p.predict(
            theta, N=n, D=c / (6 * n), **{k: np.full(_GRID, v) for k, v in given.items()}
        )
        k = int(np.clip(np.nanargmin(loss), 1, _GRID - 2))
        a, b, _ = np.polyfit(log_n[k - 1 : k + 2] - log_n[k], loss[k - 1 : k + 2], 2)
        best = float(np.exp(log_n[k] + (np.clip(-b / (2 * a), -0.1, 0.1) if a > 0 else 0.0)))
        out.append(
            (best, c / (6 * best), float(p.predict(theta, N=best, D=c / (6 * best), **given)))
        )
    return out


def over_refits(
    decide: Callable[[Mapping[str, float]], Mapping[str, float]],
    fit: Fit,
    bootstrap: Bootstrap,
    *,
    level: float = 0.9,
    most: int = 400,
) -> pd.DataFrame:
    """Any decision that is a function of the parameters (the three below, or one's own), with its
    interval over at most `most` refits.

    Columns value, low, high, refused: the share of refits for which `decide` raised UserError.
    """
    value, many, refused = decide(fit.params), [], 0
    rows = bootstrap.params.iloc[
        np.linspace(0, len(bootstrap.params) - 1, min(most, len(bootstrap.params))).astype(int)
    ]
    for params in rows.to_dict("records"):
        try:
            many.append(decide(params))
        except UserError:
            refused += 1
    frame = pd.DataFrame(many, columns=list(value))
    tail = (1 - level) / 2
    low, high = (frame.quantile(q) for q in (tail, 1 - tail))
    return pd.DataFrame({"value": value, "low": low, "high": high, "refused": refused / len(rows)})


def inference_aware(params: Mapping[str, float], loss: float, D_inf: float) -> dict[str, float]:
    """Sardana (arXiv 2401.00448): least 6 N D + 2 N D_inf at a given loss under the Chinchilla law;
    returns N, D, flops and ratios to the unaware.

    Raises UserError for a loss the law cannot reach.
    """
    e, a, b, alpha, beta = (params[k] for k in ("E", "A", "B", "alpha", "beta"))
    if not loss > e:
        raise UserError(
            f"loss={loss}: not above the law's floor E = {e:.4g}; ask for a higher loss"
        )
    if D_inf < 0:
        raise UserError(f"D_inf={D_inf}: must not be negative")

    def optimum(served: float) -> tuple[float, float, float]:
        # On the curve of equal loss D follows from N; the cost is convex in log N.
        low = np.log((a / (loss - e)) ** (1 / alpha)) + 1e-9
        grid = np.linspace(low, low + 12, 4001)
        for _ in range(4):
            n = np.exp(grid)
            rest = loss - e - a / n**alpha
            d = np.where(rest > 0, (b / np.maximum(rest, 1e-300)) ** (1 / beta), np.inf)
            cost = 6 * n * d + 2 * n * served
            k = int(np.clip(np.argmin(cost), 1, len(grid) - 2))
            best = n[k], d[k], cost[k]
            grid = np.linspace(grid[k - 1], grid[k + 1], 4001)
        return tuple(float(v) for v in best)

    (n, d, cost), (n0, d0, _) = optimum(D_inf), optimum(0.0)
    unaware = 6 * n0 * d0 + 2 * n0 * D_inf
    return {
        "N": n,
        "D": d,
        "flops": cost,
        "N_ratio": n / n0,
        "D_ratio": d / d0,
        "flops_ratio": cost / unaware,
    }


def t2_frontier(params: Mapping[str, float], C: float, C_inf: float) -> dict[str, float]:
    """T^2 approach 1 (arXiv 2604.01411): N, D, k of least loss with 6 N D = C and 2 N k = C_inf;
    one root in log N, by bisection.
    """
    p = params
    low, high = np.log(1.0), np.log(C_inf / 2)  # k of at least 1

    def slope(v):
        return (
            p["beta"] * p["B"] * (6 * np.exp(v) / C) ** p["beta"]
            + p["gamma"] * p["G"] * (2 * np.exp(v) / C_inf) ** p["gamma"]
            - p["alpha"] * p["A"] * np.exp(-p["alpha"] * v)
        )

    if slope(high) < 0:
        middle = high
    else:
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    n = float(np.exp(middle))
    d, k = C / (6 * n), C_inf / (2 * n)
    loss = p["E"] + p["A"] / n ** p["alpha"] + p["B"] / d ** p["beta"] + p["G"] / k ** p["gamma"]
    return {"N": n, "D": d, "k": k, "loss": float(loss)}


def split_point(params: Mapping[str, float], T: float, m: float = 1.0) -> dict[str, float]:
    """Split law h1 without offsets: D + m D2 = T of least loss; m = 1 for one expert, K for K
    experts that share a seed.
    """
    b, beta, b2, beta2 = (params[k] for k in ("B", "beta", "B2", "beta2"))
    share = 1 / (1 + np.exp(-np.linspace(-16, 16, 200_001)))
    d, d2 = share * T, (1 - share) * T / m
    k = int(np.argmin(b / d**beta + b2 / d2**beta2))
    return {"D": float(d[k]), "D2": float(d2[k]), "share": float(share[k])}
