"""Fit one law to a table of points: several starts, one program, and a plain account of what the points do and do not identify."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from stepladder.analysis.law import LAWS, Law, jacobian
from stepladder.analysis.solve import OBJECTIVES, solve
from stepladder.configs.errors import UserError, nearest

_RANK = 1e-7  # singular value over the largest, below which a direction of parameter space does not change any prediction
_WEAK = 0.7  # standard error of a log-parameter above which it is not known to within a factor of 2


@dataclass(frozen=True)
class Fit:
    """A fitted law.

    `params` are in the units of the data; `log_se` are relative standard errors (of ln|parameter|), linearised at the optimum.
    """

    law: str
    objective: str
    delta: float  # Huber's threshold, in log loss; unused by the squared objectives
    value: float  # the objective, summed over points
    params: Mapping[str, float]
    log_se: Mapping[str, float]  # inf where not identified; a resampling interval is better wherever there is one
    residual_sd: float  # of log loss (of loss for "squared"), with points - rank in the denominator
    points: int
    distinct: Mapping[str, int]
    rank: int
    condition: float  # of the Jacobian in log-parameters
    unidentified: tuple[str, ...]  # parameters that can move together without changing any prediction at the points
    at_bound: tuple[str, ...]
    minima: tuple[tuple[float, int], ...]  # distinct minima: (objective, number of starts that ended there)
    converged: bool
    starts: int
    notes: tuple[str, ...]
    centre: tuple[float, ...]  # of the log inputs
    scale: float  # of the loss
    theta: tuple[float, ...]  # log-parameters in centred, scaled units

    def predict(self, **inputs: float | np.ndarray) -> np.ndarray:
        """Loss at the law's inputs, e.g. `fit.predict(N=1e6, D=2e7)`; arrays broadcast."""
        return predict(LAWS[self.law], np.array(self.theta), self.centre, self.scale, **inputs)

    def to_dict(self) -> dict:
        """JSON-able."""
        body = dataclasses.asdict(self)
        body["log_se"] = {k: v if np.isfinite(v) else None for k, v in self.log_se.items()}
        body["condition"] = self.condition if np.isfinite(self.condition) else None
        return body | {"formula": LAWS[self.law].formula, "source": LAWS[self.law].source}

    def __str__(self) -> str:
        law = LAWS[self.law]
        lines = [
            f"{law.formula}   (arXiv {law.source})   {self.points} points, "
            f"{', '.join(f'{v} different {k}' for k, v in self.distinct.items())}"
        ]
        for name, value in self.params.items():
            lines.append(f"  {name:<6} {value:>12.6g}   relative s.e. {self.log_se[name]:.3g}")
        lines.append(
            f"  {self.objective} {self.value:.6g}, residual s.d. {self.residual_sd:.3g}, rank {self.rank}, condition {self.condition:.3g}"
        )
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])


def predict(law: Law, theta: np.ndarray, centre: tuple[float, ...], scale: float, **inputs: float | np.ndarray) -> np.ndarray:
    """Loss of one theta [P], or of many [K, P] at scalar inputs. Raises UserError when an input of the law is missing."""
    for name in law.inputs:
        if name not in inputs:
            raise UserError(f"target={sorted(inputs)}: the law {law.name} needs {name}; add {name}=<number>")
    logs = np.broadcast_arrays(*(np.log(np.asarray(inputs[name], float)) - c for name, c in zip(law.inputs, centre)))
    x = np.stack([v.ravel() for v in logs], 1)
    if theta.ndim == 2:
        return np.array([law.function(np, t, x)[0] for t in theta]) * scale
    return scale * law.function(np, theta, x).reshape(logs[0].shape)[()]


@dataclass(frozen=True)
class Prepared:
    """A problem in centred, scaled units: x [n, inputs], y [n], w [n]."""

    law: Law
    x: np.ndarray
    y: np.ndarray
    w: np.ndarray
    centre: tuple[float, ...]
    scale: float
    distinct: dict[str, int]


def prepare(
    points: pd.DataFrame, law: str = "chinchilla", *, loss: str = "loss", weights: str | None = None, unidentified: str = "refuse"
) -> Prepared:
    """Check a table and centre it.

    Raises UserError for an unknown law, a missing column, a bad value, or too few points or different inputs.
    """
    if law not in LAWS:
        raise UserError(f"law={law!r}: unknown; {nearest(law, LAWS)}")
    if unidentified not in ("refuse", "report"):
        raise UserError(f"unidentified={unidentified!r}: use 'refuse' or 'report'")
    spec = LAWS[law]
    columns = [*spec.inputs, loss] + ([weights] if weights else [])
    for name in columns:
        if name not in points:
            raise UserError(f"column {name!r}: missing from the table; {nearest(name, map(str, points.columns))}")
    values = points[columns].to_numpy(float)
    positive = np.isfinite(values) & ((values > 0) | (np.array(columns) == weights))
    if not positive.all():
        row, column = np.argwhere(~positive)[0]
        raise UserError(
            f"column {columns[column]!r}={values[row, column]}: not a positive finite number (row {points.index[row]}); remove or "
            f"mend that row"
        )
    logs = np.log(values[:, : len(spec.inputs)])
    w = values[:, -1] if weights else np.ones(len(values))
    # Different up to one part in a million: D of two runs that differ by rounding of a step is one D to a law.
    distinct = {name: len(np.unique(np.round(logs[w > 0, i], 6))) for i, name in enumerate(spec.inputs)}
    if unidentified == "refuse":
        if (w > 0).sum() < len(spec.parameters):
            raise UserError(f"points={(w > 0).sum()}: law {law} has {len(spec.parameters)} parameters; add runs or fit a smaller law")
        for name, needed in zip(spec.inputs, spec.distinct):
            if distinct[name] < needed:
                raise UserError(
                    f"{name}: {distinct[name]} different values; law {law} needs {needed}; train other sizes or durations, or "
                    f"unidentified='report'"
                )
    if not (w > 0).any():
        raise UserError(f"points=0: nothing to fit with law {law}; add finished runs")
    centre = np.average(logs, axis=0, weights=w)
    scale = float(np.median(values[w > 0, len(spec.inputs)]))
    return Prepared(spec, logs - centre, values[:, len(spec.inputs)] / scale, w, tuple(map(float, centre)), scale, distinct)


def fit(points: pd.DataFrame, law: str = "chinchilla", *, objective: str = "huber_log", delta: float = 1e-3, loss: str = "loss",
        weights: str | None = None, unidentified: str = "refuse") -> Fit:  # fmt: skip
    """Fit `law` to the columns of its inputs and `loss`; `weights` names a column of weights per point.

    The default is Hoffmann's objective (arXiv 2203.15556): Huber at 1e-3 on log loss, summed. `unidentified="report"` fits even where
    points cannot identify the parameters and says which; the default refuses with a UserError.
    """
    problem = prepare(points, law, loss=loss, weights=weights, unidentified=unidentified)
    return fit_prepared(problem, objective=objective, delta=delta)


def fit_prepared(problem: Prepared, *, objective: str = "huber_log", delta: float = 1e-3) -> Fit:
    """`fit` for a problem that was already centred."""
    if objective not in OBJECTIVES:
        raise UserError(f"objective={objective!r}: unknown; {nearest(objective, OBJECTIVES)}")
    p = problem
    threshold = _threshold(objective, delta)
    starts = p.law.starts(p.x, p.y, p.w)
    one = np.ones((len(starts), 1))
    found = solve(p.law.name, objective, threshold, p.x, one * p.y, one * p.w, starts)
    best = int(np.argmin(found.value))
    return describe(p, found.theta[best], objective, delta, found=(found.theta, found.value, found.converged))


def describe(p: Prepared, theta: np.ndarray, objective: str, delta: float, *, found: tuple[np.ndarray, np.ndarray, np.ndarray]) -> Fit:
    """What one optimum says: parameters, errors, rank, bounds, notes.

    `found` are theta [S, P], objective [S] and converged [S] of all starts.
    """
    thetas, values, converged = found
    minima = _minima(p, thetas, values, converged)
    names, keep = p.law.parameters, p.w > 0
    spec = OBJECTIVES[objective]
    prediction = p.law.function(np, theta, p.x)
    residual = (spec.transform(np, prediction) - spec.transform(np, p.y))[keep]
    slope = jacobian(p.law, theta, p.x) / (prediction[:, None] if objective != "squared" else 1.0)
    root = np.sqrt(p.w[keep])
    weighted = slope[keep] * root[:, None]
    _, singular, directions = np.linalg.svd(weighted, full_matrices=False)
    rank = int((singular > _RANK * singular[0]).sum())
    lost = np.abs(directions[rank:]) if rank < len(names) else np.zeros((0, len(names)))
    unidentified = tuple(n for i, n in enumerate(names) if len(lost) and lost[:, i].max() > 0.05)
    freedom = max(int(keep.sum()) - rank, 1)
    sd = float(np.sqrt((p.w[keep] * residual**2).sum() / p.w[keep].mean() / freedom))
    covariance = _covariance(weighted, residual, spec.name, delta, sd * np.sqrt(p.w[keep].mean()))
    natural = _relative_slope(p, theta)
    error = np.sqrt(np.maximum(np.einsum("ip,pq,iq->i", natural, covariance, natural), 0))
    log_se = {n: float("inf") if n in unidentified else float(error[i]) for i, n in enumerate(names)}
    lower, upper = np.array(p.law.lower), np.array(p.law.upper)
    at_bound = tuple(n for i, n in enumerate(names) if min(theta[i] - lower[i], upper[i] - theta[i]) < 1e-6)
    scale = 1.0 if objective != "squared" else p.scale
    fit = Fit(
        law=p.law.name, objective=objective, delta=delta, value=float(np.sum(p.w[keep] * spec.rho(np, residual * scale, delta))),
        params=p.law.natural(theta, np.array(p.centre), p.scale), log_se=log_se, residual_sd=sd * scale, points=int(keep.sum()),
        distinct=p.distinct, rank=rank, condition=float(singular[0] / singular[-1]) if singular[-1] > 0 else float("inf"),
        unidentified=unidentified, at_bound=at_bound, minima=tuple((v * scale**2, c) for v, c in minima),
        converged=bool(converged[np.argmin(values)]), starts=len(values),
        notes=(), centre=p.centre, scale=p.scale, theta=tuple(map(float, theta)),
    )  # fmt: skip
    return dataclasses.replace(fit, notes=_notes(fit))


def _covariance(weighted: np.ndarray, residual: np.ndarray, objective: str, delta: float, sd: float) -> np.ndarray:
    """Of theta: s^2 (J'J)^+ for a squared objective; for Huber the sandwich, psi clipped at delta and the bread from its quadratic part."""
    if objective != "huber_log":
        return sd**2 * np.linalg.pinv(weighted.T @ weighted, rcond=_RANK**2, hermitian=True)
    bread = np.linalg.pinv((weighted * (np.abs(residual) <= delta)[:, None]).T @ weighted, rcond=_RANK**2, hermitian=True)
    meat = weighted * np.clip(residual, -delta, delta)[:, None]
    return bread @ (meat.T @ meat) @ bread


def _relative_slope(p: Prepared, theta: np.ndarray) -> np.ndarray:
    """d ln|natural parameter| / d theta [P, P] by central differences: errors are quoted for A and B as printed, not at the centre."""
    columns = []
    for unit in np.eye(len(theta)) * 1e-6:
        up, down = (np.array([*p.law.natural(theta + s * unit, np.array(p.centre), p.scale).values()]) for s in (1, -1))
        columns.append((up - down) / (up + down) / 1e-6)
    return np.stack(columns, 1)


def _threshold(objective: str, delta: float) -> float:
    """The solver divides by delta^2; a squared objective has no threshold, and 1e-3 puts it at order one all the same."""
    if not delta > 0:
        raise UserError(f"delta={delta}: must be positive; 1e-3 is the published value")
    return delta if objective == "huber_log" else 1e-3


def _minima(p: Prepared, thetas: np.ndarray, values: np.ndarray, converged: np.ndarray) -> tuple[tuple[float, int], ...]:
    """Distinct converged minima: objective values more than 1e-4 apart, or predictions at the points that differ by more than 1e-4."""
    seen: list[list] = []
    for k in np.argsort(values):
        if not (converged[k] and np.isfinite(values[k])):
            continue
        prediction = p.law.function(np, thetas[k], p.x)
        for entry in seen:
            if abs(values[k] / max(entry[0], 1e-300) - 1) < 1e-4 and np.abs(prediction / entry[2] - 1).max() < 1e-4:
                entry[1] += 1
                break
        else:
            seen.append([float(values[k]), 1, prediction])
    return tuple((value, count) for value, count, _ in seen)


def _notes(fit: Fit) -> tuple[str, ...]:
    notes = []
    if fit.unidentified:
        notes.append(
            f"not identified: {', '.join(fit.unidentified)} can move together without changing any prediction at the points (rank "
            f"{fit.rank} of {len(fit.params)})"
        )
    weak = [n for n, se in fit.log_se.items() if np.isfinite(se) and se > _WEAK and n not in fit.at_bound]
    if weak:
        notes.append(f"weakly identified: {', '.join(weak)} {'is' if len(weak) == 1 else 'are'} not known to within a factor of 2")
    if fit.at_bound:
        notes.append(
            f"at a bound: {', '.join(fit.at_bound)}; the points ask for a value outside of the allowed box, so its error is not to be "
            f"trusted"
        )
    if len(fit.minima) > 1:
        others = ", ".join(f"{v:.6g} ({c} starts)" for v, c in fit.minima[1:4])
        notes.append(f"{len(fit.minima)} distinct minima; reported is the lowest, the others have {fit.objective} {others}")
    if not fit.converged:
        notes.append("the best start had not converged after the allowed number of iterations")
    return tuple(notes)
