"""`stepladder eval`: the validation losses of a checkpoint, made anew."""

import argparse

from stepladder.train.cli.arguments import add_checkpoint, open_checkpoint

HELP = "Evaluate a checkpoint on the validation split of its domains."
EXAMPLE = "stepladder eval W/runs/ID@120"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The checkpoint."""
    add_checkpoint(parser)


def main(args: argparse.Namespace) -> int:
    """Print one line a domain; returns 0. Raises UserError."""
    opened = open_checkpoint(args)
    from stepladder.train.export import restore

    print(f"{opened.spec.run_id}@{opened.step}  ({opened.spec.eval_windows} windows a domain)")
    for row in restore.evaluate(opened):
        print(
            f"{row['domain']:24} loss {row['loss']:.6f} +- {row['loss_se']:.4f} nats/token   "
            f"{row['bits_per_byte']:.4f} bits/byte"
        )
    return 0
