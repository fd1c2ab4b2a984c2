"""`stepladder predict`: what runs that were not made would reach, by a law fitted to a table."""

import argparse

from stepladder.configs.core.errors import UserError
from stepladder.train.cli.arguments import numbers
from stepladder.train.cli.scaling.table import (
    add_law,
    add_table,
    fit_options,
    keep_compiled,
    print_json,
    read_table,
)

HELP = "Predict new runs, with intervals, from a fitted law."
EXAMPLE = "stepladder predict runs.csv --law=chinchilla --at N=7e9,D=2e12"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The table, the law, and the points."""
    add_table(parser)
    # an interval needs the variance of the residuals
    add_law(parser, objective="squared_log")
    parser.add_argument(
        "--at",
        nargs="+",
        required=True,
        metavar="N=..,D=..",
        help="points to predict, e.g. N=7e9,D=2e12",
    )


def main(args: argparse.Namespace) -> int:
    """Print the fit and the prediction intervals; returns 0. Raises UserError."""
    import pandas as pd

    from stepladder.analysis.fit.fit import fit
    from stepladder.analysis.fit.interval import prediction_interval
    from stepladder.analysis.laws import law_named

    points = read_table(args)
    keep_compiled()
    if args.group:
        raise UserError(
            f"group={args.group}: predict takes one family; choose it with --where "
            f"'{args.group}=...'"
        )
    asked = [numbers(text.split(","), "at") for text in args.at]
    for text, point in zip(args.at, asked):
        for name in law_named(args.law).inputs:
            if name not in point:
                raise UserError(f"at={text}: law {args.law} needs {name}; write e.g. N=7e9,D=2e12")
    found = fit(points.frame, args.law, **fit_options(args))
    wanted = pd.DataFrame(asked)
    intervals = prediction_interval(found, wanted, level=args.level, seed=args.seed)
    if args.json:
        print_json([vars(interval) for interval in intervals])
        return 0
    for part in (points, found, *intervals):
        print(part)
    return 0
