"""What an optimum says: parameters, their errors, which of them the points identify, notes."""

import dataclasses

import numpy as np

from stepladder.analysis.fit.objective import Objective, objective_named
from stepladder.analysis.fit.prepare import RANK_TOLERANCE, Prepared
from stepladder.analysis.fit.result import Fit, Identified, Solved
from stepladder.analysis.fit.solve import Solution
from stepladder.analysis.laws.law import jacobian

# Share of a parameter in an unidentified direction above which it is not identified: nothing bounds
# a move along that direction, so any share that is not rounding counts.
_LOST = 1e-3
_WEAK = 0.7  # standard error of a log-parameter above which it is not known to within a factor of 2
_AT_BOUND = 1e-6  # distance to a bound, in the solver's units
_SAME = 1e-4  # relative difference of objectives and predictions within one minimum


def describe(p: Prepared, found: Solution, objective: str, delta: float, tau: float = 0.5) -> Fit:
    """The fit at the best of the solutions `found`, one a start."""
    goal = objective_named(objective)
    best = int(np.argmin(found.value))
    theta, keep = found.theta[best], p.w > 0
    weighted = _weighted_slope(p, theta, goal)
    identified = _identified(p, theta, weighted)
    residual = p.residuals(theta, goal.log)[keep]
    freedom = max(int(keep.sum()) - identified.rank, 1)
    sd = float(np.sqrt((p.w[keep] * residual**2).sum() / p.w[keep].mean() / freedom))
    covariance = np.zeros((len(theta), len(theta)))
    covariance[np.ix_(p.free, p.free)] = _covariance(
        weighted, residual, goal, delta, sd * np.sqrt(p.w[keep].mean())
    )
    unit = 1.0 if goal.log else p.scale
    fit = Fit(
        law=p.law.name,
        objective=goal.name,
        delta=delta,
        tau=tau,
        value=float(np.sum(p.w[keep] * goal.cost(np, residual * unit, delta, tau))),
        params={k: float(v) for k, v in p.to_data_units(theta).items()},
        log_se=_relative_errors(p, theta, covariance, identified),
        residual_sd=sd * unit,
        points=int(keep.sum()),
        distinct=p.distinct,
        identified=identified,
        fixed=tuple(p.fixed),
        solved=_solved(p, found, best, unit ** (2 if goal.name == "squared" else 1)),
        starts=len(found.value),
        notes=(),
        problem=p,
    )
    return dataclasses.replace(fit, notes=_notes(fit))


def _weighted_slope(p: Prepared, theta: np.ndarray, goal: Objective) -> np.ndarray:
    """d residual / d theta times the root of the weights [n, free parameters].

    Points without weight are left out.
    """
    keep = p.w > 0
    slope = jacobian(p.law, theta, p.x)[:, p.free]
    if goal.log:
        slope = slope / p.law.function(np, theta, p.x)[:, None]
    return slope[keep] * np.sqrt(p.w[keep])[:, None]


def _identified(p: Prepared, theta: np.ndarray, weighted: np.ndarray) -> Identified:
    names, free = p.law.parameters, p.free
    # fewer points than parameters: directions without a point
    square = np.pad(weighted, ((0, max(0, free.sum() - len(weighted))), (0, 0)))
    _, singular, directions = np.linalg.svd(square, full_matrices=False)
    rank = int((singular > RANK_TOLERANCE * singular[0]).sum())
    lost = np.zeros(len(names))
    lost[free] = np.abs(directions[rank:]).max(axis=0, initial=0.0)
    near = np.minimum(theta - p.law.lower, p.law.upper - theta) < _AT_BOUND
    return Identified(
        rank=rank,
        condition=float(singular[0] / singular[-1]) if singular[-1] > 0 else float("inf"),
        unidentified=tuple(n for n, share in zip(names, lost) if share > _LOST),
        at_bound=tuple(n for n, touches in zip(names, near & free) if touches),
    )


def _covariance(
    weighted: np.ndarray, residual: np.ndarray, goal: Objective, delta: float, sd: float
) -> np.ndarray:
    """The covariance of theta: s^2 (J'J)^+.

    For Huber it is the sandwich: its meat has psi clipped at delta, its bread is of the points in
    the quadratic part.
    """
    if goal.name != "huber_log":
        return sd**2 * _inverse(weighted.T @ weighted)
    bread = _inverse((weighted * (np.abs(residual) <= delta)[:, None]).T @ weighted)
    meat = weighted * np.clip(residual, -delta, delta)[:, None]
    return bread @ (meat.T @ meat) @ bread


def _inverse(matrix: np.ndarray) -> np.ndarray:
    return np.linalg.pinv(matrix, rcond=RANK_TOLERANCE**2, hermitian=True)


def _relative_errors(
    p: Prepared, theta: np.ndarray, covariance: np.ndarray, identified: Identified
) -> dict[str, float]:
    """Standard errors of ln|parameter| in the units of the data.

    inf where the points do not identify a parameter, or it is beyond float64.
    """
    slope = _relative_slope(p, theta)
    error = np.sqrt(np.maximum(np.einsum("ip,pq,iq->i", slope, covariance, slope), 0))
    known = np.isfinite(error) & ~np.isin(p.law.parameters, identified.unidentified)
    return dict(zip(p.law.parameters, np.where(known, error, np.inf).tolist()))


def _relative_slope(p: Prepared, theta: np.ndarray) -> np.ndarray:
    """d ln|parameter in the units of the data| / d theta [P, P] by central differences.

    Errors are quoted for A and B as printed, not at the centre of the points.
    """
    columns = []
    for unit in np.eye(len(theta)) * 1e-6:
        up, down = (
            np.array([float(v) for v in p.to_data_units(theta + s * unit).values()])
            for s in (1, -1)
        )
        middle = up + down
        with np.errstate(invalid="ignore"):  # a parameter beyond float64 has no slope: nan
            columns.append((up - down) / np.where(middle == 0, np.inf, middle) / 1e-6)
    return np.stack(columns, 1)


@dataclasses.dataclass
class _Minimum:
    value: float
    prediction: np.ndarray
    theta: np.ndarray
    starts: int = 1


def _solved(p: Prepared, found: Solution, best: int, unit: float) -> Solved:
    """The best theta, and the distinct converged minima.

    Two are distinct when their objective values or their predictions at the points differ by more
    than `_SAME`. `unit` is that of the objective.
    """
    seen: list[_Minimum] = []
    for k in np.argsort(found.value):
        value = float(found.value[k])
        if not (found.converged[k] and np.isfinite(value)):
            continue
        prediction = p.law.function(np, found.theta[k], p.x)
        for known in seen:
            if (
                abs(value / max(known.value, 1e-300) - 1) < _SAME
                and np.abs(prediction / known.prediction - 1).max() < _SAME
            ):
                known.starts += 1
                break
        else:
            seen.append(_Minimum(value, prediction, found.theta[k]))
    return Solved(
        theta=tuple(map(float, found.theta[best])),
        minima=tuple((float(m.value * unit), m.starts) for m in seen),
        converged=bool(found.converged[best]),
        thetas=tuple(tuple(map(float, m.theta)) for m in seen),
    )


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
