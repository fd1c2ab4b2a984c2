"""What a fit minimises: objectives of residuals, in one table."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stepladder.configs.core.errors import UserError, nearest


@dataclass(frozen=True)
class Objective:
    """sum_i w_i rho(residual_i), with residual = transform(prediction) - transform(output).

    rho: (xp, residual, delta, tau) -> cost.
    deltas: the widths of smoothing with which the solver approaches an objective with kinks, coarse
    to fine; the value reported is that of `exact`, without smoothing.
    """

    name: str
    log: bool  # residuals of logs, or in the unit of the output
    rho: Callable[[Any, Any, Any, Any], Any]
    source: str
    deltas: tuple[float, ...] = ()
    exact: Callable[[Any, Any, Any, Any], Any] | None = None

    def transform(self, xp: Any, value: Any) -> Any:
        """An output as the residuals see it."""
        return xp.log(value) if self.log else value

    def schedule(self, delta: float) -> tuple[float, ...]:
        """The deltas to solve with, one after the other."""
        return self.deltas or (delta,)

    def solver_delta(self, delta: float) -> float:
        """The delta of the solver, which divides by its square.

        A squared objective has no threshold: 1e-3 brings its values to order one all the same.
        Raises UserError unless `delta` is positive.
        """
        if not delta > 0:
            raise UserError(f"delta={delta}: must be positive; 1e-3 is the published value")
        return delta if self.name == "huber_log" else 1e-3

    def cost(self, xp: Any, residual: Any, delta: float, tau: float) -> Any:
        """Cost of every residual [n], without smoothing."""
        return (self.exact or self.rho)(xp, residual, delta, tau)


def _huber(xp: Any, r: Any, delta: Any, tau: Any) -> Any:
    size = abs(r)
    return xp.where(size <= delta, 0.5 * r * r, delta * (size - 0.5 * delta))


def _square(xp: Any, r: Any, delta: Any, tau: Any) -> Any:
    return 0.5 * r * r


def _smooth_quantile(xp: Any, r: Any, delta: Any, tau: Any) -> Any:
    """The check function, quadratic within delta.

    Its slope is tau where the output lies above the prediction, 1 - tau below.
    """
    side = xp.where(r < 0, tau, 1 - tau)
    size = abs(r)
    return 2 * side * xp.where(size <= delta, 0.5 * r * r / delta, size - 0.5 * delta)


def _quantile(xp: Any, r: Any, delta: Any, tau: Any) -> Any:
    return 2 * xp.where(r < 0, tau, 1 - tau) * abs(r)


_FINE = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8)

OBJECTIVES = {
    o.name: o
    for o in (
        Objective("huber_log", True, _huber, "2203.15556"),
        Objective("squared_log", True, _square, "2410.11840, in log loss"),
        Objective("squared", False, _square, "2410.11840"),
        Objective(
            "quantile_log",
            True,
            _smooth_quantile,
            "Koenker and Bassett 1978; tau 0.5 is LAD, 2404.10102",
            _FINE,
            _quantile,
        ),
        Objective(
            "quantile", False, _smooth_quantile, "Koenker and Bassett 1978", _FINE, _quantile
        ),
    )
}
SHORT = {"huber": "huber_log", "lad": "quantile_log", "mse": "squared"}  # what people type


def objective_named(name: str) -> Objective:
    """The objective of a name or short name. Raises UserError with the nearest known one."""
    full = SHORT.get(name, name)
    if full not in OBJECTIVES:
        raise UserError(f"objective={name!r}: unknown; {nearest(name, [*OBJECTIVES, *SHORT])}")
    return OBJECTIVES[full]
