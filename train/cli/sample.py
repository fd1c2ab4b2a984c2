"""`stepladder sample`: text from a checkpoint."""

import argparse

from stepladder.train.cli.arguments import add_checkpoint, open_checkpoint

HELP = "Continue a prompt from a checkpoint."
EXAMPLE = "stepladder sample W/runs/ID@120 --prompt='import numpy'"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The checkpoint, the prompt and how to draw."""
    add_checkpoint(parser)
    parser.add_argument("--prompt", default="def ", help="text to continue")
    parser.add_argument("--tokens", type=int, default=200, help="tokens to add (200)")
    parser.add_argument("--temperature", type=float, default=0.8, help="0 is greedy (0.8)")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (0)")


def main(args: argparse.Namespace) -> int:
    """Print the prompt with its continuation; returns 0. Raises UserError."""
    opened = open_checkpoint(args)
    from stepladder.train.export import restore

    print(restore.sample(opened, args.prompt, args.tokens, args.temperature, args.seed))
    return 0
