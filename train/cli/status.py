"""`stepladder status`: how far the runs of a workdir are."""

import argparse

from stepladder.train.cli.arguments import add_workdir

HELP = "One line a run: state, progress, checkpoints, reasons of failures."
EXAMPLE = "stepladder status --workdir=W"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The workdir."""
    add_workdir(parser)


def main(args: argparse.Namespace) -> int:
    """Print the table; returns 0. Raises UserError for a folder without a ladder."""
    from stepladder.train.record.status import table

    print(table(args.workdir))
    return 0
