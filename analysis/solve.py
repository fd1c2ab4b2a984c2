"""The solver: damped Newton (Levenberg-Marquardt damping) on a batch of small robust least-squares problems, in one program.

Every job has its own start, its own losses and its own weights over shared inputs: starts, bootstrap resamples and back-tests (a hidden
point has weight 0) are all jobs of one vmapped `lax.while_loop`. Jacobian and Hessian are exact, by autodiff. With the plain
Gauss-Newton matrix Huber at delta = 1e-3 converges linearly, since nearly all of its points lie on the straight parts; the exact
Hessian is what reaches the published optimum.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from stepladder.analysis.law import LAWS

MAX_ITERATIONS = 200
_JOBS, _POINTS = 512, 32  # batches are padded to multiples, so that one compiled program serves a whole forecast


@dataclass(frozen=True)
class Objective:
    """sum_i w_i rho(residual_i); residual = transform(prediction) - transform(loss). `rho`: (xp, residual, delta) -> cost."""

    name: str
    transform: Callable[[Any, Any], Any]
    rho: Callable[[Any, Any, Any], Any]
    source: str


def _log(xp: Any, value: Any) -> Any:
    return xp.log(value)


def _same(xp: Any, value: Any) -> Any:
    return value


def _huber(xp: Any, r: Any, delta: Any) -> Any:
    size = abs(r)
    return xp.where(size <= delta, 0.5 * r * r, delta * (size - 0.5 * delta))


def _square(xp: Any, r: Any, delta: Any) -> Any:
    return 0.5 * r * r


OBJECTIVES = {
    o.name: o
    for o in (
        Objective("huber_log", _log, _huber, "2203.15556"),
        Objective("squared_log", _log, _square, "2410.11840, in log loss"),
        Objective("squared", _same, _square, "2410.11840"),
    )
}


@dataclass(frozen=True)
class Solution:
    """Per job: theta [K, P], objective [K], converged [K]; and the iterations of the slowest job."""

    theta: np.ndarray
    value: np.ndarray
    converged: np.ndarray
    iterations: int


@contextlib.contextmanager
def float64() -> Iterator[None]:
    """float64 on the CPU inside of the block only: no process-wide flag changes, and a training accelerator is left alone."""
    import jax

    with jax.enable_x64(True), jax.default_device(jax.local_devices(backend="cpu")[0]):
        yield


def solve(law: str, objective: str, delta: float, x: np.ndarray, y: np.ndarray, w: np.ndarray, theta0: np.ndarray) -> Solution:
    """Minimise every job. x [n, inputs] centred logs; y [K, n] loss / scale; w [K, n] weights; theta0 [K, P]."""
    jobs, points = y.shape
    pad_j, pad_n = -jobs % _JOBS, -points % _POINTS
    x = np.pad(np.asarray(x, float), ((0, pad_n), (0, 0)))
    y = np.pad(np.asarray(y, float), ((0, pad_j), (0, pad_n)), constant_values=1.0)
    w = np.pad(np.asarray(w, float), ((0, pad_j), (0, pad_n)))  # a padded job has no weight at all and stops at once
    theta0 = np.pad(np.asarray(theta0, float), ((0, pad_j), (0, 0)), mode="edge")
    with float64():
        out = [np.asarray(v) for v in _program(law, objective)(x, y, w, theta0, np.float64(delta))]
    theta, value, converged, iterations = out
    return Solution(theta[:jobs], value[:jobs], converged[:jobs], int(iterations[:jobs].max()))


@functools.cache
def _program(law_name: str, objective_name: str) -> Callable:
    import jax
    import jax.numpy as jnp

    law, objective = LAWS[law_name], OBJECTIVES[objective_name]
    lower, upper = np.array(law.lower), np.array(law.upper)

    def residuals(theta, x, y):
        return objective.transform(jnp, law.function(jnp, theta, x)) - objective.transform(jnp, y)

    def evaluate(theta, x, y, w, delta):
        def cost(theta):
            # Rescaled to order one: summed Huber values are 1e-3 and below, where absolute tolerances stop early.
            return jnp.sum(w * objective.rho(jnp, residuals(theta, x, y), delta)) / delta**2

        value, gradient = jax.value_and_grad(cost)(theta)
        return value, gradient, jax.hessian(cost)(theta)

    def descend(x, y, w, theta, delta):
        lower_, upper_ = jnp.asarray(lower), jnp.asarray(upper)
        theta = jnp.clip(theta, lower_, upper_)
        size = theta.shape[0]

        def going(state):
            return (state["iteration"] < MAX_ITERATIONS) & ~state["done"]

        def body(state):
            theta, value, gradient, hessian = state["theta"], *state["at"]
            # A parameter on its bound that wants to leave the box is held for this step.
            held = ((theta <= lower_) & (gradient > 0)) | ((theta >= upper_) & (gradient < 0))
            free = jnp.where(held, 0.0, 1.0)
            scale = jnp.maximum(jnp.abs(jnp.diagonal(hessian)), 1e-10)
            matrix = hessian * free[:, None] * free[None, :] + jnp.diag(state["damping"] * scale + (1 - free))
            step = -jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(matrix), True), gradient * free)
            # A matrix that is not positive definite gives NaN: take a short gradient step, and more damping when that fails.
            step = jnp.where(jnp.all(jnp.isfinite(step)), step, -gradient * free / (scale * (1 + state["damping"])))
            step = step * jnp.minimum(1.0, 1.0 / jnp.maximum(jnp.max(jnp.abs(step)), 1e-300))  # a factor e at most
            proposal = jnp.clip(theta + step, lower_, upper_)
            moved = jnp.max(jnp.abs(proposal - theta))
            new = evaluate(proposal, x, y, w, delta)
            better = new[0] < value
            damping = jnp.where(better, jnp.maximum(state["damping"] / 5, 1e-14), jnp.maximum(state["damping"], 1e-10) * 4)
            small = better & (value - new[0] <= 1e-13 * value)
            quiet = jnp.where(small, state["quiet"] + 1, jnp.where(better, 0, state["quiet"]))
            # Done: the step is below float64's resolution, or three accepted steps in a row gained nothing, or no step helps any more.
            done = (state["iteration"] > 0) & ((moved < 1e-11) | (quiet >= 3) | (damping > 1e14))
            pick = lambda a, b: jnp.where(better, a, b)  # noqa: E731
            return {
                "theta": pick(proposal, theta),
                "at": tuple(pick(a, b) for a, b in zip(new, state["at"])),
                "damping": damping,
                "quiet": quiet,
                "done": done,
                "iteration": state["iteration"] + 1,
            }

        # The first pass evaluates the start itself (a zero step from an infinite cost): the program then holds one copy of the
        # derivatives instead of two, and compiles in half the time.
        state = {
            "theta": theta,
            "at": (jnp.asarray(jnp.inf), jnp.zeros(size), jnp.eye(size)),
            "damping": jnp.asarray(1e-3),
            "quiet": jnp.asarray(0),
            "done": jnp.asarray(jnp.sum(w) == 0),
            "iteration": jnp.asarray(0),
        }
        state = jax.lax.while_loop(going, body, state)
        return state["theta"], state["at"][0] * delta**2, state["done"], state["iteration"]

    return jax.jit(jax.vmap(descend, in_axes=(None, 0, 0, 0, None)))
