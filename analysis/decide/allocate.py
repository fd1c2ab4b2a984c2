"""Compute-optimal allocation: which N and D to buy for a budget.

In closed form where a law has one, numerically for every law of N and D.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from stepladder.analysis.fit.bootstrap import Bootstrap
from stepladder.analysis.fit.levels import intervals, percent
from stepladder.analysis.fit.result import Fit
from stepladder.analysis.laws import LAWS
from stepladder.configs.core.errors import UserError

_GRID = 400  # sizes in the numerical search
_REACH = 1e6  # which goes this factor up and down from the points' mean N


@dataclass(frozen=True)
class Allocation:
    """The optimum at a budget.

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
        """D / N."""
        return self.D / self.N

    def to_frame(self) -> pd.DataFrame:
        """One row a quantity: value, low, high."""
        rows = {"N": self.N, "D": self.D, "loss": self.loss, "D/N": self.tokens_per_parameter}
        rows |= {"a": self.exponent} if self.exponent is not None else {}
        frame = pd.DataFrame({"value": rows})
        frame["low"] = [self.intervals.get(k, (np.nan, np.nan))[0] for k in frame.index]
        frame["high"] = [self.intervals.get(k, (np.nan, np.nan))[1] for k in frame.index]
        return frame

    def __str__(self) -> str:
        head = (
            f"law {self.law}, C = {self.C:.4g} FLOPs "
            f"({self.how}{f', {percent(self.level)} intervals' if self.intervals else ''})"
        )
        return "\n".join(
            [
                head,
                self.to_frame().to_string(float_format=lambda v: f"{v:.5g}", na_rep=""),
                *self.notes,
            ]
        )


def _two_terms(
    p: Mapping[str, Any], c: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Chinchilla and Gadre under C = 6 N D (arXiv 2203.15556): (N, D, loss, a)."""
    alpha = np.asarray(p["alpha"], float)
    beta = np.asarray(p.get("beta", alpha), float)
    total = alpha + beta
    g = (alpha * p["A"] / (beta * p["B"])) ** (1 / total)
    n, d = g * (c / 6) ** (beta / total), (c / 6) ** (alpha / total) / g
    return n, d, p["E"] + p["A"] / n**alpha + p["B"] / d**beta, beta / total


CLOSED: dict[str, Callable[..., Any]] = {"chinchilla": _two_terms, "gadre": _two_terms}


def allocate(
    fit: Fit, C: float, *, bootstrap: Bootstrap | None = None, level: float = 0.9, **given: float
) -> Allocation:
    """The N and D of least loss with 6 N D = C.

    Args:
        fit: of a law of N and D.
        C: FLOPs.
        bootstrap: refits of it, for intervals.
        level: of the intervals.
        given: the law's other inputs (U of a repetition law, k, gamma).

    Raises:
        UserError: for a law without N and D, a missing input, or a budget that is not positive.
    """
    _check(fit, C, given)
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
            searched = np.array(_search(fit, bootstrap.theta, C, given)).T
            found = dict(zip(("N", "D", "loss"), searched))
        found["D/N"] = found["D"] / found["N"]
    return Allocation(
        law=fit.law,
        C=C,
        N=n,
        D=d,
        loss=loss,
        how="closed form" if closed else "numerical",
        exponent=a,
        intervals=intervals(found, level),
        level=level,
        notes=tuple(_outside(fit, {"N": n, "D": d})),
    )


def _outside(fit: Fit, optimum: Mapping[str, float]) -> list[str]:
    """A note on each of the optimum's N and D that lies outside of the points."""
    p, notes = fit.problem, []
    for name, value in optimum.items():
        i = p.law.inputs.index(name)
        if p.law.axes[i].kind not in ("log", "raw"):
            continue
        logs = p.x[:, i] + p.centre[i]
        least, most = np.exp(logs.min()), np.exp(logs.max())
        if not least <= value <= most:
            notes.append(
                f"{name}* = {value:.3g} lies outside of the points' {least:.3g} to {most:.3g}: "
                "an extrapolation"
            )
    return notes


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
    """(N, D, loss) of least loss for each theta [K, P].

    By a grid in log N, then a parabola through the three points around its minimum.
    """
    p = fit.problem
    centre = float(p.centre[p.law.inputs.index("N")])
    log_n = np.linspace(centre - np.log(_REACH), centre + np.log(_REACH), _GRID)
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
