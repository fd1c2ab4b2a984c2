"""`stepladder fit`: a law through any table of runs: parameters, intervals, allocation."""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepladder.configs.core.errors import UserError
from stepladder.train.cli.scaling.table import (
    add_law,
    add_table,
    fit_options,
    keep_compiled,
    print_json,
    read_table,
)

if TYPE_CHECKING:
    import pandas as pd

    from stepladder.analysis.decide.allocate import Allocation
    from stepladder.analysis.fit.bootstrap import Bootstrap
    from stepladder.analysis.fit.result import Fit
    from stepladder.analysis.tables.points import Points

HELP = "Fit a scaling law to any table of runs."
EXAMPLE = "stepladder fit runs.csv --law=chinchilla --bootstrap=4000 --budget=1e21"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The table, the law, and what to derive from the fit."""
    add_table(parser)
    add_law(parser)
    parser.add_argument(
        "--bootstrap", type=int, default=0, metavar="K", help="refits of resampled rows, e.g. 4000"
    )
    parser.add_argument(
        "--cluster",
        metavar="COLUMN",
        help="resample whole values of this column (run, seed, family) instead of rows",
    )
    parser.add_argument(
        "--budget", type=float, metavar="FLOPS", help="compute-optimal N and D at this budget"
    )
    parser.add_argument(
        "--figures", type=Path, metavar="DIR", help="write residuals, contours and ellipses as SVG"
    )


@dataclass(frozen=True)
class Fitted:
    """One group's fit and what was derived from it."""

    group: str  # "" where the table is one group
    fit: "Fit"
    refits: "Bootstrap | None"
    exponent: dict[str, Any] | None  # of N* in C: value, and interval from the refits
    allocation: "Allocation | None"
    seconds: float


def main(args: argparse.Namespace) -> int:
    """Fit every group and print it; returns 0. Raises UserError."""
    if args.cluster and args.group:
        raise UserError(
            f"cluster={args.cluster}: not together with --group; choose one family with --where"
        )
    if args.cluster and not args.bootstrap:
        raise UserError(f"cluster={args.cluster}: nothing is resampled; add --bootstrap=4000")
    points = read_table(args, args.cluster)
    keep_compiled()
    options = fit_options(args)
    if args.group:
        groups = {str(k): frame for k, frame in points.frame.groupby("group", sort=False)}
    else:
        groups = {"": points.frame}
    bodies = []
    for name, frame in groups.items():
        fitted = _fit(name, frame, args, options)
        bodies.append(_to_json(fitted, points, args.level))
        if not args.json:
            _print(fitted, points)
        if args.figures:
            _draw(fitted, args.figures / name if name else args.figures, quiet=args.json)
    if args.json:
        print_json(bodies if args.group else bodies[0])
    return 0


def _fit(name: str, frame: "pd.DataFrame", args: argparse.Namespace, options: dict) -> Fitted:
    from stepladder.analysis.decide.allocate import allocate
    from stepladder.analysis.fit.bootstrap import bootstrap
    from stepladder.analysis.fit.fit import fit

    began = time.perf_counter()
    found = fit(frame, args.law, **options)
    refits = None
    if args.bootstrap:
        clusters = list(frame["group"]) if args.cluster else None
        refits = bootstrap(found, resamples=args.bootstrap, seed=args.seed, clusters=clusters)
    seconds = time.perf_counter() - began
    allocation = None
    if args.budget:
        allocation = allocate(found, args.budget, bootstrap=refits, level=args.level)
    return Fitted(name, found, refits, _exponent(found, refits, args.level), allocation, seconds)


def _exponent(found: "Fit", refits: "Bootstrap | None", level: float) -> dict[str, Any] | None:
    """The exponent a of N* ~ C^a, for laws with one exponent of N and one of D."""
    from stepladder.analysis.fit.levels import percentiles

    if not {"alpha", "beta"} <= set(found.params):
        return None
    value = found.params["beta"] / (found.params["alpha"] + found.params["beta"])
    if refits is None:
        return {"value": value, "interval": None}
    drawn = refits.params["beta"] / (refits.params["alpha"] + refits.params["beta"])
    return {"value": value, "interval": list(drawn.quantile(percentiles(level)))}


def _to_json(fitted: Fitted, points: "Points", level: float) -> dict[str, Any]:
    found, refits, allocation = fitted.fit, fitted.refits, fitted.allocation
    if refits is None:
        stderr = {name: abs(found.params[name]) * se for name, se in found.log_se.items()}
        stderr_from = "linearised at the optimum"
    else:
        stderr = refits.stderr
        stderr_from = f"bootstrap, {len(refits.params)} refits of {refits.clusters} clusters"
    body = {
        "group": fitted.group or None,
        "law": found.law,
        "params": found.params,
        "stderr": stderr,
        "stderr_from": stderr_from,
        "objective": found.value,
        "objective_name": found.objective,
        "n_points": found.points,
        "residual_sd": found.residual_sd,
        "unidentified": found.unidentified,
        "at_bound": found.at_bound,
        "fixed": found.fixed,
        "minima": found.minima,
        "excluded": points.excluded.to_dict("records"),
        "notes": [*points.notes, *found.notes],
        "seconds": round(fitted.seconds, 2),
    }
    if refits is not None:
        intervals = refits.interval(level)
        body["intervals"] = {k: (row["low"], row["high"]) for k, row in intervals.iterrows()}
        body |= {"lost_resamples": refits.lost, "failed_resamples": refits.failed}
    if fitted.exponent:
        body["a"] = fitted.exponent
    if allocation:
        table = allocation.to_frame().to_dict("index")
        body["allocation"] = {"C": allocation.C, **table, "notes": allocation.notes}
    return body


def _print(fitted: Fitted, points: "Points") -> None:
    print(f"== {fitted.group}" if fitted.group else points)
    print(fitted.fit)
    if fitted.refits is not None:
        print(fitted.refits)
    if fitted.exponent:
        value, interval = fitted.exponent["value"], fitted.exponent["interval"]
        known = f" [{interval[0]:.4f}, {interval[1]:.4f}]" if interval else ""
        print(f"N* ~ C^a: a = {value:.4f}{known}")
    if fitted.allocation:
        print(fitted.allocation)
    print(f"{fitted.seconds:.2f} s")


def _draw(fitted: Fitted, folder: Path, quiet: bool) -> None:
    from stepladder.analysis.figures.registry import save

    for path in save(fitted.fit, fitted.refits, folder):
        if not quiet:
            print(path)
