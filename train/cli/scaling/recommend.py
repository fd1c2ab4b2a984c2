"""`stepladder recommend`: which ladder to train, from published constants, given ones, a table of
runs or a workdir.
"""

import argparse
from typing import TYPE_CHECKING, Any

from stepladder.configs.core.errors import UserError
from stepladder.train.cli.arguments import pairs
from stepladder.train.cli.scaling.table import (
    add_columns,
    columns_of,
    keep_compiled,
    print_json,
)

if TYPE_CHECKING:
    from stepladder.analysis.fit.bootstrap import Bootstrap
    from stepladder.analysis.fit.result import Fit
    from stepladder.analysis.tables.points import Points

HELP = "Which ladder to train for a target, a budget and a wanted error."
EXAMPLE = "stepladder recommend --budget=1e19 --target=1e9,2e10 --error=4%"

# arguments that say how a table is read, without meaning where there is none
OF_A_TABLE = "n", "d", "loss", "where", "units", "derive", "bootstrap"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The question, the law and where it comes from, the noise, the simulation."""
    parser.add_argument(
        "--budget", required=True, metavar="FLOPS", help="for the ladder, e.g. 1e19"
    )
    parser.add_argument(
        "--target",
        required=True,
        metavar="N,D",
        help="parameters and tokens of the run to decide about, e.g. 1e9,2e10",
    )
    parser.add_argument(
        "--error",
        required=True,
        metavar="E",
        help="wanted: 90th percentile of |forecast / loss - 1|, e.g. 4%% or 0.04",
    )
    parser.add_argument(
        "--law", default="chinchilla", help="a law of N and D (`stepladder laws` lists them)"
    )
    _add_source(parser)
    parser.add_argument(
        "--noise",
        metavar="S",
        help="s.d. of a run's loss, e.g. 0.5%% (default: residuals of the fit, else 0.5%%)",
    )
    parser.add_argument(
        "--shared",
        metavar="P",
        help="part of its variance that a trunk and its branches have in common (50%%)",
    )
    parser.add_argument(
        "--shares",
        metavar="P,..",
        help="parts of the target's own training that may be used (0,10%%,30%%); 0 for none",
    )
    parser.add_argument(
        "--smallest", metavar="N", help="parameters of the smallest proxy (that of TABLE, else 1e6)"
    )
    parser.add_argument("--draws", type=int, default=200, help="simulated worlds (200)")
    parser.add_argument("--seed", type=int, default=0, help="of the simulation")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_source(parser: argparse.ArgumentParser) -> None:
    """Where the law's parameters come from; without any of these, from the literature."""
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--from",
        dest="table",
        metavar="TABLE",
        help="fit the law to these runs: CSV, Parquet, JSON",
    )
    source.add_argument("--workdir", help="fit the law to the finished proxies of this workdir")
    source.add_argument(
        "--constants",
        nargs="+",
        metavar="NAME=VALUE",
        help="e.g. E=1.69 A=406 B=411 alpha=.34 beta=.28",
    )
    add_columns(parser, ("n", "d", "loss"))
    parser.add_argument(
        "--bootstrap",
        type=int,
        default=0,
        metavar="K",
        help="refits of resampled rows: lets the fit's own error count",
    )


def main(args: argparse.Namespace) -> int:
    """Print the ladder to train and what it would decide; returns 0. Raises UserError."""
    from stepladder.analysis.decide.recommend.recommend import recommend

    options: dict[str, Any] = {
        "budget": _number(args.budget, "budget"),
        "target": _target(args.target),
        "error": _number(args.error, "error"),
        "draws": args.draws,
        "seed": args.seed,
        "law": args.law,
    }
    for name in ("noise", "shared", "smallest"):
        if getattr(args, name) is not None:
            options[name] = _number(getattr(args, name), name)
    if args.shares is not None:
        options["shares"] = [_number(share, "shares") for share in args.shares.split(",")]
    keep_compiled()
    points, source = None, _constants(args)
    if args.table or args.workdir:
        points, source = _fitted(args)
    found = recommend(source=source, **options)
    if args.json:
        body = found.to_dict()
        if points:
            body |= {"table": points.source, "excluded": points.excluded.to_dict("records")}
        print_json(body)
        return 0
    if points:
        print(points)
        print(getattr(source, "fit", source))
    print(found)
    return 0


def _constants(args: argparse.Namespace) -> dict[str, float] | None:
    """The law's parameters as given; None for the published ones."""
    if args.table or args.workdir:
        return None
    for name in OF_A_TABLE:
        if getattr(args, name):
            raise UserError(
                f"{name}={getattr(args, name)}: belongs to a table; name it with --from=TABLE "
                "or --workdir=DIR"
            )
    given = [text.partition("=") for text in args.constants or []]
    return {name.strip(): _number(v, f"constants.{name}") for name, _, v in given} or None


def _fitted(args: argparse.Namespace) -> "tuple[Points, Fit | Bootstrap]":
    """The clean points of the table or workdir, and the law fitted to them."""
    from stepladder.analysis.fit.bootstrap import bootstrap
    from stepladder.analysis.fit.fit import fit
    from stepladder.analysis.laws import law_named
    from stepladder.analysis.tables.points import read_points

    law = law_named(args.law)
    points = read_points(
        args.table or args.workdir,
        law.inputs,
        law.output,
        columns=columns_of(law, N=args.n, D=args.d, loss=args.loss),
        derive=pairs(args.derive, "derive"),
        where=args.where,
        units=pairs(args.units, "units"),
    )
    found = fit(points.frame, args.law, objective="squared_log", loss="loss")
    if args.bootstrap:
        return points, bootstrap(found, resamples=args.bootstrap, seed=args.seed)
    return points, found


def _target(text: str) -> list[float]:
    """N and D of "1e9,2e10", or of "N=1e9,D=2e10" in any order."""
    parts = text.split(",")
    named = {name.strip(): v for name, equals, v in (p.partition("=") for p in parts) if equals}
    values = [named["N"], named["D"]] if set(named) == {"N", "D"} else parts
    return [_number(value, "target") for value in values]


def _number(text: str, field: str) -> float:
    """A number, or a percentage as a fraction."""
    try:
        value = float(text.strip().removesuffix("%"))
    except ValueError as error:
        raise UserError(
            f"{field}={text}: {text!r} is not a number; write e.g. 1e9 or 4%"
        ) from error
    return value * 0.01 if text.strip().endswith("%") else value
