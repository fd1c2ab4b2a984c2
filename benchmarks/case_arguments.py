"""Arguments of the benchmarks that take training steps as cases (train/bench/case.py)."""

import argparse
from collections.abc import Sequence

from stepladder.train.bench.case import Case


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with --case, --tiny and --json; `description` keeps its lines."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument(
        "--case",
        action="append",
        type=Case.parse,
        default=[],
        metavar="SIZE:RUNS:BATCH:LENGTH:TOKENIZER",
    )
    made.add_argument("--tiny", action="store_true", help="tiny shapes: shows that it runs")
    made.add_argument("--json", action="store_true")
    return made


def chosen(args: argparse.Namespace, usual: Sequence[Case], tiny: Sequence[Case]) -> list[Case]:
    """The cases that the command asks for, else the usual ones."""
    return args.case or list(tiny if args.tiny else usual)
