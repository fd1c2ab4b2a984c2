"""Fit one law to a table of points: several starts, one program, and a plain account of what the
points do and do not identify.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from stepladder.analysis.fit.objective import Objective
from stepladder.analysis.fit.objective import objective as objective_of
from stepladder.analysis.fit.solve import solve
from stepladder.analysis.fit.starts import starts as starts_of
from stepladder.analysis.laws import LAWS
from stepladder.analysis.laws.law import Law, in_units, jacobian
from stepladder.configs.core.errors import UserError, nearest

# singular value over the largest, below which a direction of parameter space does not change any
# prediction
_RANK = 1e-7
_WEAK = 0.7  # standard error of a log-parameter above which it is not known to within a factor of 2


@dataclass(frozen=True)
class Prepared:
    """A problem in centred, scaled units: x [n, inputs], y [n], w [n]; `fixed` are parameters held
    at values in the units of the data.
    """

    law: Law
    x: np.ndarray
    y: np.ndarray
    w: np.ndarray
    centre: tuple[float, ...]
    scale: float
    distinct: dict[str, int]
    fixed: Mapping[str, float]

    @property
    def free(self) -> np.ndarray:
        """bool [P]."""
        return np.array([name not in self.fixed for name in self.law.parameters])

    def natural(self, theta: np.ndarray) -> dict:
        """Parameters in the units of the data, of theta [P] or [S, P]."""
        return self.law.natural(theta, np.array(self.centre), self.scale)

    def predict(self, theta: np.ndarray, **inputs: float | np.ndarray) -> np.ndarray:
        """Output of one theta [P] at arrays of inputs, or of many [K, P] at one point: [K].

        Raises UserError when an input is missing.
        """
        for name in self.law.inputs:
            if name not in inputs:
                raise UserError(
                    f"target={sorted(inputs)}: the law {self.law.name} needs {name}; add "
                    f"{name}=<number>"
                )
        raw = np.broadcast_arrays(*(np.asarray(inputs[name], float) for name in self.law.inputs))
        x = self.law.enter(np.stack([v.ravel() for v in raw], 1), np.array(self.centre))
        if theta.ndim == 2:
            return (
                np.broadcast_to(self.law.function(np, theta[:, None, :], x), (len(theta), 1))[:, 0]
                * self.scale
            )
        return (self.scale * self.law.function(np, theta, x)).reshape(raw[0].shape)[()]


@dataclass(frozen=True)
class Fit:
    """A fitted law.

    `params` are in the units of the data; `log_se` are relative standard errors (of ln|parameter|),
    linearised at the optimum.
    """

    law: str
    objective: str
    delta: float  # Huber's threshold, in log output; unused by the other objectives
    tau: float  # of the quantile
    value: float  # the objective, summed over points
    params: Mapping[str, float]
    # inf where not identified; a resampling interval is better wherever there is one
    log_se: Mapping[str, float]
    # of log output (of the output for an objective in its unit), with points - rank in the
    # denominator
    residual_sd: float
    points: int
    distinct: Mapping[str, int]
    rank: int
    condition: float  # of the Jacobian in log-parameters
    # parameters that can move together without changing any prediction at the points
    unidentified: tuple[str, ...]
    at_bound: tuple[str, ...]
    fixed: tuple[str, ...]  # parameters that were given, not fitted
    # distinct minima: (objective, number of starts that ended there)
    minima: tuple[tuple[float, int], ...]
    converged: bool
    starts: int
    notes: tuple[str, ...]
    centre: tuple[float, ...]  # logs of the units of the inputs
    scale: float  # of the output
    theta: tuple[float, ...]  # parameters in centred, scaled units, positive ones as logarithms
    problem: Prepared = field(repr=False, compare=False)
    # of the distinct minima
    thetas: tuple[tuple[float, ...], ...] = field(repr=False, compare=False, default=())

    def predict(self, **inputs: float | np.ndarray) -> np.ndarray:
        """Output at the law's inputs, e.g. `fit.predict(N=1e6, D=2e7)`; arrays broadcast."""
        return self.problem.predict(np.array(self.theta), **inputs)

    @property
    def residuals(self) -> np.ndarray:
        """prediction - output of every point [n]: of logs, or in the unit of the output, as the
        objective has it.
        """
        spec, p = objective_of(self.objective), self.problem
        r = spec.transform(np, p.law.function(np, np.array(self.theta), p.x)) - spec.transform(
            np, p.y
        )
        return r if spec.log else r * p.scale

    def to_dict(self) -> dict:
        """JSON-able."""
        body = {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)
            if f.name not in ("problem", "thetas")
        }
        body["log_se"] = {k: v if np.isfinite(v) else None for k, v in self.log_se.items()}
        body["condition"] = self.condition if np.isfinite(self.condition) else None
        return body | {"formula": LAWS[self.law].formula, "source": LAWS[self.law].source}

    def to_frame(self) -> pd.DataFrame:
        """One row a parameter: value, relative standard error, what is wrong with it."""
        state = {
            n: "fixed"
            if n in self.fixed
            else "unidentified"
            if n in self.unidentified
            else "at bound"
            if n in self.at_bound
            else ""
            for n in self.params
        }
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


def from_dict(body: Mapping) -> Fit:
    """A fit that predicts, from what `to_dict` wrote (of this version or an older one); its points
    are not in it.
    """
    law, centre, scale = LAWS[body["law"]], tuple(body["centre"]), float(body["scale"])
    fixed = {name: float(body["params"][name]) for name in body.get("fixed", ())}
    if fixed:
        law = in_units(law, fixed, np.array(centre), scale)
    p = Prepared(
        law,
        np.zeros((0, len(centre))),
        np.zeros(0),
        np.zeros(0),
        centre,
        scale,
        dict(body["distinct"]),
        fixed,
    )
    known = {f.name for f in dataclasses.fields(Fit)} - {"problem", "thetas"}
    kept = {k: tuple(v) if isinstance(v, list) else v for k, v in body.items() if k in known}
    return Fit(**{"tau": 0.5, "fixed": (), **kept}, problem=p)


def prepare(
    points: pd.DataFrame,
    law: str = "chinchilla",
    *,
    loss: str | None = None,
    weights: str | None = None,
    unidentified: str = "refuse",
    fixed: Mapping[str, float] | None = None,
) -> Prepared:
    """Check a table and centre it.

    Raises UserError for an unknown law or parameter, a missing column, a bad value, or too few
    points or different inputs.
    """
    if law not in LAWS:
        raise UserError(f"law={law!r}: unknown; {nearest(law, LAWS)}")
    if unidentified not in ("refuse", "report"):
        raise UserError(f"unidentified={unidentified!r}: use 'refuse' or 'report'")
    spec, fixed = LAWS[law], dict(fixed or {})
    _check_fixed(spec, fixed)
    loss = loss or spec.output
    columns = [*spec.inputs, loss] + ([weights] if weights else [])
    for name in columns:
        if name not in points:
            raise UserError(
                f"column {name!r}: missing from the table; "
                f"{nearest(name, map(str, points.columns))}"
            )
    values = points[columns].to_numpy(float)
    least = np.array(
        [0.0 if a.kind in ("linear", "share") else np.nextafter(0, 1) for a in spec.axes]
        + [np.nextafter(0, 1)]
        + [0.0]
    )
    good = np.isfinite(values) & (values >= least[: len(columns)])
    if not good.all():
        row, column = np.argwhere(~good)[0]
        raise UserError(
            f"column {columns[column]!r}={values[row, column]}: not a positive finite number (row "
            f"{points.index[row]}); remove or mend that row"
        )
    raw, y = values[:, : len(spec.inputs)], values[:, len(spec.inputs)]
    w = values[:, -1] if weights else np.ones(len(values))
    # Different up to one part in a million: D of two runs that differ by rounding of a step is one
    # D to a law.
    distinct = {name: _distinct(raw[w > 0, i]) for i, name in enumerate(spec.inputs)}
    if unidentified == "refuse":
        free = len(spec.parameters) - len(fixed)
        if (w > 0).sum() < free:
            raise UserError(
                f"points={(w > 0).sum()}: law {law} has {free} free parameters; add runs, fix some "
                "or fit a smaller law"
            )
        for a in spec.axes:
            if distinct[a.name] < a.distinct and not fixed:
                raise UserError(
                    f"{a.name}: {distinct[a.name]} different values; law {law} needs {a.distinct}; "
                    "train other sizes or durations, fix parameters from another fit, or "
                    "unidentified='report'"
                )
    if not (w > 0).any():
        raise UserError(f"points=0: nothing to fit with law {law}; add finished runs")
    centre = spec.centre(raw, w)
    scale = 1.0 if spec.unitless else float(np.median(y[w > 0]))
    if fixed:
        spec = in_units(spec, fixed, centre, scale)
    return Prepared(
        spec,
        spec.enter(raw, centre),
        y / scale,
        w,
        tuple(map(float, centre)),
        scale,
        distinct,
        fixed,
    )


def _check_fixed(law: Law, fixed: dict[str, float]) -> None:
    for name, value in fixed.items():
        if name not in law.parameters:
            raise UserError(
                f"fixed.{name}={value}: law {law.name} has no such parameter; "
                f"{nearest(name, law.parameters)}"
            )
        positive = law.params[law.parameters.index(name)].positive
        if not np.isfinite(value) or (positive and value <= 0):
            raise UserError(
                f"fixed.{name}={value}: must be a {'positive ' if positive else ''}finite number"
            )
    if len(fixed) == len(law.parameters):
        raise UserError(f"fixed={sorted(fixed)}: nothing is left to fit; leave one parameter free")


def _distinct(values: np.ndarray) -> int:
    with np.errstate(divide="ignore"):
        return len(np.unique(np.round(np.log(values), 6)))


def fit(
    points: pd.DataFrame,
    law: str = "chinchilla",
    *,
    objective: str = "huber_log",
    delta: float = 1e-3,
    tau: float = 0.5,
    loss: str | None = None,
    weights: str | None = None,
    unidentified: str = "refuse",
    fixed: Mapping[str, float] | None = None,
    starts: str = "spread",
) -> Fit:
    """Fit `law` to the columns of its inputs and its output (`loss` names another column);
    `weights` names a column of weights a point.

    The default is Hoffmann's objective (arXiv 2203.15556): Huber at 1e-3 on log loss, summed.
    `fixed` holds parameters at given values, e.g. borrowed from another family.
    `unidentified="report"` fits even where points cannot identify the parameters and says which;
    the default refuses with a UserError.
    """
    problem = prepare(
        points, law, loss=loss, weights=weights, unidentified=unidentified, fixed=fixed
    )
    return fit_prepared(problem, objective=objective, delta=delta, tau=tau, starts=starts)


def fit_prepared(
    p: Prepared,
    *,
    objective: str = "huber_log",
    delta: float = 1e-3,
    tau: float = 0.5,
    starts: str = "spread",
) -> Fit:
    """`fit` for a problem that was already centred."""
    spec = objective_of(objective)
    if not 0 < tau < 1:
        raise UserError(f"tau={tau}: must lie between 0 and 1; 0.5 is the median")
    begin = starts_of(starts)(p.law, p.x, p.y, p.w, np.array(p.centre), p.scale)
    begin, which = np.unique(begin, axis=0, return_inverse=True)  # equal starts are solved once
    found = solve(
        p.law, spec.name, threshold(spec, delta), p.x, p.y, p.w, begin, tau=tau, free=p.free
    )
    found = found.take(which.ravel())
    if not np.isfinite(found.value).any():
        raise UserError(
            f"law={p.law.name}: no start has a finite objective; check the units of the columns or "
            "fit a smaller law"
        )
    best = int(np.argmin(found.value))
    return describe(
        p,
        found.theta[best],
        spec.name,
        delta,
        tau,
        found=(found.theta, found.value, found.converged),
    )


def threshold(spec: Objective, delta: float) -> float:
    """The solver divides by delta^2; a squared objective has no threshold, and 1e-3 puts it at
    order one all the same.
    """
    if not delta > 0:
        raise UserError(f"delta={delta}: must be positive; 1e-3 is the published value")
    return delta if spec.name == "huber_log" else 1e-3


def describe(
    p: Prepared,
    theta: np.ndarray,
    objective: str,
    delta: float,
    tau: float = 0.5,
    *,
    found: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> Fit:
    """What one optimum says: parameters, errors, rank, bounds, notes.

    `found` are theta [S, P], objective [S] and converged [S] of all starts.
    """
    thetas, values, converged = found
    minima = _minima(p, thetas, values, converged)
    names, keep, free = p.law.parameters, p.w > 0, p.free
    spec = objective_of(objective)
    prediction = p.law.function(np, theta, p.x)
    residual = (spec.transform(np, prediction) - spec.transform(np, p.y))[keep]
    slope = jacobian(p.law, theta, p.x)[:, free] / (prediction[:, None] if spec.log else 1.0)
    weighted = slope[keep] * np.sqrt(p.w[keep])[:, None]
    # fewer points than parameters: directions without a point
    square = np.pad(weighted, ((0, max(0, free.sum() - len(weighted))), (0, 0)))
    _, singular, directions = np.linalg.svd(square, full_matrices=False)
    rank = int((singular > _RANK * singular[0]).sum())
    lost = np.zeros(len(names))
    lost[free] = np.abs(directions[rank:]).max(axis=0, initial=0.0)
    unidentified = tuple(n for n, share in zip(names, lost) if share > 0.05)
    freedom = max(int(keep.sum()) - rank, 1)
    sd = float(np.sqrt((p.w[keep] * residual**2).sum() / p.w[keep].mean() / freedom))
    covariance = np.zeros((len(names), len(names)))
    covariance[np.ix_(free, free)] = _covariance(
        weighted, residual, spec, delta, sd * np.sqrt(p.w[keep].mean())
    )
    natural = _relative_slope(p, theta)
    error = np.sqrt(np.maximum(np.einsum("ip,pq,iq->i", natural, covariance, natural), 0))
    log_se = {
        n: float("inf") if n in unidentified else float(error[i]) for i, n in enumerate(names)
    }
    near = np.minimum(theta - p.law.lower, p.law.upper - theta) < 1e-6
    at_bound = tuple(n for i, n in enumerate(names) if near[i] and free[i])
    unit = 1.0 if spec.log else p.scale
    cost = spec.cost(np, residual * unit, delta, tau)
    fit = Fit(
        law=p.law.name,
        objective=objective,
        delta=delta,
        tau=tau,
        value=float(np.sum(p.w[keep] * cost)),
        params={k: float(v) for k, v in p.natural(theta).items()},
        log_se=log_se,
        residual_sd=sd * unit,
        points=int(keep.sum()),
        distinct=p.distinct,
        rank=rank,
        condition=float(singular[0] / singular[-1]) if singular[-1] > 0 else float("inf"),
        unidentified=unidentified,
        at_bound=at_bound,
        fixed=tuple(p.fixed),
        minima=tuple(
            (float(v * unit ** (2 if spec.name == "squared" else 1)), c) for v, c, _ in minima
        ),
        converged=bool(converged[np.argmin(values)]),
        starts=len(values),
        notes=(),
        centre=p.centre,
        scale=p.scale,
        theta=tuple(map(float, theta)),
        problem=p,
        thetas=tuple(tuple(map(float, t)) for *_, t in minima),
    )
    return dataclasses.replace(fit, notes=_notes(fit))


def _covariance(
    weighted: np.ndarray, residual: np.ndarray, spec: Objective, delta: float, sd: float
) -> np.ndarray:
    """Of theta: s^2 (J'J)^+; for Huber the sandwich, psi clipped at delta and the bread from its
    quadratic part.
    """
    if spec.name != "huber_log":
        return sd**2 * np.linalg.pinv(weighted.T @ weighted, rcond=_RANK**2, hermitian=True)
    bread = np.linalg.pinv(
        (weighted * (np.abs(residual) <= delta)[:, None]).T @ weighted,
        rcond=_RANK**2,
        hermitian=True,
    )
    meat = weighted * np.clip(residual, -delta, delta)[:, None]
    return bread @ (meat.T @ meat) @ bread


def _relative_slope(p: Prepared, theta: np.ndarray) -> np.ndarray:
    """d ln|natural parameter| / d theta [P, P] by central differences: errors are quoted for A and
    B as printed, not at the centre.
    """
    columns = []
    for unit in np.eye(len(theta)) * 1e-6:
        up, down = (
            np.array([float(v) for v in p.natural(theta + s * unit).values()]) for s in (1, -1)
        )
        middle = up + down
        columns.append((up - down) / np.where(middle == 0, np.inf, middle) / 1e-6)
    return np.stack(columns, 1)


def _minima(
    p: Prepared, thetas: np.ndarray, values: np.ndarray, converged: np.ndarray
) -> list[tuple[float, int, np.ndarray]]:
    """Distinct converged minima: objective values more than 1e-4 apart, or predictions at the
    points that differ by more than 1e-4.
    """
    seen: list[list] = []
    for k in np.argsort(values):
        if not (converged[k] and np.isfinite(values[k])):
            continue
        prediction = p.law.function(np, thetas[k], p.x)
        for entry in seen:
            if (
                abs(values[k] / max(entry[0], 1e-300) - 1) < 1e-4
                and np.abs(prediction / entry[2] - 1).max() < 1e-4
            ):
                entry[1] += 1
                break
        else:
            seen.append([float(values[k]), 1, prediction, thetas[k]])
    return [(value, count, theta) for value, count, _, theta in seen]


def _notes(fit: Fit) -> tuple[str, ...]:
    notes = []
    if fit.objective.startswith("quantile"):
        notes.append(
            "standard errors of a quantile fit are those of least squares, too small; bootstrap it"
        )
    if fit.unidentified:
        notes.append(
            f"not identified: {', '.join(fit.unidentified)} can move together without changing any "
            f"prediction at the points (rank {fit.rank} of {len(fit.params) - len(fit.fixed)})"
        )
    weak = [
        n
        for n, se in fit.log_se.items()
        if np.isfinite(se) and se > _WEAK and n not in fit.at_bound
    ]
    if weak:
        notes.append(
            f"weakly identified: {', '.join(weak)} {'is' if len(weak) == 1 else 'are'} not known "
            "to within a factor of 2"
        )
    if fit.at_bound:
        notes.append(
            f"at a bound: {', '.join(fit.at_bound)}; the points ask for a value outside of the "
            "allowed box, so its error is not to be trusted"
        )
    if len(fit.minima) > 1:
        others = ", ".join(f"{v:.6g} ({c} starts)" for v, c in fit.minima[1:4])
        notes.append(
            f"{len(fit.minima)} distinct minima; reported is the lowest, the others have "
            f"{fit.objective} {others}"
        )
    if not fit.converged:
        notes.append("the best start had not converged after the allowed number of iterations")
    return tuple(notes)
