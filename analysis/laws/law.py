"""What a scaling law is: a pure function of a few parameters and inputs, with all that a fit must
know about it.

A fit never sees raw inputs. Counts enter as ln(value / unit), the output as output / scale, unit
and scale being typical values of the points, so that every parameter is of order one, nothing
depends on the units of the table, and a term's coefficient is nearly uncorrelated with its
exponent. `rescale` undoes it; since changes of units form a group, it also goes the other way.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Parameter:
    """A parameter, `start` and `bounds` in centred units.

    The solver sees the logarithm of a positive one.
    """

    name: str
    start: tuple[float, float]  # where starts are drawn from
    bounds: tuple[float, float]
    positive: bool = True


@dataclass(frozen=True)
class Input:
    """An input column.

    A law sees ln(v / unit) of a "log", ln v of a "raw", v / unit of a "linear" (which may be 0), v
    of a "share" in [0, 1].
    """

    name: str
    distinct: int = 2  # different values without which the parameters cannot be identified
    kind: str = "log"
    # inputs with the same unit (say, two token counts) share one centre; empty is a unit of its own
    unit: str = ""
    falls: bool = False  # whether the output falls (never rises) in it, all else equal


@dataclass(frozen=True)
class Law:
    """output = function(xp, p, *inputs), `p` with one attribute a parameter, `xp` numpy or
    jax.numpy.

    rescale: (p, c, s) -> the parameters that change when p belongs to inputs v / exp(c.<unit>) and
    output / s, as a dict in the units of v. linear: parameters in which the output is linear when
    the others are given; their starts are least-squares solves.
    """

    name: str
    formula: str
    source: str  # arXiv id
    axes: tuple[Input, ...]
    params: tuple[Parameter, ...]
    call: Callable[..., Any]
    rescale: Callable[[Any, Any, Any], dict]
    linear: tuple[str, ...] = ()
    output: str = "loss"
    draws: int = 32  # starts of a fit
    unitless: bool = False  # of the output (a probability): its scale stays 1
    note: str = ""  # domain of validity, what is known to go wrong

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(a.name for a in self.axes)

    @property
    def parameters(self) -> tuple[str, ...]:
        return tuple(p.name for p in self.params)

    @property
    def lower(self) -> np.ndarray:
        return self.theta({p.name: p.bounds[0] for p in self.params})

    @property
    def upper(self) -> np.ndarray:
        return self.theta({p.name: p.bounds[1] for p in self.params})

    def theta(self, values: dict[str, Any]) -> np.ndarray:
        """Values by name (floats, or arrays [S]) -> what the solver sees: [P] or [S, P]."""
        with np.errstate(divide="ignore"):
            columns = [
                np.log(values[p.name]) if p.positive else np.asarray(values[p.name], float)
                for p in self.params
            ]
        return np.stack(np.broadcast_arrays(*columns), axis=-1)

    def values(self, xp: Any, theta: Any) -> dict[str, Any]:
        """The inverse of `theta`."""
        return {
            p.name: xp.exp(theta[..., i]) if p.positive else theta[..., i]
            for i, p in enumerate(self.params)
        }

    def function(self, xp: Any, theta: Any, x: Any) -> Any:
        """theta [P], x [n, inputs] centred -> output / scale [n]."""
        return self.call(
            xp, SimpleNamespace(**self.values(xp, theta)), *(x[:, i] for i in range(len(self.axes)))
        )

    def natural(self, theta: np.ndarray, centre: np.ndarray, scale: float) -> dict[str, Any]:
        """Parameters in the units of the data, from theta [P] or [S, P]; `centre` [inputs] are the
        logs of the units.
        """
        return self._moved(
            self.values(np, np.asarray(theta, float)), np.asarray(centre, float), scale
        )

    def centred(self, natural: dict[str, Any], centre: np.ndarray, scale: float) -> np.ndarray:
        """The inverse of `natural`."""
        return self.theta(self._moved(natural, -np.asarray(centre, float), 1.0 / scale))

    def _moved(self, values: dict[str, Any], centre: np.ndarray, scale: float) -> dict[str, Any]:
        units = SimpleNamespace(**{a.unit or a.name: c for a, c in zip(self.axes, centre)})
        return values | self.rescale(SimpleNamespace(**values), units, scale)

    def centre(self, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Log of the unit of every input [inputs], from raw values [n, inputs]: geometric mean of a
        log input, mean of a linear one.
        """
        logs: dict[str, list[float]] = {}
        for i, a in enumerate(self.axes):
            v, w = values[weights > 0, i], weights[weights > 0]
            if a.kind == "log":
                logs.setdefault(a.unit or a.name, []).append(
                    float(np.average(np.log(v), weights=w))
                )
            elif a.kind == "linear":
                logs.setdefault(a.unit or a.name, []).append(
                    float(np.log(np.average(np.abs(v), weights=w) or 1.0))
                )
        return np.array([float(np.mean(logs.get(a.unit or a.name, [0.0]))) for a in self.axes])

    def enter(self, values: np.ndarray, centre: np.ndarray) -> np.ndarray:
        """Raw values [n, inputs] -> x [n, inputs], what `function` takes."""
        enters = {
            "log": lambda v, c: np.log(v) - c,
            "raw": lambda v, c: np.log(v),
            "linear": lambda v, c: v / np.exp(c),
            "share": lambda v, c: v,
        }
        return np.stack(
            [enters[a.kind](values[:, i], centre[i]) for i, a in enumerate(self.axes)], axis=1
        )

    def starts(self, x: np.ndarray, y: np.ndarray, w: np.ndarray) -> np.ndarray:
        """theta [draws, P]: nonlinear parameters spread evenly over their ranges, linear ones by
        least squares (variable projection).
        """
        curved = [p for p in self.params if p.name not in self.linear]
        spread = halton(self.draws, len(curved)) if curved else np.zeros((1, 0))
        values = {}
        for p, u in zip(curved, spread.T):
            low, high = p.start
            values[p.name] = low * (high / low) ** u if p.positive else low + (high - low) * u
        rows = [
            self.projected({name: v[k] for name, v in values.items()}, x, y, w)
            for k in range(len(spread))
        ]
        return np.clip(np.array([self.theta(row) for row in rows]), self.lower, self.upper)

    def projected(
        self, curved: dict[str, Any], x: np.ndarray, y: np.ndarray, w: np.ndarray
    ) -> dict[str, Any]:
        """`curved`, the nonlinear parameters, with the linear ones at their least-squares
        values.
        """
        straight = [p for p in self.params if p.name not in curved]
        if not straight:
            return curved
        keep = w > 0
        x, y, root = x[keep], y[keep], np.sqrt(w[keep])
        columns = [x[:, i] for i in range(len(self.axes))]

        def at(**unit):
            values = curved | {p.name: unit.get(p.name, 0.0) for p in straight}
            return np.broadcast_to(self.call(np, SimpleNamespace(**values), *columns), y.shape)

        offset = at()
        design = np.stack([at(**{p.name: 1.0}) - offset for p in straight], axis=1) * root[:, None]
        least = np.array([p.start[0] if p.positive else -np.inf for p in straight])
        return curved | dict(
            zip((p.name for p in straight), _bounded(design, (y - offset) * root, least))
        )


def in_units(law: Law, names: dict[str, float], centre: np.ndarray, scale: float) -> Law:
    """The same law with the parameters `names` taken in the units of the data and starting at the
    values given, so that they can be held.
    """

    def centred(values: dict[str, Any]) -> dict[str, Any]:
        given = law._moved(values, centre, scale) | {name: values[name] for name in names}
        back = law._moved(given, -np.asarray(centre), 1.0 / scale)
        return values | {name: back[name] for name in names}

    def call(xp: Any, p: Any, *columns: Any) -> Any:
        return law.call(xp, SimpleNamespace(**centred(vars(p))), *columns)

    def rescale(p: Any, c: Any, s: Any) -> dict:
        return {k: v for k, v in law._moved(centred(vars(p)), centre, s).items() if k not in names}

    wide = {True: (1e-300, 1e300), False: (-1e300, 1e300)}
    params = tuple(
        Parameter(p.name, (names[p.name],) * 2, wide[p.positive], p.positive)
        if p.name in names
        else p
        for p in law.params
    )
    return replace(
        law,
        params=params,
        call=call,
        rescale=rescale,
        linear=tuple(n for n in law.linear if n not in names),
    )


def exp(value: Any) -> Any:
    """numpy's or jax's, whichever `value` belongs to: a law's `rescale` runs on floats and inside
    of a compiled fit.
    """
    return _of(value).exp(value)


def log(value: Any) -> Any:
    """As `exp`."""
    return _of(value).log(value)


def _of(value: Any) -> Any:
    if isinstance(value, (int, float, complex, np.ndarray, np.generic)):
        return np
    import jax.numpy as jnp

    return jnp


def jacobian(law: Law, theta: np.ndarray, x: np.ndarray) -> np.ndarray:
    """d prediction / d theta [n, P] by the complex step in NumPy: exact to rounding, and no
    compilation for a single point.
    """
    step = 1e-30
    columns = [
        np.broadcast_to(law.function(np, theta + 1j * step * unit, x).imag / step, len(x))
        for unit in np.eye(len(theta))
    ]
    return np.stack(columns, 1)


def halton(count: int, dimensions: int) -> np.ndarray:
    """[count, dimensions] in (0, 1), evenly spread and the same whenever asked."""
    primes = [k for k in range(2, 200) if all(k % j for j in range(2, k))]
    out = np.zeros((count, dimensions))
    for d in range(dimensions):
        k, fraction = np.arange(1, count + 1), 1.0
        while k.any():
            fraction /= primes[d]
            out[:, d] += fraction * (k % primes[d])
            k = k // primes[d]
    return out


def _bounded(design: np.ndarray, right: np.ndarray, least: np.ndarray) -> np.ndarray:
    """Least squares with every coefficient at or above `least`: those below are fixed there, the
    others solved again.
    """
    value, fixed = np.where(np.isfinite(least), least, 0.0), np.zeros(design.shape[1], bool)
    while not fixed.all():
        value[~fixed] = np.linalg.lstsq(
            design[:, ~fixed], right - design[:, fixed] @ value[fixed], rcond=None
        )[0]
        below = ~fixed & (value < least)
        value[below] = least[below]
        if not below.any():
            break
        fixed |= below
    return value
