"""Where a fit starts: a law's own spread of starts, or the grid that a paper used."""

import itertools
from collections.abc import Callable

import numpy as np

from stepladder.analysis.laws.law import Law
from stepladder.configs.core.errors import UserError, nearest


def _spread(
    law: Law, x: np.ndarray, y: np.ndarray, w: np.ndarray, centre: np.ndarray, scale: float
) -> np.ndarray:
    return law.starts(x, y, w)


def _hoffmann(
    law: Law, x: np.ndarray, y: np.ndarray, w: np.ndarray, centre: np.ndarray, scale: float
) -> np.ndarray:
    """The 4,500 starts of arXiv:2203.15556 (exponents of 0 become the least ones allowed)."""
    if law.name != "chinchilla":
        raise UserError(
            f"starts: Hoffmann's grid is for law chinchilla, not {law.name}; use 'spread'"
        )
    wide, exponents = (0.0, 5.0, 10.0, 15.0, 20.0, 25.0), (0.0, 0.5, 1.0, 1.5, 2.0)
    a, b, e, alpha, beta = np.array(
        list(itertools.product(wide, wide, (-1.0, -0.5, 0.0, 0.5, 1.0), exponents, exponents))
    ).T
    theta = law.to_solver_units(
        {"E": np.exp(e), "A": np.exp(a), "B": np.exp(b), "alpha": alpha, "beta": beta},
        centre,
        scale,
    )
    return np.clip(theta, law.lower, law.upper)


def _projected(
    law: Law, x: np.ndarray, y: np.ndarray, w: np.ndarray, centre: np.ndarray, scale: float
) -> np.ndarray:
    """Hoffmann's grid with A, B and E at their least-squares values.

    Of the 4,500 starts only the 25 pairs of exponents stay different.
    """
    grid = _hoffmann(law, x, y, w, centre, scale)
    exponents, which = np.unique(grid[:, 3:], axis=0, return_inverse=True)
    solved = [
        law.with_linear_solved({"alpha": alpha, "beta": beta}, x, y, w)
        for alpha, beta in np.exp(exponents)
    ]
    theta = np.array([law.theta(values) for values in solved])
    return np.clip(theta, law.lower, law.upper)[which.ravel()]


STARTS: dict[str, Callable[..., np.ndarray]] = {
    "spread": _spread,
    "hoffmann": _hoffmann,
    "hoffmann_projected": _projected,
}


def starts_named(name: str) -> Callable[..., np.ndarray]:
    """The function that makes the starts of a name. Raises UserError with the nearest known one."""
    if name not in STARTS:
        raise UserError(f"starts={name!r}: unknown; {nearest(name, STARTS)}")
    return STARTS[name]
