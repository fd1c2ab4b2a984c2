"""`stepladder recommend`: which ladder to train, from published constants, given ones, a table of
runs or a workdir.
"""

import argparse
import json

from stepladder.configs.core.errors import UserError
from stepladder.train.cli.fit import add_table_arguments, keep_compiled, read

# options of the table that are offered here too
_COLUMNS = "n", "d", "loss", "where", "units", "derive"


def arguments(parser: argparse.ArgumentParser) -> None:
    """The question, the law and its noise."""
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
    for name in ("n", "d", "loss"):
        parser.add_argument(
            f"--{name}",
            metavar="COLUMN",
            help=f"column of {name.upper() if name != 'loss' else 'the output'} in TABLE",
        )
    parser.add_argument(
        "--where",
        nargs="+",
        default=[],
        metavar="FILTER",
        help="rows of TABLE to keep, e.g. 'loss<5' 'family=opt'",
    )
    parser.add_argument(
        "--units",
        nargs="+",
        default=[],
        metavar="NAME=UNIT",
        help="e.g. N=billions loss=perplexity",
    )
    parser.add_argument(
        "--derive", nargs="+", default=[], metavar="NAME=EXPRESSION", help="e.g. 'D=batch * steps'"
    )
    parser.add_argument(
        "--bootstrap",
        type=int,
        default=0,
        metavar="K",
        help="refits of resampled rows: lets the fit's own error count",
    )
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


def main(args: argparse.Namespace) -> int:
    """Say which ladder to train for a target.

    Example: stepladder recommend --budget=1e19 --target=1e9,2e10 --error=4%
    """
    from stepladder.analysis.decide.recommend.recommend import recommend
    from stepladder.analysis.report.jsonable import plain

    numbers = {
        "budget": _number(args.budget, "budget"),
        "target": _target(args.target),
        "error": _number(args.error, "error"),
        "draws": args.draws,
        "seed": args.seed,
        "law": args.law,
    }
    numbers |= {
        k: _number(v, k)
        for k in ("noise", "shared", "smallest")
        if (v := getattr(args, k)) is not None
    }
    if args.shares is not None:
        numbers["shares"] = [_number(v, "shares") for v in args.shares.split(",")]
    keep_compiled()
    points, source = _source(args)
    found = recommend(source=source, **numbers)
    if args.json:
        body = found.to_dict() | (
            {"table": points.source, "excluded": points.excluded.to_dict("records")}
            if points
            else {}
        )
        print(json.dumps(plain(body), indent=1))
        return 0
    if points:
        print(points)
        print(getattr(source, "fit", source))
    print(found)
    return 0


def _source(args: argparse.Namespace):
    """The clean points, if there are any, and what `recommend` simulates from."""
    table = args.table or args.workdir
    if not table:
        for name in (*_COLUMNS, "bootstrap"):
            if getattr(args, name):
                raise UserError(
                    f"{name}={getattr(args, name)}: belongs to a table; name it with --from=TABLE "
                    "or --workdir=DIR"
                )
        constants = [v.partition("=") for v in args.constants or []]
        return None, {
            name.strip(): _number(value, f"constants.{name}") for name, _, value in constants
        } or None
    from stepladder.analysis.fit.bootstrap import bootstrap
    from stepladder.analysis.fit.fit import fit

    options = argparse.ArgumentParser()
    add_table_arguments(options)
    # the options of a table that are not offered here keep their defaults
    filled = options.parse_args([table])
    vars(filled).update({name: getattr(args, name) for name in (*_COLUMNS, "law")})
    points = read(filled)
    found = fit(points.frame, args.law, objective="squared_log", loss="loss")
    return points, bootstrap(
        found, resamples=args.bootstrap, seed=args.seed
    ) if args.bootstrap else found


def _target(text: str) -> list[float]:
    """Of "1e9,2e10" or "N=1e9,D=2e10" in any order."""
    parts = text.split(",")
    named = {k.strip(): v for k, equals, v in (p.partition("=") for p in parts) if equals}
    return [
        _number(v, "target")
        for v in ([named["N"], named["D"]] if set(named) == {"N", "D"} else parts)
    ]


def _number(text: str, field: str) -> float:
    """A number or a percentage."""
    try:
        return float(text.strip().removesuffix("%")) * (0.01 if text.strip().endswith("%") else 1.0)
    except ValueError as error:
        raise UserError(
            f"{field}={text}: {text!r} is not a number; write e.g. 1e9 or 4%"
        ) from error
