"""The solver: damped Newton on a queue of small robust least-squares problems.

The damping is Levenberg's and Marquardt's, and all problems share one program.

Every job has its own start, its own losses and weights over shared inputs, and its own set of free
parameters: starts, bootstrap resamples, back-tests (a hidden point has weight 0) and profiles (a
held parameter) are all jobs. A chunk of jobs takes a few iterations in one compiled call; the
finished leave it and the next in the queue take their places, so nobody waits for the slowest,
memory is that of a chunk, and any number of jobs is the same executable. Derivatives are exact, by
autodiff. With the plain Gauss-Newton matrix Huber at delta = 1e-3 converges linearly, since nearly
all of its points lie on the straight parts; the exact Hessian is what reaches the published
optimum.
"""

import contextlib
import functools
import os
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from stepladder.analysis.fit.derivatives import cost_and_derivatives
from stepladder.analysis.fit.objective import OBJECTIVES, Objective
from stepladder.analysis.laws.law import Law

MAX_ITERATIONS = 300
STEPS = 6  # iterations in one call
CHUNK_VALUES = 1 << 14  # points x jobs of a chunk: its temporaries stay in a core's cache
MOST_JOBS = 256  # in a chunk
FARTHEST = 1.0  # change of a log-parameter in one step
PAD = 32  # points are padded to a multiple

# [K, n] or [n], or a function of job numbers [m] -> [m, n]
Rows = np.ndarray | Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Solution:
    """Per job: theta [K, P], objective [K], converged [K], iterations [K]."""

    theta: np.ndarray
    value: np.ndarray
    converged: np.ndarray
    iterations: np.ndarray

    def take(self, jobs: np.ndarray) -> "Solution":
        """The solutions of these job numbers, which may repeat."""
        return Solution(
            self.theta[jobs], self.value[jobs], self.converged[jobs], self.iterations[jobs]
        )


@contextlib.contextmanager
def float64() -> Generator[None, None, None]:
    """float64 on the CPU, inside of the block only.

    No process-wide flag changes, and an accelerator that trains is left alone.
    """
    import jax

    with jax.enable_x64(True), jax.default_device(jax.local_devices(backend="cpu")[0]):
        yield


def solve(
    law: Law,
    objective: str,
    delta: float,
    x: np.ndarray,
    y: Rows,
    w: Rows,
    theta0: np.ndarray,
    *,
    tau: float = 0.5,
    free: np.ndarray | None = None,
    threads: int = 0,
) -> Solution:
    """Minimise every job.

    Args:
        law: what is fitted.
        objective: a key of OBJECTIVES.
        delta: its threshold, as `Objective.solver_delta` gives it.
        x: inputs in the solver's units [n, inputs].
        y: output / scale: [K, n], [n] for all jobs alike, or a function of job numbers (so that
            4,000 resamples of a million points never exist at once).
        w: weights, given like y; a point of weight 0 is hidden.
        theta0: starts [K, P].
        tau: the quantile, for an objective that fits one.
        free: bool [K, P] or [P]; False holds a parameter at its start.
        threads: 0 is one a core.

    Returns:
        A solution a job; its value is inf where no finite objective was found.
    """
    theta0 = np.asarray(theta0, float)
    free = np.ones(theta0.shape, bool) if free is None else np.broadcast_to(free, theta0.shape)
    queue = _Queue(law, OBJECTIVES[objective], float(tau), np.asarray(x, float), y, w, free)
    threads = threads or os.cpu_count() or 1
    first, *finer = OBJECTIVES[objective].schedule(delta)
    found = queue.run(theta0, first, threads)
    for smoothing in finer:
        found = queue.run(found.theta, smoothing, threads)
    return found


class _Queue:
    """The jobs of one problem, solved a chunk at a time by one compiled program."""

    def __init__(
        self,
        law: Law,
        objective: Objective,
        tau: float,
        x: np.ndarray,
        y: Rows,
        w: Rows,
        free: np.ndarray,
    ):
        n = len(x)
        self.pad = -n % PAD
        self.points, self.jobs = n + self.pad, len(free)
        self.x = np.pad(x, ((0, self.pad), (0, 0)), mode="edge")
        self.y, self.w = self._rows(y, 1.0), self._rows(w, 0.0)
        self.free, self.tau = free.astype(float), tau
        self.size = int(np.clip(CHUNK_VALUES // self.points, 1, MOST_JOBS))
        self.program = program(law, objective.name)

    def _rows(self, rows: Rows, fill: float) -> Callable[[np.ndarray], np.ndarray]:
        def padded(part: np.ndarray, jobs: int) -> np.ndarray:
            part = np.broadcast_to(np.asarray(part, float), (jobs, self.points - self.pad))
            return np.pad(part, ((0, 0), (0, self.pad)), constant_values=fill) if self.pad else part

        if callable(rows):
            return lambda jobs: padded(rows(jobs), len(jobs))
        table = np.asarray(rows, float)
        return lambda jobs: padded(table if table.ndim == 1 else table[jobs], len(jobs))

    def run(self, theta0: np.ndarray, delta: float, threads: int) -> Solution:
        """Minimise every job from theta0 [K, P] with one smoothing `delta`."""
        theta, value = theta0.copy(), np.full(self.jobs, np.inf)
        converged, iterations = np.zeros(self.jobs, bool), np.zeros(self.jobs, int)
        waiting = iter(range(self.jobs))

        def work() -> None:
            with float64():
                for jobs, state in self._chunks(waiting, theta0, delta):
                    theta[jobs], value[jobs] = state["theta"].T, state["value"] * delta**2
                    converged[jobs], iterations[jobs] = state["done"], state["iteration"]

        threads = max(1, min(threads, -(-self.jobs // self.size)))
        with float64():  # compile once, before the threads would each do it
            y, w, free, state = self._idle(theta0.shape[1])
            self.program(state, self.x, y, w, free, delta, self.tau)
        with ThreadPoolExecutor(threads) as pool:
            for future in [pool.submit(work) for _ in range(threads)]:
                future.result()
        return Solution(theta, value, converged, iterations)

    def _idle(self, parameters: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Losses, weights, free parameters and state of a chunk without a job."""
        shape = (self.points, self.size)
        return (
            np.ones(shape),
            np.zeros(shape),
            np.ones((parameters, self.size)),
            _fresh(np.zeros((parameters, self.size)), done=True),
        )

    def _chunks(
        self, waiting: Iterator[int], theta0: np.ndarray, delta: float
    ) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
        """Yield finished jobs and their state.

        `waiting` is shared by the threads: a range's iterator hands out each number once.
        """
        job = np.full(self.size, -1)
        y, w, free, state = self._idle(theta0.shape[1])
        while True:
            idle = np.flatnonzero(job < 0)
            new = np.array([j for _, j in zip(idle, waiting)], int)
            if len(new):
                at = idle[: len(new)]
                job[at], free[:, at] = new, self.free[new].T
                y[:, at], w[:, at] = self.y(new).T, self.w(new).T
                for name, values in _fresh(theta0[new].T, done=False).items():
                    state[name][..., at] = values
            if (job < 0).all():
                return
            state = {
                k: np.array(v)
                for k, v in self.program(state, self.x, y, w, free, delta, self.tau).items()
            }
            over = np.flatnonzero(
                (job >= 0) & (state["done"] | (state["iteration"] >= MAX_ITERATIONS))
            )
            if len(over):
                yield job[over], {k: v[..., over] for k, v in state.items()}
                job[over], w[:, over], state["done"][over] = -1, 0.0, True


def _fresh(theta: np.ndarray, done: bool) -> dict[str, np.ndarray]:
    """The state of jobs that begin at theta [P, jobs].

    The first pass evaluates the start itself (a zero step from an infinite cost): the program then
    holds one copy of the derivatives.
    """
    p, k = theta.shape
    unit = np.tile(np.eye(p)[:, :, None], (1, 1, k))
    return {
        "theta": theta.copy(),
        "value": np.full(k, np.inf),
        "gradient": np.zeros((p, k)),
        "hessian": unit,
        "majorant": unit.copy(),
        "damping": np.full(k, 1e-3),
        "growth": np.full(k, 4.0),
        "quiet": np.zeros(k, np.int64),
        "done": np.full(k, done),
        "iteration": np.zeros(k, np.int64),
    }


@functools.cache
def program(law: Law, objective_name: str) -> Callable[..., dict[str, Any]]:
    """The compiled step: STEPS iterations of a chunk of jobs.

    Jobs are the last axis of every array (theta [P, jobs], y and w [n, jobs]): a law is
    elementwise, so it needs no vmap, and sums over points run across jobs in vector registers.
    """
    import jax
    import jax.numpy as jnp

    objective = OBJECTIVES[objective_name]
    lower, upper = law.lower[:, None], law.upper[:, None]
    size = len(law.params)
    at = ("theta", "value", "gradient", "hessian", "majorant")

    def iterate(
        state: dict[str, Any], x: Any, target: Any, w: Any, free: Any, delta: Any, tau: Any
    ) -> dict[str, Any]:
        theta, value, gradient, hessian, majorant = (state[k] for k in at)
        # A parameter on its bound that wants to leave the box is held for this step.
        held = ((theta <= lower) & (gradient > 0)) | ((theta >= upper) & (gradient < 0))
        loose = jnp.where(held, 0.0, free)
        diagonal = jnp.maximum(jnp.stack([majorant[a, a] for a in range(size)]), 1e-10)

        def damped(matrix: Any) -> Any:
            kept = matrix * loose[:, None] * loose[None, :]
            return (
                kept
                + jnp.eye(size)[:, :, None] * (state["damping"] * diagonal + (1 - loose))[None, :]
            )

        newton, definite = _eliminate(jnp, damped(hessian), -gradient * loose)
        # never indefinite, and downhill from far away
        safe, _ = _eliminate(jnp, damped(majorant), -gradient * loose)
        step = jnp.where(definite, newton, safe)
        step = jnp.where(jnp.isfinite(step), step, 0.0)
        step = step * jnp.minimum(
            1.0, FARTHEST / jnp.maximum(jnp.max(jnp.abs(step), axis=0), 1e-300)
        )
        proposal = jnp.where(free > 0, jnp.clip(theta + step, lower, upper), theta)
        moved = jnp.max(jnp.abs(proposal - theta), axis=0)
        new = cost_and_derivatives(law, objective, proposal, x, target, w, delta, tau)
        better = new[0] < value
        # Nielsen's rule: damping follows how well the model foretold the gain, and grows ever
        # faster while steps fail.
        foretold = 0.5 * jnp.sum(
            step * (state["damping"] * diagonal * step - gradient * loose), axis=0
        )
        ratio = (value - new[0]) / foretold
        change = jnp.where(ratio > 0.75, 0.1, jnp.where(ratio > 0.25, 0.5, 2.0))
        damping = jnp.where(
            better,
            jnp.maximum(state["damping"] * change, 1e-14),
            jnp.maximum(state["damping"], 1e-10) * state["growth"],
        )
        growth = jnp.where(better, 4.0, 2 * state["growth"])
        small = better & (value - new[0] <= 1e-13 * value)
        # a Newton step: when it gains nothing, the next gains nothing either
        sure = definite & (state["damping"] < 1e-2)
        quiet = jnp.where(
            small, state["quiet"] + jnp.where(sure, 2, 1), jnp.where(better, 0, state["quiet"])
        )
        # Done: the step is below float64's resolution, or accepted steps gain nothing any more, or
        # no step helps.
        done = (state["iteration"] > 0) & ((moved < 1e-11) | (quiet >= 3) | (damping > 1e14))
        moved_on = {
            k: jnp.where(better, a, b)
            for k, a, b in zip(at, (proposal, *new), (theta, value, gradient, hessian, majorant))
        }
        moved_on |= {
            "damping": damping,
            "growth": growth,
            "quiet": quiet,
            "done": done,
            "iteration": state["iteration"] + 1,
        }
        return {k: jnp.where(state["done"], state[k], moved_on[k]) for k in state}

    def several(
        state: dict[str, Any], x: Any, y: Any, w: Any, free: Any, delta: Any, tau: Any
    ) -> dict[str, Any]:
        target = objective.transform(jnp, y)
        return jax.lax.fori_loop(
            0, STEPS, lambda _, s: iterate(s, x, target, w, free, delta, tau), state
        )

    return jax.jit(several)


def _eliminate(xp: Any, matrix: Any, right: Any) -> tuple[Any, Any]:
    """Solve matrix [P, P, jobs] @ step = right [P, jobs].

    Also says for which jobs every pivot was positive.

    Unrolled over the few parameters, so that it is plain arithmetic across jobs: LAPACK takes one
    small matrix at a time.
    """
    size = len(matrix)
    rows = xp.concatenate([matrix, right[:, None]], axis=1)
    definite = xp.ones(right.shape[1:], bool)
    for j in range(size):
        definite &= rows[j, j] > 0
        row = rows[j] / rows[j, j]
        other = (xp.arange(size) != j)[:, None, None]
        rows = xp.where(other, rows - rows[:, j : j + 1] * row[None], row[None])
    return rows[:, size], definite
