"""`stepladder export`: a checkpoint's weights for other programs."""

import argparse
from pathlib import Path

from stepladder.train.cli.arguments import add_checkpoint, open_checkpoint

HELP = "Write a checkpoint's weights as a plain .npz."
EXAMPLE = "stepladder export W/runs/ID@120 --out=weights.npz"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The checkpoint and the file."""
    add_checkpoint(parser)
    parser.add_argument("--out", type=Path, required=True, help="the .npz file to write")


def main(args: argparse.Namespace) -> int:
    """Write the file and print its path; returns 0. Raises UserError."""
    opened = open_checkpoint(args)
    from stepladder.train.export import npz

    print(npz.export(opened, args.out))
    return 0
