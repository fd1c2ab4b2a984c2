"""`stepladder demo`: the shipped ladder from text to report, without an argument."""

import argparse
from pathlib import Path

from stepladder.train.cli.arguments import CONFIG_HELP, add_quiet
from stepladder.train.cli.report import report
from stepladder.train.cli.run import run_config

HELP = "The five-minute tour: corpus, proxies, forecast, target, report."
EXAMPLE = "stepladder demo --workdir=demo"

CONFIG = Path(__file__).parents[2] / "configs" / "demo.py"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All have defaults."""
    parser.add_argument("--workdir", type=Path, default=Path("demo"), help="default: ./demo")
    parser.add_argument("--config", default=f"{CONFIG}:cpu", help=CONFIG_HELP)
    add_quiet(parser)


def main(args: argparse.Namespace) -> int:
    """Run the ladder, then report on it; the exit status of the first that fails."""
    from stepladder.train.processes import group

    status = run_config(args.config, args.overrides, args.workdir, args.quiet)
    if status or not group.is_leader():
        return status
    return report(None, args.workdir)
