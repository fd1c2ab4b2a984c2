"""What `fit`, `predict` and `recommend` share: the arguments of a table of runs and of a law."""

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from stepladder.configs.core import cache
from stepladder.train.cli.arguments import numbers, pairs

if TYPE_CHECKING:
    from stepladder.analysis.laws.law import Law
    from stepladder.analysis.tables.points import Points

COLUMN_HELP = {
    "n": "column of N",
    "d": "column of D",
    "c": "column of C",
    "loss": "column of the output",
}


def add_table(parser: argparse.ArgumentParser) -> None:
    """TABLE, and which of its rows and columns.

    These are the options that the messages of analysis/tables/points.py name.
    """
    parser.add_argument(
        "table", metavar="TABLE", help="CSV, Parquet, JSON (lines), or the workdir of a ladder"
    )
    add_columns(parser, ("n", "d", "c", "loss"))
    parser.add_argument(
        "--column",
        nargs="+",
        default=[],
        metavar="INPUT=COLUMN",
        help="columns of a law's other inputs, e.g. U=unique",
    )
    parser.add_argument("--group", metavar="COLUMN", help="one fit for every value of this column")
    parser.add_argument(
        "--drop-highest", type=int, default=0, metavar="K", help="drop the K highest losses"
    )
    parser.add_argument(
        "--units-checked", action="store_true", help="two scales in one column are meant"
    )
    parser.add_argument(
        "--drop-bad",
        action="store_true",
        help="leave out (and list) rows with bad values instead of refusing them",
    )
    parser.add_argument(
        "--mixed-arithmetic",
        action="store_true",
        help="one fit of runs in several arithmetics (float32, bfloat16, ...) is meant",
    )
    duplicates = parser.add_mutually_exclusive_group()
    duplicates.add_argument(
        "--drop-duplicates", dest="duplicates", action="store_const", const="drop", default="refuse"
    )
    duplicates.add_argument(
        "--keep-duplicates", dest="duplicates", action="store_const", const="keep"
    )


def add_columns(parser: argparse.ArgumentParser, names: Sequence[str]) -> None:
    """Columns by their names in COLUMN_HELP, and --derive, --where, --units."""
    for name in names:
        parser.add_argument(f"--{name}", metavar="COLUMN", help=COLUMN_HELP[name])
    parser.add_argument(
        "--derive",
        nargs="+",
        default=[],
        metavar="NAME=EXPRESSION",
        help="a column made from others, e.g. 'D=`Training FLOP` / 6 / N'",
    )
    parser.add_argument(
        "--where",
        nargs="+",
        default=[],
        metavar="FILTER",
        help="rows to keep, e.g. 'loss<5' 'family=opt'",
    )
    parser.add_argument(
        "--units",
        nargs="+",
        default=[],
        metavar="NAME=UNIT",
        help="e.g. N=billions loss=perplexity",
    )


def add_law(parser: argparse.ArgumentParser, objective: str = "huber") -> None:
    """Which law, and how it is fitted; `objective` is the default one."""
    parser.add_argument(
        "--law",
        default="chinchilla",
        help="a name in the table of laws (`stepladder laws` lists them)",
    )
    parser.add_argument(
        "--objective",
        default=objective,
        help="huber, squared_log, squared, lad, quantile_log or quantile (default %(default)s)",
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


def read_table(args: argparse.Namespace, cluster: str | None = None) -> "Points":
    """The clean points of `add_table`'s arguments for the law of `add_law`'s.

    `cluster` is a column that bootstrap draws whole values of. Raises UserError.
    """
    from stepladder.analysis.laws import law_named
    from stepladder.analysis.tables.points import read_points

    law = law_named(args.law)
    columns = columns_of(law, N=args.n, D=args.d, C=args.c, loss=args.loss)
    return read_points(
        args.table,
        law.inputs,
        law.output,
        columns=columns | pairs(args.column, "column"),
        group=args.group or cluster,
        derive=pairs(args.derive, "derive"),
        where=args.where,
        drop_highest=args.drop_highest,
        units=pairs(args.units, "units"),
        drop_bad=args.drop_bad,
        duplicates=args.duplicates,
        units_checked=args.units_checked,
        mixed_arithmetic=args.mixed_arithmetic,
    )


def columns_of(law: "Law", *, loss: str | None, **inputs: str | None) -> dict[str, str]:
    """The table's column of the law's output and of each input, where one was given."""
    asked = {**inputs, law.output: loss}
    return {name: column for name, column in asked.items() if column}


def fit_options(args: argparse.Namespace) -> dict[str, Any]:
    """Arguments of `fit` (analysis/fit/fit.py) beside the points and the law."""
    return {
        "objective": args.objective,
        "delta": args.delta,
        "tau": args.tau,
        "starts": args.starts,
        "fixed": numbers(args.fix, "fix"),
        "unidentified": args.unidentified,
        "loss": "loss",
    }


def keep_compiled() -> None:
    """Keep the compiled solvers of laws in the user's cache, 2 s a law."""
    import jax

    for name, value in cache.settings(cache.folder()).items():
        jax.config.update(name, value)


def print_json(body: Any) -> None:
    """Results as JSON on stdout, NumPy values unwrapped."""
    from stepladder.analysis.report.jsonable import plain

    print(json.dumps(plain(body), indent=1))
