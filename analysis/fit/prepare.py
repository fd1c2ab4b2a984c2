"""A table of points -> a problem in the solver's units, checked."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from stepladder.analysis.laws import law_named
from stepladder.analysis.laws.law import Input, Law, in_units, jacobian
from stepladder.analysis.tables.checks import distinct, positive_values
from stepladder.configs.core.errors import UserError, nearest

# a singular value below this share of the largest: the direction changes no prediction
RANK_TOLERANCE = 1e-7


@dataclass(frozen=True)
class Prepared:
    """A problem in centred, scaled units: x [n, inputs], y [n], w [n].

    `fixed` are parameters held at values in the units of the data.
    """

    law: Law
    x: np.ndarray
    y: np.ndarray
    w: np.ndarray
    centre: tuple[float, ...]  # logs of the units of the inputs
    scale: float  # of the output
    distinct: dict[str, int]
    fixed: Mapping[str, float]

    @property
    def free(self) -> np.ndarray:
        """Which parameters are fitted: bool [P]."""
        return np.array([name not in self.fixed for name in self.law.parameters])

    def to_data_units(self, theta: np.ndarray) -> dict[str, np.ndarray]:
        """Parameters by name in the units of the data, of theta [P] or [S, P]."""
        return self.law.to_data_units(theta, np.array(self.centre), self.scale)

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
        x = self.law.to_solver_inputs(np.stack([v.ravel() for v in raw], 1), np.array(self.centre))
        if theta.ndim == 2:
            out = self.law.function(np, theta[:, None, :], x)
            return np.broadcast_to(out, (len(theta), 1))[:, 0] * self.scale
        return (self.scale * self.law.function(np, theta, x)).reshape(raw[0].shape)[()]

    def residuals(self, theta: np.ndarray, log: bool) -> np.ndarray:
        """Prediction - output of every point [n], of logs or of output / scale."""
        prediction = self.law.function(np, theta, self.x)
        return np.log(prediction) - np.log(self.y) if log else prediction - self.y


def prepare(
    points: pd.DataFrame,
    law: str = "chinchilla",
    *,
    loss: str | None = None,
    weights: str | None = None,
    unidentified: str = "refuse",
    fixed: Mapping[str, float] | None = None,
) -> Prepared:
    """Check a table and centre it; the arguments are those of `fit`.

    Raises:
        UserError: for an unknown law or parameter, a missing column, a bad value, or too few points
            or different inputs.
    """
    form, held = law_named(law), dict(fixed or {})
    if unidentified not in ("refuse", "report"):
        raise UserError(f"unidentified={unidentified!r}: use 'refuse' or 'report'")
    _check_fixed(form, held)
    columns = [*form.inputs, loss or form.output] + ([weights] if weights else [])
    zero = [i for i, a in enumerate(form.axes) if a.kind in ("linear", "share")]
    weight = [len(form.inputs) + 1] if weights else []
    values = positive_values(points, columns, may_be_zero=zero + weight)
    raw, y = values[:, : len(form.inputs)], values[:, len(form.inputs)]
    w = values[:, -1] if weights else np.ones(len(values))
    used = w > 0
    counts = {name: distinct(raw[used, i]) for i, name in enumerate(form.inputs)}
    if unidentified == "refuse":
        _check_points(form, int(used.sum()), held)
    short = [a for a in form.axes if counts[a.name] < a.distinct]
    if unidentified == "refuse" and short and not held:
        raise _too_few_values(form, short[0], counts, "")
    if not used.any():
        raise UserError(f"points=0: nothing to fit with law {form.name}; add finished runs")
    centre = form.centre(raw, w)
    scale = 1.0 if form.unitless else float(np.median(y[used]))
    solved = in_units(form, held, centre, scale) if held else form
    x = solved.to_solver_inputs(raw, centre)
    problem = Prepared(solved, x, y / scale, w, tuple(map(float, centre)), scale, counts, held)
    # A held parameter takes the place of some of the values, which ones the formula decides.
    if unidentified == "refuse" and short and held and _typical_rank(problem) < problem.free.sum():
        raise _too_few_values(form, short[0], counts, f" also with {', '.join(held)} held")
    return problem


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


def _check_points(law: Law, points: int, fixed: Mapping[str, float]) -> None:
    free = len(law.parameters) - len(fixed)
    if points < free:
        raise UserError(
            f"points={points}: law {law.name} has {free} free parameters; add runs, fix some or "
            "fit a smaller law"
        )


def _too_few_values(law: Law, axis: Input, counts: Mapping[str, int], held: str) -> UserError:
    return UserError(
        f"{axis.name}: {counts[axis.name]} different values; law {law.name} needs {axis.distinct}"
        f"{held}; train other sizes or durations, fix parameters from another fit, or "
        "unidentified='report'"
    )


def _typical_rank(p: Prepared) -> int:
    """The rank at the middle of the starts: directions that change a prediction."""
    middle = {
        a.name: np.sqrt(a.start[0] * a.start[1]) if a.positive else float(np.mean(a.start))
        for a in p.law.params
    }
    slope = jacobian(p.law, p.law.theta(middle), p.x[p.w > 0])[:, p.free]
    singular = np.linalg.svd(slope, compute_uv=False)
    return int((singular > RANK_TOLERANCE * singular[0]).sum())
