"""The Chinchilla fit as SciPy does it: the reference of `fit_vs_scipy.py`. NumPy and SciPy only.

    export OPENBLAS_NUM_THREADS=1 STEPLADDER_DATA=...
    # a reduced version of every reference, and what the full one would take
    python benchmarks/scipy_fit.py
    python benchmarks/scipy_fit.py --full --processes 2

The law L = E + A / N^alpha + B / D^beta (arXiv 2203.15556), fitted by Huber at 1e-3 on log loss,
summed. `grid` and `bootstrap` follow the replication (arXiv 2404.10102): raw logs, SciPy's default
tolerances, L-BFGS-B from 4,500 starts, BFGS for every resample. Our version is the kinder one: logs
of the data are taken once, and "analytic" gradients cost about one evaluation, where the
replication has finite differences in the grid and autograd in the bootstrap. `well_started` is what
a careful person writes with the same library.
"""

import argparse
import dataclasses
import itertools
import json
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
import pandas as pd
from chinchilla_points import chinchilla_points
from scipy.optimize import minimize, nnls
from scipy_huber import DELTA, huber, huber_gradient

# Starts of (a, b, e, alpha, beta) = (ln A, ln B, ln E, ...), in the order of the replication's
# loops.
STARTS = np.array(
    [
        (a, b, e, alpha, beta)
        for alpha, beta, e, a, b in itertools.product(
            np.arange(0, 2.5, 0.5),
            np.arange(0, 2.5, 0.5),
            np.arange(-1, 1.5, 0.5),
            np.arange(0, 30, 5),
            np.arange(0, 30, 5),
        )
    ]
)
# Where the replication starts every refit: the unrounded parameters of Hoffmann et al.
HOFFMANN = np.array([6.0073404, 6.0179186, 0.5267228, 0.33917084, 0.2849083])
_NAMES = ("A", "B", "E", "alpha", "beta")
GRADIENTS = ("analytic", "finite")
WELL = (0.1, 0.2, 0.3, 0.45, 0.7, 1.0)  # exponents of the 36 starts of `well_started`
# Of an objective of order 1e3: tighter only adds line searches at float64's resolution, the values
# agree to 1e-12.
WELL_OPTIONS = {"gtol": 1e-2}


@dataclass(frozen=True)
class Reference:
    """What a reference found and cost.

    params and value (summed Huber, in log loss) are of the best fit that SciPy calls successful, of
    all fits when none is; theta [fits, 5] are (ln A, ln B, ln E, alpha, beta) of every fit; failed
    counts fits that SciPy does not call successful.
    """

    params: dict[str, float]
    value: float
    wall_seconds: float
    cpu_seconds: float
    fits: int
    failed: int
    theta: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Batch:
    """One process's share: starts [K, 5], and rows [K, n] of each fit (None: all rows)."""

    logs: np.ndarray  # [n, 3] ln N, ln D, ln loss
    starts: np.ndarray
    rows: np.ndarray | None
    method: str
    gradients: str
    scale: float  # the objective is divided by it: 1 as published, DELTA**2 puts it at order one
    options: dict


def grid(
    points: pd.DataFrame,
    gradients: str = "finite",
    *,
    starts: np.ndarray = STARTS,
    processes: int = 1,
) -> Reference:
    """L-BFGS-B from every start, SciPy's default tolerances, as in arXiv 2404.10102.

    `points`: columns N, D, loss.
    """
    return _solve(_batch(points, starts, None, "L-BFGS-B", gradients, 1.0, {}), processes)


def bootstrap(
    points: pd.DataFrame,
    start: np.ndarray = HOFFMANN,
    resamples: int = 4000,
    seed: int = 0,
    gradients: str = "analytic",
    *,
    processes: int = 1,
) -> Reference:
    """BFGS from `start` for every table of rows drawn with replacement, SciPy's default tolerances,
    as in arXiv 2404.10102.
    """
    rows = np.random.default_rng(seed).integers(0, len(points), (resamples, len(points)))
    return _solve(
        _batch(points, np.tile(start, (resamples, 1)), rows, "BFGS", gradients, 1.0, {}), processes
    )


def well_started(points: pd.DataFrame, *, processes: int = 1) -> Reference:
    """36 starts, E, A and B of each by linear least squares; centred logs, exact gradients, the
    objective at order one.
    """
    return _centred(points, lambda logs: (_linear_starts(logs), None), processes)


def well_started_bootstrap(
    points: pd.DataFrame,
    start: np.ndarray,
    resamples: int = 4000,
    seed: int = 0,
    *,
    processes: int = 1,
) -> Reference:
    """`bootstrap` in the form of `well_started`, each refit from `start`, the fit of all points."""
    rows = np.random.default_rng(seed).integers(0, len(points), (resamples, len(points)))

    def centred_starts(logs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        a, b, e, alpha, beta = start
        centre = np.log(points[["N", "D"]].to_numpy(float)).mean(0)
        return np.tile(
            [a - alpha * centre[0], b - beta * centre[1], e, alpha, beta], (resamples, 1)
        ), rows

    return _centred(points, centred_starts, processes)


def _centred(points: pd.DataFrame, choose, processes: int) -> Reference:
    """Solve in centred logs, starts from `choose`, and give the parameters in the units of the
    data.
    """
    begin, cpu = time.perf_counter(), time.process_time()
    raw = _logs(points)
    centre = np.array([*raw[:, :2].mean(0), 0.0])
    starts, rows = choose(raw - centre)
    chosen_wall, chosen_cpu = time.perf_counter() - begin, time.process_time() - cpu
    found = _solve(
        Batch(raw - centre, starts, rows, "BFGS", "analytic", DELTA**2, WELL_OPTIONS), processes
    )
    theta = found.theta.copy()
    theta[:, 0] += theta[:, 3] * centre[0]
    theta[:, 1] += theta[:, 4] * centre[1]
    return dataclasses.replace(
        found,
        theta=theta,
        params=_natural(theta[np.argmin(found.values)]),
        value=float(found.values.min()),
        cpu_seconds=found.cpu_seconds + chosen_cpu,
        wall_seconds=found.wall_seconds + chosen_wall,
    )


def _linear_starts(logs: np.ndarray) -> np.ndarray:
    """[36, 5]: with the exponents given the law is linear in E, A, B."""
    loss, starts = np.exp(logs[:, 2]), []
    for alpha, beta in itertools.product(WELL, WELL):
        design = np.stack(
            [np.exp(-alpha * logs[:, 0]), np.exp(-beta * logs[:, 1]), np.ones(len(logs))], 1
        )
        starts.append(
            [
                *np.log(np.maximum(nnls(design / loss[:, None], np.ones(len(logs)))[0], 1e-2)),
                alpha,
                beta,
            ]
        )
    return np.array(starts)


def _logs(points: pd.DataFrame) -> np.ndarray:
    return np.log(points[["N", "D", "loss"]].to_numpy(float))


def _natural(theta: np.ndarray) -> dict[str, float]:
    return dict(zip(_NAMES, map(float, (*np.exp(theta[:3]), *theta[3:]))))


def _errors(theta: np.ndarray) -> dict[str, float]:
    """Standard deviations of the parameters over fits: of a bootstrap's refits, their standard
    errors.
    """
    return {
        name: float(v)
        for name, v in zip(
            _NAMES, np.std([list(_natural(t).values()) for t in theta], axis=0, ddof=1)
        )
    }


def _batch(
    points: pd.DataFrame,
    starts: np.ndarray,
    rows: np.ndarray | None,
    method: str,
    gradients: str,
    *rest,
) -> Batch:
    if gradients not in GRADIENTS:
        raise ValueError(f"gradients={gradients!r}: use one of {', '.join(GRADIENTS)}")
    return Batch(_logs(points), starts, rows, method, gradients, *rest)


def _solve(batch: Batch, processes: int) -> Reference:
    """All fits of a batch, dealt out to processes like cards: neighbouring starts cost about the
    same.
    """
    shares = [slice(k, None, processes) for k in range(processes)]
    parts = [
        dataclasses.replace(
            batch, starts=batch.starts[s], rows=None if batch.rows is None else batch.rows[s]
        )
        for s in shares
    ]
    if processes == 1:
        begin = time.perf_counter()
        done = [_work(parts[0])]
        wall = time.perf_counter() - begin
    else:
        # Forked on purpose: the reference does not pay for importing SciPy again. The parent has no
        # other thread and no jax.
        with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("fork")) as pool:
            # start-up is no part of the time, or scaling a reduced run would multiply it
            list(pool.map(abs, range(processes)))
            begin = time.perf_counter()
            done = list(pool.map(_work, parts))
            wall = time.perf_counter() - begin
    theta = np.zeros(batch.starts.shape)
    values = np.zeros(len(batch.starts))
    success = np.zeros(len(batch.starts), bool)
    for share, (part, _) in zip(shares, done):
        theta[share], values[share], success[share] = part
    best = int(np.argmin(np.where(success, values, np.inf) if success.any() else values))
    return Reference(
        params=_natural(theta[best]),
        value=float(values[best]),
        wall_seconds=wall,
        cpu_seconds=sum(cpu for _, cpu in done),
        fits=len(values),
        failed=int((~success).sum()),
        theta=theta,
        values=values,
    )


def _work(batch: Batch) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], float]:
    """theta [K, 5], unscaled objective [K], success [K]; and CPU seconds."""
    begin = time.process_time()
    exact = batch.gradients == "analytic"
    function = huber_gradient if exact else huber
    results = []
    with np.errstate(all="ignore"):  # far starts overflow in the line search; SciPy steps back
        for k, start in enumerate(batch.starts):
            logs = batch.logs if batch.rows is None else batch.logs[batch.rows[k]]
            out = minimize(
                function,
                start,
                args=(logs, batch.scale),
                jac=exact or None,
                method=batch.method,
                options=batch.options,
            )
            results.append((out.x, out.fun * batch.scale, out.success))
    theta, values, success = (np.array(v) for v in zip(*results))
    return (theta, values, success), time.process_time() - begin


def measure(points: pd.DataFrame, starts: int, resamples: int, processes: int) -> list[dict]:
    """A row a reference: fits, failed, value, parameters, wall and CPU seconds, `se` over its fits,
    and `short`, fits that stopped early.

    `short` is the share of refits above the lowest objective of the same resample by more than 1e-6
    of it (of starts: above the best fit), so it compares accuracy at these tolerances; `share` is
    the share of the full problem that was run.
    """
    cores = {"processes": processes}
    # Spread over the grid, since the cost depends on the start.
    chosen = (
        STARTS if starts >= len(STARTS) else np.random.default_rng(0).permutation(STARTS)[:starts]
    )
    well = well_started(points, **cores)
    best = well.theta[np.argmin(well.values)]
    one = {"well_started": well} | {
        f"grid_{g}": grid(points, g, starts=chosen, **cores) for g in GRADIENTS
    }
    many = {
        f"bootstrap_{g}": bootstrap(points, resamples=resamples, gradients=g, **cores)
        for g in GRADIENTS
    }
    many["well_started_bootstrap"] = well_started_bootstrap(points, best, resamples, **cores)
    rows = []
    for group, full in ((one, len(STARTS)), (many, 4000)):
        values = (
            np.stack([r.values for r in group.values()])
            if group is many
            else min(r.value for r in group.values())
        )
        lowest = np.min(values, axis=0)
        for name, r in group.items():
            rows.append(
                {
                    "reference": name,
                    "fits": r.fits,
                    "failed": r.failed,
                    "short": float(np.mean(r.values > lowest * (1 + 1e-6))),
                    "value": r.value,
                    **r.params,
                    "wall_seconds": r.wall_seconds,
                    "cpu_seconds": r.cpu_seconds,
                    "se": _errors(r.theta),
                    "share": 1.0 if name == "well_started" else r.fits / full,
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--full", action="store_true", help="all 4,500 starts and 4,000 resamples (minutes)"
    )
    parser.add_argument("--starts", type=int, default=100)
    parser.add_argument("--resamples", type=int, default=80)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--tiny", action="store_true", help="four starts, two resamples")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.tiny:
        args.starts, args.resamples = 4, 2
    starts, resamples = (len(STARTS), 4000) if args.full else (args.starts, args.resamples)
    rows = measure(chinchilla_points(), starts, resamples, args.processes)
    threads = os.environ.get("OPENBLAS_NUM_THREADS", "default")
    if args.json:
        print(
            json.dumps(
                {
                    "rows": rows,
                    "processes": args.processes,
                    "blas_threads": threads,
                    "scipy": version("scipy"),
                }
            )
        )
        return
    table = pd.DataFrame(rows).drop(columns="se")
    print(
        table.to_string(
            index=False, float_format=lambda v: f"{v:.9g}" if abs(v) < 1e-2 else f"{v:.5g}"
        )
    )
    print(
        f"processes {args.processes}, OPENBLAS_NUM_THREADS {threads} (1 is fair: five parameters "
        "gain nothing from threads)"
    )
    for row in rows:
        if row["share"] < 1:
            print(
                f"{row['reference']}: scaled linearly to the full size, not measured: "
                f"{row['wall_seconds'] / row['share']:.1f} s wall"
            )


if __name__ == "__main__":
    main()
