"""What a scaling law is: a pure function, with all that a fit must know about it.

A fit never sees raw inputs. Counts enter as ln(value / unit) and the output as output / scale,
where unit and scale are typical values of the points. Every parameter is then of order one, nothing
depends on the units of the table, and the coefficient of a term is nearly uncorrelated with its
exponent. `rescale` converts parameters between units; since changes of units form a group, the same
function converts back.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Parameter:
    """A parameter: its starts and bounds are in the solver's units.

    The solver works on the logarithm of a positive parameter.
    """

    name: str
    start: tuple[float, float]  # where starts are drawn from
    bounds: tuple[float, float]
    positive: bool = True


def _mean_log(values: np.ndarray, weights: np.ndarray) -> float:
    return float(np.average(np.log(values), weights=weights))


def _log_mean(values: np.ndarray, weights: np.ndarray) -> float:
    return float(np.log(np.average(np.abs(values), weights=weights) or 1.0))


def _without_unit(values: np.ndarray, weights: np.ndarray) -> None:
    return None


@dataclass(frozen=True)
class InputKind:
    """How an input column enters a law.

    to_solver: (values, log of the unit) -> what the law's formula sees.
    log_unit: (values, weights) -> log of the unit of these points; None for an input without one.
    """

    to_solver: Callable[[np.ndarray, float], np.ndarray]
    log_unit: Callable[[np.ndarray, np.ndarray], float | None]


INPUT_KINDS = {
    # kind                  what the law sees                    the unit
    "log": InputKind(lambda v, log_unit: np.log(v) - log_unit, _mean_log),  # geometric mean
    "raw": InputKind(lambda v, log_unit: np.log(v), _without_unit),  # ln v in the table's unit
    "linear": InputKind(lambda v, log_unit: v / np.exp(log_unit), _log_mean),  # v may be 0
    "share": InputKind(lambda v, log_unit: v, _without_unit),  # v in [0, 1]
}


@dataclass(frozen=True)
class Input:
    """An input column; `kind` is a key of INPUT_KINDS."""

    name: str
    distinct: int = 2  # different values without which the parameters cannot be identified
    kind: str = "log"
    # inputs with the same unit (two token counts) share one; empty: the input has its own
    unit: str = ""
    falls: bool = False  # whether the output falls (never rises) in it, all else equal


@dataclass(frozen=True)
class Law:
    """A law: output = formula_fn(xp, p, *inputs).

    `p` has one attribute a parameter, `xp` is numpy or jax.numpy.

    rescale: (p, c, s) -> the parameters that change when p belongs to inputs v / exp(c.<unit>) and
    output / s, as a dict in the units of v.
    linear: parameters in which the output is linear when the others are given; least squares finds
    their starts.
    """

    name: str
    formula: str
    source: str  # arXiv id
    axes: tuple[Input, ...]
    params: tuple[Parameter, ...]
    formula_fn: Callable[..., Any]
    rescale: Callable[[Any, Any, Any], dict[str, Any]]
    linear: tuple[str, ...] = ()
    output: str = "loss"
    n_starts: int = 32
    unitless: bool = False  # the output has no unit (a probability): its scale stays 1
    note: str = ""  # where the law holds, and what is known to go wrong
    alias: str = ""  # a code under which the law was published, accepted as its name

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the input columns."""
        return tuple(a.name for a in self.axes)

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters."""
        return tuple(p.name for p in self.params)

    @property
    def lower(self) -> np.ndarray:
        """Lower bounds of theta [P]."""
        return self.theta({p.name: p.bounds[0] for p in self.params})

    @property
    def upper(self) -> np.ndarray:
        """Upper bounds of theta [P]."""
        return self.theta({p.name: p.bounds[1] for p in self.params})

    def theta(self, values: Mapping[str, Any]) -> np.ndarray:
        """Values by name (floats, or arrays [S]) -> the solver's vector [P] or [S, P]."""
        with np.errstate(divide="ignore"):
            columns = [
                np.log(values[p.name]) if p.positive else np.asarray(values[p.name], float)
                for p in self.params
            ]
        return np.stack(np.broadcast_arrays(*columns), axis=-1)

    def values(self, xp: Any, theta: Any) -> dict[str, Any]:
        """The inverse of `theta`: values by name."""
        return {
            p.name: xp.exp(theta[..., i]) if p.positive else theta[..., i]
            for i, p in enumerate(self.params)
        }

    def function(self, xp: Any, theta: Any, x: Any) -> Any:
        """theta [P] and x [n, inputs], both in the solver's units -> output / scale [n]."""
        return self.formula_fn(
            xp, SimpleNamespace(**self.values(xp, theta)), *(x[:, i] for i in range(len(self.axes)))
        )

    def to_data_units(self, theta: np.ndarray, centre: np.ndarray, scale: float) -> dict[str, Any]:
        """Parameters by name in the units of the data, from theta [P] or [S, P].

        `centre` [inputs] are the logs of the units of the inputs, `scale` is that of the output. A
        parameter beyond float64 is inf.
        """
        values = self.values(np, np.asarray(theta, float))
        with np.errstate(over="ignore"):
            return self.rescaled(values, np.asarray(centre, float), scale)

    def to_solver_units(
        self, values: Mapping[str, Any], centre: np.ndarray, scale: float
    ) -> np.ndarray:
        """The inverse of `to_data_units`: theta [P] or [S, P]."""
        return self.theta(self.rescaled(values, -np.asarray(centre, float), 1.0 / scale))

    def rescaled(
        self, values: Mapping[str, Any], centre: np.ndarray, scale: float
    ) -> dict[str, Any]:
        """`values` in the units of v and the output, given for v / exp(centre), output / scale."""
        units = SimpleNamespace(**{a.unit or a.name: c for a, c in zip(self.axes, centre)})
        return {**values, **self.rescale(SimpleNamespace(**values), units, scale)}

    def centre(self, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Logs of the units of the inputs [inputs], from raw values [n, inputs].

        Inputs that share a unit get the mean of theirs; the unit of the others is 1.
        """
        used = weights > 0
        logs: dict[str, list[float]] = {}
        for i, a in enumerate(self.axes):
            log_unit = INPUT_KINDS[a.kind].log_unit(values[used, i], weights[used])
            if log_unit is not None:
                logs.setdefault(a.unit or a.name, []).append(log_unit)
        return np.array([float(np.mean(logs.get(a.unit or a.name, [0.0]))) for a in self.axes])

    def to_solver_inputs(self, values: np.ndarray, centre: np.ndarray) -> np.ndarray:
        """Raw values [n, inputs] -> x [n, inputs], which `function` takes."""
        return np.stack(
            [
                INPUT_KINDS[a.kind].to_solver(values[:, i], centre[i])
                for i, a in enumerate(self.axes)
            ],
            axis=1,
        )

    def starts(self, x: np.ndarray, y: np.ndarray, w: np.ndarray) -> np.ndarray:
        """Where a fit starts: theta [starts, P].

        Nonlinear parameters are spread evenly over their ranges, linear ones solved by least
        squares (variable projection).
        """
        curved = [p for p in self.params if p.name not in self.linear]
        spread = halton(self.n_starts, len(curved)) if curved else np.zeros((1, 0))
        values = {}
        for p, u in zip(curved, spread.T):
            low, high = p.start
            values[p.name] = low * (high / low) ** u if p.positive else low + (high - low) * u
        rows = [
            self.with_linear_solved({name: v[k] for name, v in values.items()}, x, y, w)
            for k in range(len(spread))
        ]
        return np.clip(np.array([self.theta(row) for row in rows]), self.lower, self.upper)

    def with_linear_solved(
        self, curved: Mapping[str, Any], x: np.ndarray, y: np.ndarray, w: np.ndarray
    ) -> dict[str, Any]:
        """The nonlinear parameters `curved`, with the linear ones at their least squares.

        A positive parameter stays at or above the lower end of its starts.
        """
        straight = [p for p in self.params if p.name not in curved]
        if not straight:
            return dict(curved)
        keep = w > 0
        x, y, root = x[keep], y[keep], np.sqrt(w[keep])
        columns = [x[:, i] for i in range(len(self.axes))]

        def at(**unit: float) -> np.ndarray:
            values = {**curved, **{p.name: unit.get(p.name, 0.0) for p in straight}}
            return np.broadcast_to(
                self.formula_fn(np, SimpleNamespace(**values), *columns), y.shape
            )

        offset = at()
        design = np.stack([at(**{p.name: 1.0}) - offset for p in straight], axis=1) * root[:, None]
        least = np.array([p.start[0] if p.positive else -np.inf for p in straight])
        solved = _bounded_least_squares(design, (y - offset) * root, least)
        return {**curved, **dict(zip((p.name for p in straight), solved))}


def in_units(law: Law, names: Mapping[str, float], centre: np.ndarray, scale: float) -> Law:
    """The same law with the parameters `names` in the units of the data.

    They start at the values given, so that they can be held.
    """

    def to_solver(values: dict[str, Any]) -> dict[str, Any]:
        given = law.rescaled(values, centre, scale) | {name: values[name] for name in names}
        back = law.rescaled(given, -np.asarray(centre), 1.0 / scale)
        return values | {name: back[name] for name in names}

    def formula_fn(xp: Any, p: Any, *columns: Any) -> Any:
        return law.formula_fn(xp, SimpleNamespace(**to_solver(vars(p))), *columns)

    def rescale(p: Any, c: Any, s: Any) -> dict[str, Any]:
        natural = law.rescaled(to_solver(vars(p)), centre, s)
        return {k: v for k, v in natural.items() if k not in names}

    wide = {True: (1e-300, 1e300), False: (-1e300, 1e300)}
    params = tuple(
        Parameter(p.name, (names[p.name], names[p.name]), wide[p.positive], p.positive)
        if p.name in names
        else p
        for p in law.params
    )
    return replace(
        law,
        params=params,
        formula_fn=formula_fn,
        rescale=rescale,
        linear=tuple(n for n in law.linear if n not in names),
    )


def exp(value: Any) -> Any:
    """e^value, by numpy or by jax, whichever `value` belongs to.

    `rescale` runs on floats and inside of a compiled fit.
    """
    return _namespace_of(value).exp(value)


def log(value: Any) -> Any:
    """ln value, by numpy or jax as in `exp`."""
    return _namespace_of(value).log(value)


def _namespace_of(value: Any) -> Any:
    if isinstance(value, (int, float, complex, np.ndarray, np.generic)):
        return np
    import jax.numpy as jnp

    return jnp


def jacobian(law: Law, theta: np.ndarray, x: np.ndarray) -> np.ndarray:
    """d prediction / d theta [n, P] by the complex step in NumPy.

    It is exact to rounding, and compiles nothing for a single point.
    """
    step = 1e-30
    columns = [
        np.broadcast_to(law.function(np, theta + 1j * step * unit, x).imag / step, len(x))
        for unit in np.eye(len(theta))
    ]
    return np.stack(columns, 1)


def halton(count: int, dimensions: int) -> np.ndarray:
    """Points [count, dimensions] in (0, 1), evenly spread and the same whenever asked."""
    from scipy.stats.qmc import Halton

    sequence = Halton(d=dimensions, scramble=False)
    sequence.fast_forward(1)  # SciPy's first point is 0, the lower end of every range
    return sequence.random(count)


def _bounded_least_squares(design: np.ndarray, right: np.ndarray, least: np.ndarray) -> np.ndarray:
    """Least squares with every coefficient at or above `least`."""
    from scipy.optimize import lsq_linear

    return lsq_linear(design, right, bounds=(least, np.inf), method="bvls").x
