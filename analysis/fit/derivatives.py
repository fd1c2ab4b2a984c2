"""Cost, gradient and second derivatives of a chunk of fits, exact by autodiff, for the solver."""

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from stepladder.analysis.fit.objective import Objective
from stepladder.analysis.laws.law import Law

# parameters up to which second derivatives are taken: their number grows with the square
CURVED = 8


def cost_and_derivatives(
    law: Law, objective: Objective, theta: Any, x: Any, target: Any, w: Any, delta: Any, tau: Any
) -> tuple[Any, Any, Any, Any]:
    """Cost [jobs], gradient [P, jobs], Hessian and majorant [P, P, jobs], all over delta^2.

    Summed Huber values are 1e-3 and below, where absolute tolerances would stop early; over delta^2
    they are of order one. The majorant is never indefinite. Jobs are the last axis: theta [P,
    jobs], x [n, inputs], target (the transformed output) and w [n, jobs].
    """
    import jax
    import jax.numpy as jnp

    size = len(law.params)
    pairs = [(a, b) for a in range(size) for b in range(a + 1)]
    columns = [x[:, i : i + 1] for i in range(x.shape[1])]

    def predict(parts: tuple[Any, ...]) -> Any:
        values = {p.name: jnp.exp(t) if p.positive else t for p, t in zip(law.params, parts)}
        return law.formula_fn(jnp, SimpleNamespace(**values), *columns)

    def rho(r: Any) -> Any:
        return objective.rho(jnp, r, delta, tau) / delta**2

    parts = tuple(theta)
    f = predict(parts)
    per = 1 / f if objective.log else jnp.ones_like(f)
    first = [_slope(predict, a)(parts) * per for a in range(size)]
    r = objective.transform(jnp, f) - target
    one = jnp.ones_like(r)
    cost, pull = jax.jvp(rho, (r,), (one,))
    bend = w * jax.jvp(lambda r: jax.jvp(rho, (r,), (one,))[1], (r,), (one,))[1]
    pull = w * pull
    steady = jnp.where(r == 0, bend, pull / jnp.where(r == 0, 1.0, r))
    total = functools.partial(jnp.sum, axis=0)
    majorant = {(a, b): total(steady * first[a] * first[b]) for a, b in pairs}
    hessian = majorant
    if size <= CURVED:
        drop = bend - pull if objective.log else bend  # the second derivative of a logarithm
        hessian = {
            (a, b): total(
                drop * first[a] * first[b] + pull * per * _slope(_slope(predict, a), b)(parts)
            )
            for a, b in pairs
        }

    def square(half: dict[tuple[int, int], Any]) -> Any:
        return jnp.stack(
            [jnp.stack([half[max(a, b), min(a, b)] for b in range(size)]) for a in range(size)]
        )

    gradient = jnp.stack([total(pull * first[a]) for a in range(size)])
    return total(w * cost), gradient, square(hessian), square(majorant)


def _slope(function: Callable[[tuple[Any, ...]], Any], a: int) -> Callable[..., Any]:
    """d function / d parts[a]: what does not depend on this one part stays a symbolic zero."""
    import jax
    import jax.numpy as jnp

    def slope(parts: tuple[Any, ...]) -> Any:
        def of(part: Any) -> Any:
            return function((*parts[:a], part, *parts[a + 1 :]))

        return jax.jvp(of, (parts[a],), (jnp.ones_like(parts[a]),))[1]

    return slope
