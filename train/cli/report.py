"""`stepladder report`: the page of a study, from records or from someone's table of runs."""

import argparse
from pathlib import Path

from stepladder.train.cli.arguments import pairs

HELP = "Write report/index.html and results.json from the records."
EXAMPLE = "stepladder report --workdir=W"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which study, of what, to where."""
    from stepladder.analysis.studies.registry import DEFAULT, STUDIES

    parser.add_argument("--workdir", type=Path, help="the folder that holds the records")
    parser.add_argument(
        "--table",
        type=Path,
        help=(
            "with a study that reads one: someone's runs as CSV, TSV, JSON, JSON lines or Parquet, "
            "in place of --workdir"
        ),
    )
    parser.add_argument(
        "--column",
        nargs="+",
        default=[],
        metavar="NAME=COLUMN",
        help=(
            "columns of --table, e.g. loss='smooth loss', or one number for all rows, e.g. "
            "seq_len=2048"
        ),
    )
    asked = "; ".join(f"{name}: {study.question}" for name, study in STUDIES.items())
    parser.add_argument("--study", help=f"the question to ask (default {DEFAULT}). {asked}")
    parser.add_argument(
        "--out",
        type=Path,
        help="folder of the report (default WORKDIR/report, of a study WORKDIR/report/STUDY)",
    )


def main(args: argparse.Namespace) -> int:
    """Write the page and print its conclusions; returns 0. Raises UserError."""
    columns = pairs(args.column, "column")
    return report(args.study, args.workdir, args.table, args.out, columns)


def report(
    study: str | None,
    workdir: Path | None,
    table: Path | None = None,
    out: Path | None = None,
    columns: dict[str, str] | None = None,
) -> int:
    """Write the page of a study (None: the default one) and print its conclusions; returns 0."""
    from stepladder.analysis.studies.registry import DEFAULT, run_study, summary

    name = study or DEFAULT
    page = run_study(name, workdir, table, out, columns=columns)
    print(summary(name, page))
    print(f"report: {page}")
    return 0
