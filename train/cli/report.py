"""`stepladder report`: the page of a study, from records or from someone's table of runs."""

import argparse
import json
from pathlib import Path

from stepladder.configs.core.errors import UserError

HELP = "Write report/index.html and results.json from the records."
EXAMPLE = "stepladder report --workdir=W"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which study, of what, to where."""
    from stepladder.analysis.studies.registry import STUDIES

    parser.add_argument("--workdir", type=Path, help="the folder that holds the records")
    parser.add_argument(
        "--table",
        type=Path,
        help=(
            "with --study: someone's runs as CSV, TSV, JSON, JSON lines or Parquet, in place of "
            "--workdir"
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
    parser.add_argument(
        "--study", help=f"one question of its own instead of the forecast's report. {asked}"
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="folder of the report (default WORKDIR/report, of a study WORKDIR/report/STUDY)",
    )


def main(args: argparse.Namespace) -> int:
    """Write the page and print its conclusions; returns 0. Raises UserError."""
    if args.study:
        return _report_study(args)
    if args.table:
        raise UserError(
            f"table={args.table}: only a study reads a table; add --study=NAME, or fit a law to it "
            "with `stepladder fit`"
        )
    if not args.workdir:
        raise UserError("workdir=None: nothing to report on; give --workdir=DIR")
    return report_forecast(args.workdir, args.out)


def report_forecast(workdir: Path, out: Path | None = None) -> int:
    """The report without --study: the forecast of the target beside what it reached."""
    from stepladder.analysis.studies.extrapolation.report import report
    from stepladder.analysis.studies.extrapolation.terminal import summary

    page = report(workdir, out)
    print(summary(_results(page)))
    print(f"report: {page}")
    return 0


def _report_study(args: argparse.Namespace) -> int:
    from stepladder.analysis.studies.registry import run_study

    columns = dict(text.partition("=")[::2] for text in args.column)
    page = run_study(args.study, args.workdir, args.table, args.out, columns=columns)
    for sentence in _results(page).get("verdict", ()):
        print(sentence)
    print(f"report: {page}")
    return 0


def _results(page: Path) -> dict:
    return json.loads((page.parent / "results.json").read_text())
