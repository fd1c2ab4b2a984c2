"""A fitted law: what was found, what the points identify, and how well the solver did."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from stepladder.analysis.fit.objective import objective_named
from stepladder.analysis.fit.prepare import Prepared
from stepladder.analysis.laws import LAWS, law_named
from stepladder.analysis.laws.law import in_units


@dataclass(frozen=True)
class Identified:
    """What the points say about the parameters."""

    rank: int
    condition: float  # of the Jacobian in log-parameters; inf where a direction has no point
    # parameters that can move together without changing any prediction at the points
    unidentified: tuple[str, ...]
    at_bound: tuple[str, ...]


@dataclass(frozen=True)
class Solved:
    """Where the solver ended."""

    # parameters in the solver's units: centred, scaled, positive ones as logarithms
    theta: tuple[float, ...]
    # distinct minima: (objective, number of starts that ended there)
    minima: tuple[tuple[float, int], ...]
    converged: bool
    thetas: tuple[tuple[float, ...], ...] = field(repr=False, compare=False, default=())  # of them


@dataclass(frozen=True)
class Fit:
    """A fitted law.

    `params` are in the units of the data; `log_se` are relative standard errors (of ln|parameter|),
    linearised at the optimum, inf where not identified. A resampling interval is better wherever
    there is one.
    """

    law: str
    objective: str
    delta: float  # Huber's threshold, in log output; unused by the other objectives
    tau: float  # of the quantile
    value: float  # the objective, summed over points
    params: Mapping[str, float]
    log_se: Mapping[str, float]
    # of log output (of the output for an objective in its unit), with points - rank in the
    # denominator
    residual_sd: float
    points: int
    distinct: Mapping[str, int]
    identified: Identified
    fixed: tuple[str, ...]  # parameters that were given, not fitted
    solved: Solved
    starts: int
    notes: tuple[str, ...]
    problem: Prepared = field(repr=False, compare=False)

    @property
    def rank(self) -> int:
        """Directions of parameter space that the points identify."""
        return self.identified.rank

    @property
    def condition(self) -> float:
        """Condition number of the Jacobian."""
        return self.identified.condition

    @property
    def unidentified(self) -> tuple[str, ...]:
        """Parameters that can move together without changing any prediction at the points."""
        return self.identified.unidentified

    @property
    def at_bound(self) -> tuple[str, ...]:
        """Free parameters on an end of their range."""
        return self.identified.at_bound

    @property
    def theta(self) -> tuple[float, ...]:
        """The parameters in the solver's units."""
        return self.solved.theta

    @property
    def minima(self) -> tuple[tuple[float, int], ...]:
        """Distinct minima: (objective, number of starts that ended there)."""
        return self.solved.minima

    @property
    def thetas(self) -> tuple[tuple[float, ...], ...]:
        """theta of each of `minima`."""
        return self.solved.thetas

    @property
    def converged(self) -> bool:
        """Whether the best start had converged."""
        return self.solved.converged

    def predict(self, **inputs: float | np.ndarray) -> Any:
        """Output at the law's inputs, e.g. `fit.predict(N=1e6, D=2e7)`; arrays broadcast."""
        return self.problem.predict(np.array(self.theta), **inputs)

    @property
    def residuals(self) -> np.ndarray:
        """Prediction - output of every point [n].

        Of logs, or in the unit of the output, as the objective has it.
        """
        log = objective_named(self.objective).log
        residuals = self.problem.residuals(np.array(self.theta), log)
        return residuals if log else residuals * self.problem.scale

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; `from_dict` reads it."""
        law = LAWS[self.law]
        return {
            "law": self.law,
            "objective": self.objective,
            "delta": self.delta,
            "tau": self.tau,
            "value": self.value,
            "params": self.params,
            "log_se": {k: v if np.isfinite(v) else None for k, v in self.log_se.items()},
            "residual_sd": self.residual_sd,
            "points": self.points,
            "distinct": self.distinct,
            "rank": self.rank,
            "condition": self.condition if np.isfinite(self.condition) else None,
            "unidentified": self.unidentified,
            "at_bound": self.at_bound,
            "fixed": self.fixed,
            "minima": self.minima,
            "converged": self.converged,
            "starts": self.starts,
            "notes": self.notes,
            "centre": self.problem.centre,
            "scale": self.problem.scale,
            "theta": self.theta,
            "formula": law.formula,
            "source": law.source,
        }

    def to_frame(self) -> pd.DataFrame:
        """One row a parameter: value, relative standard error, what is wrong with it."""
        states = {
            **dict.fromkeys(self.at_bound, "at bound"),
            **dict.fromkeys(self.unidentified, "unidentified"),
            **dict.fromkeys(self.fixed, "fixed"),
        }
        state = {name: states.get(name, "") for name in self.params}
        return pd.DataFrame({"value": self.params, "relative_se": self.log_se, "state": state})

    def __str__(self) -> str:
        law = LAWS[self.law]
        lines = [
            f"{law.formula}   (arXiv {law.source})   {self.points} points, "
            f"{', '.join(f'{v} different {k}' for k, v in self.distinct.items())}"
        ]
        for name, value in self.params.items():
            error = "held" if name in self.fixed else f"relative s.e. {self.log_se[name]:.3g}"
            lines.append(f"  {name:<6} {value:>12.6g}   {error}")
        lines.append(
            f"  {self.objective} {self.value:.6g}, residual s.d. {self.residual_sd:.3g}, rank "
            f"{self.rank}, condition {self.condition:.3g}"
        )
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])


def from_dict(body: Mapping[str, Any]) -> Fit:
    """A fit that predicts, from what `to_dict` wrote (in this version or an older one).

    Its points are not in it.
    """
    law, centre, scale = law_named(body["law"]), tuple(body["centre"]), float(body["scale"])
    fixed = {name: float(body["params"][name]) for name in body.get("fixed", ())}
    held = in_units(law, fixed, np.array(centre), scale) if fixed else law
    counts = dict(body["distinct"])
    nothing = np.zeros((0, len(centre)))
    return Fit(
        law=law.name,
        objective=body["objective"],
        delta=body["delta"],
        tau=body.get("tau", 0.5),
        value=body["value"],
        params=body["params"],
        log_se={k: np.inf if v is None else v for k, v in body["log_se"].items()},
        residual_sd=body["residual_sd"],
        points=body["points"],
        distinct=counts,
        identified=Identified(
            body["rank"],
            np.inf if body["condition"] is None else body["condition"],
            tuple(body["unidentified"]),
            tuple(body["at_bound"]),
        ),
        fixed=tuple(fixed),
        solved=Solved(
            tuple(body["theta"]), tuple(tuple(m) for m in body["minima"]), body["converged"]
        ),
        starts=body["starts"],
        notes=tuple(body["notes"]),
        problem=Prepared(held, nothing, np.zeros(0), np.zeros(0), centre, scale, counts, fixed),
    )
