"""`stepladder fit`, `predict` and `recommend`: any table of runs -> parameters, intervals,
allocation; as text or JSON.
"""

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

from stepladder.configs.core import cache
from stepladder.configs.core.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

TABLE_HELP = "CSV, Parquet, JSON (lines), or the workdir of a ladder"


def add_table_arguments(parser: argparse.ArgumentParser) -> None:
    """Which rows and columns: the options that the messages of analysis/tables/points.py name."""
    parser.add_argument("table", metavar="TABLE", help=TABLE_HELP)
    for name in ("n", "d", "c", "loss"):
        parser.add_argument(
            f"--{name}",
            metavar="COLUMN",
            help=f"column of {name.upper() if name != 'loss' else 'the output'}",
        )
    parser.add_argument(
        "--column",
        nargs="+",
        default=[],
        metavar="INPUT=COLUMN",
        help="columns of a law's other inputs, e.g. U=unique",
    )
    parser.add_argument("--group", metavar="COLUMN", help="one fit for every value of this column")
    parser.add_argument(
        "--derive",
        nargs="+",
        default=[],
        metavar="NAME=EXPRESSION",
        help="e.g. 'D=`Training FLOP` / 6 / N'",
    )
    parser.add_argument(
        "--where",
        nargs="+",
        default=[],
        metavar="FILTER",
        help="rows to keep, e.g. 'loss<5' 'family=opt'",
    )
    parser.add_argument(
        "--drop-highest", type=int, default=0, metavar="K", help="drop the K highest losses"
    )
    parser.add_argument(
        "--units",
        nargs="+",
        default=[],
        metavar="NAME=UNIT",
        help="e.g. N=billions loss=perplexity",
    )
    parser.add_argument(
        "--units-checked", action="store_true", help="two scales in one column are meant"
    )
    parser.add_argument(
        "--drop-bad",
        action="store_true",
        help="leave out (and list) rows with bad values instead of refusing them",
    )
    duplicates = parser.add_mutually_exclusive_group()
    duplicates.add_argument(
        "--drop-duplicates", dest="duplicates", action="store_const", const="drop", default="refuse"
    )
    duplicates.add_argument(
        "--keep-duplicates", dest="duplicates", action="store_const", const="keep"
    )


def add_law_arguments(parser: argparse.ArgumentParser) -> None:
    """Which law and how."""
    parser.add_argument(
        "--law",
        default="chinchilla",
        help="a name in the table of laws (`stepladder fit --laws` lists them)",
    )
    parser.add_argument(
        "--objective",
        default="huber",
        help="huber (default), squared_log, squared, lad, quantile_log, quantile",
    )
    parser.add_argument(
        "--delta", type=float, default=1e-3, help="Huber's threshold in log loss (1e-3)"
    )
    parser.add_argument("--tau", type=float, default=0.5, help="of a quantile (0.5)")
    parser.add_argument(
        "--starts",
        default="spread",
        help="spread (default) or hoffmann, the 4,500 of arXiv 2203.15556",
    )
    parser.add_argument(
        "--fix",
        nargs="+",
        default=[],
        metavar="PARAMETER=VALUE",
        help="hold parameters, e.g. borrowed from another fit",
    )
    parser.add_argument(
        "--unidentified",
        default="refuse",
        help="refuse (default) or report: fit all the same, and say what is not known",
    )
    parser.add_argument("--level", type=float, default=0.9, help="of intervals (0.9)")
    parser.add_argument("--seed", type=int, default=0, help="of resampling")
    parser.add_argument("--json", action="store_true", help="print JSON")


def fit_arguments(parser: argparse.ArgumentParser) -> None:
    add_table_arguments(parser)
    add_law_arguments(parser)
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


def predict_arguments(parser: argparse.ArgumentParser) -> None:
    add_table_arguments(parser)
    add_law_arguments(parser)
    parser.add_argument(
        "--at",
        nargs="+",
        required=True,
        metavar="N=..,D=..",
        help="points to predict, e.g. N=7e9,D=2e12",
    )


def keep_compiled() -> None:
    """Fits compile once for all commands of a user (2 s a law)."""
    import jax

    for name, value in cache.settings(cache.folder()).items():
        jax.config.update(name, value)


def read(args: argparse.Namespace):
    """The clean points of the arguments, and the law. Raises UserError."""
    from stepladder.analysis.laws import law_named
    from stepladder.analysis.tables.points import read_points

    law = law_named(args.law)
    columns = {
        k: v for k, v in (("N", args.n), ("D", args.d), ("C", args.c), (law.output, args.loss)) if v
    }
    columns |= _pairs(args.column, "column")
    cluster = getattr(args, "cluster", None)
    return read_points(
        args.table,
        law.inputs,
        law.output,
        columns=columns,
        group=args.group or cluster,
        derive=_pairs(args.derive, "derive"),
        where=args.where,
        drop_highest=args.drop_highest,
        units=_pairs(args.units, "units"),
        drop_bad=args.drop_bad,
        duplicates=args.duplicates,
        units_checked=args.units_checked,
    )


def fit(args: argparse.Namespace) -> int:
    """Fit, and print parameters, errors, intervals, allocation. Raises UserError."""
    from stepladder.analysis.fit.fit import fit as fit_law

    points = read(args)
    keep_compiled()
    options = {
        "objective": args.objective,
        "delta": args.delta,
        "tau": args.tau,
        "starts": args.starts,
        "fixed": _numbers(args.fix, "fix"),
        "unidentified": args.unidentified,
        "loss": "loss",
    }
    bodies = []
    groups = points.frame.groupby("group", sort=False) if args.group else [("", points.frame)]
    for name, frame in groups:
        began = time.perf_counter()
        found = fit_law(frame, args.law, **options)
        bodies.append(_one(args, found, frame, points, str(name), began))
    if args.json:
        _print_json(bodies if args.group else bodies[0])
    return 0


def _one(
    args: argparse.Namespace, found, frame: "pd.DataFrame", points, name: str, began: float
) -> dict:
    """Fit, bootstrap and allocation of one group, printed unless --json; returns the JSON body."""
    from stepladder.analysis.decide.allocate import allocate
    from stepladder.analysis.fit.bootstrap import bootstrap

    refits = None
    if args.bootstrap:
        refits = bootstrap(
            found,
            resamples=args.bootstrap,
            seed=args.seed,
            clusters=frame["group"] if args.cluster else None,
        )
    seconds = time.perf_counter() - began
    body = {
        "group": name or None,
        "law": found.law,
        "params": found.params,
        "stderr": refits.stderr
        if refits
        else {k: abs(found.params[k]) * s for k, s in found.log_se.items()},
        "stderr_from": f"bootstrap, {len(refits.params)} refits of {refits.clusters} clusters"
        if refits
        else "linearised at the optimum",
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
        "seconds": round(seconds, 2),
    }
    if refits:
        body["intervals"] = {
            k: (row["low"], row["high"]) for k, row in refits.interval(args.level).iterrows()
        }
        body |= {"lost_resamples": refits.lost, "failed_resamples": refits.failed}
    if {"alpha", "beta"} <= set(found.params):

        def ratio(p):
            return p["beta"] / (p["alpha"] + p["beta"])

        tail = (1 - args.level) / 2
        body["a"] = {
            "value": ratio(found.params),
            "interval": list(ratio(refits.params).quantile([tail, 1 - tail])) if refits else None,
        }
    allocation = (
        allocate(found, args.budget, bootstrap=refits, level=args.level) if args.budget else None
    )
    if allocation:
        body["allocation"] = {
            "C": allocation.C,
            **allocation.to_frame().to_dict("index"),
            "notes": allocation.notes,
        }
    if not args.json:
        print(f"== {name}" if name else points)
        print(found)
        if refits:
            print(refits)
        if "a" in body:
            span = body["a"]["interval"]
            print(
                f"N* ~ C^a: a = {body['a']['value']:.4f}"
                + (f" [{span[0]:.4f}, {span[1]:.4f}]" if span else "")
            )
        if allocation:
            print(allocation)
        print(f"{seconds:.2f} s")
    if args.figures:
        from stepladder.analysis.figures.registry import save

        for path in save(found, refits, args.figures / name if name else args.figures):
            if not args.json:
                print(path)
    return body


def predict(args: argparse.Namespace) -> int:
    """Fit, and print prediction intervals. Raises UserError."""
    import pandas as pd

    from stepladder.analysis.fit.fit import fit as fit_law
    from stepladder.analysis.fit.interval import prediction_interval
    from stepladder.analysis.laws import law_named

    points = read(args)
    keep_compiled()
    if args.group:
        raise UserError(
            f"group={args.group}: predict takes one family; choose it with --where "
            f"'{args.group}=...'"
        )
    objective = "squared_log" if args.objective == "huber" else args.objective
    found = fit_law(
        points.frame,
        args.law,
        objective=objective,
        delta=args.delta,
        tau=args.tau,
        starts=args.starts,
        loss="loss",
        fixed=_numbers(args.fix, "fix"),
        unidentified=args.unidentified,
    )
    wanted = pd.DataFrame([_numbers(text.split(","), "at") for text in args.at])
    for name in law_named(args.law).inputs:
        if name not in wanted or wanted[name].isna().any():
            raise UserError(
                f"at={args.at[0]}: law {args.law} needs {name}; write e.g. N=7e9,D=2e12"
            )
    many = prediction_interval(found, wanted, level=args.level, seed=args.seed)
    if args.json:
        _print_json([vars(one) for one in many])
        return 0
    print(points)
    print(found)
    for one in many:
        print(one)
    return 0


def _print_json(body) -> None:
    from stepladder.analysis.report.jsonable import plain

    print(json.dumps(plain(body), indent=1))


def _pairs(items: list[str], option: str) -> dict[str, str]:
    out = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not (name and equals and value):
            raise UserError(f"{option}={item}: must be NAME=VALUE")
        out[name.strip()] = value.strip()
    return out


def _numbers(items: list[str], option: str) -> dict[str, float]:
    out = {}
    for name, value in _pairs(items, option).items():
        try:
            out[name] = float(value)
        except ValueError as error:
            raise UserError(
                f"{option}={name}={value}: {value!r} is not a number; write e.g. {name}=1e9"
            ) from error
    return out


def laws() -> int:
    """Print name, formula, source and note of every law."""
    from stepladder.analysis.laws import LAWS

    for law in LAWS.values():
        # mixtures: one entry stands for every k
        if not (law.name[-1].isdigit() and law.name[-2] == "_" and law.name[-1] != "2"):
            print(
                f"{law.name:<20} {law.formula}   [{law.source}]"
                + (f"\n{'':<20} {law.note}" if law.note else "")
            )
    return 0
