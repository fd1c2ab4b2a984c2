"""What a fit minimises: objectives of residuals, in one table."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stepladder.configs.core.errors import UserError, nearest


@dataclass(frozen=True)
class Objective:
    """sum_i w_i rho(residual_i), residual = transform(prediction) - transform(output).

    rho: (xp, residual, delta, tau) -> cost. `deltas`: for an objective with kinks, the smoothing it
    is approached with, coarse to fine; the value reported is that of the limit, `exact`.
    """

    name: str
    log: bool  # residuals of logs, or in the unit of the output
    rho: Callable[[Any, Any, Any, Any], Any]
    source: str
    deltas: tuple[float, ...] = ()
    exact: Callable[[Any, Any, Any, Any], Any] | None = None

    def transform(self, xp: Any, value: Any) -> Any:
        return xp.log(value) if self.log else value

    def schedule(self, delta: float) -> tuple[float, ...]:
        return self.deltas or (delta,)

    def cost(self, xp: Any, residual: Any, delta: float, tau: float) -> Any:
        """Cost of every residual [n], without smoothing."""
        return (self.exact or self.rho)(xp, residual, delta, tau)


def _huber(xp: Any, r: Any, delta: Any, tau: Any) -> Any:
    size = abs(r)
    return xp.where(size <= delta, 0.5 * r * r, delta * (size - 0.5 * delta))


def _square(xp: Any, r: Any, delta: Any, tau: Any) -> Any:
    return 0.5 * r * r


def _smooth_quantile(xp: Any, r: Any, delta: Any, tau: Any) -> Any:
    """The check function of the residual prediction - output: tau where the output lies above, 1 -
    tau below; quadratic within delta.
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


def objective(name: str) -> Objective:
    """The objective of a name or short name. Raises UserError with the nearest known one."""
    full = SHORT.get(name, name)
    if full not in OBJECTIVES:
        raise UserError(f"objective={name!r}: unknown; {nearest(name, [*OBJECTIVES, *SHORT])}")
    return OBJECTIVES[full]
