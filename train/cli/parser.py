"""The table of commands, and the entry point of `stepladder` and `python -m stepladder.train`."""

import argparse
import logging
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from stepladder.configs.core.errors import UserError
from stepladder.train.cli import (
    bench,
    coordinates,
    demo,
    evaluate,
    export,
    plan,
    prepare,
    probe,
    report,
    run,
    sample,
    status,
)
from stepladder.train.cli.scaling import fit, laws, predict, recommend
from stepladder.train.hardware.topology import hush

INTERRUPTED = 130  # exit status after Ctrl-C, as shells have it


# Each module has HELP, EXAMPLE, add_arguments(parser) and main(args): see train/cli/__init__.py.
COMMANDS: dict[str, ModuleType] = {
    "plan": plan,
    "run": run,
    "probe": probe,
    "status": status,
    "report": report,
    "eval": evaluate,
    "sample": sample,
    "export": export,
    "data": prepare,
    "fit": fit,
    "predict": predict,
    "recommend": recommend,
    "laws": laws,
    "coordinates": coordinates,
    "bench": bench,
    "demo": demo,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the words after `stepladder`; None takes those of this process.

    Returns:
        The exit status: 0 when all that was asked for is done, 1 for what the user can mend (said
        in one line on stderr), 130 after Ctrl-C, 143 after a preemption whose state is saved.
    """
    args = parse(sys.argv[1:] if argv is None else argv)
    hush()
    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax logs a page for every checkpoint
    try:
        return COMMANDS[args.command].main(args)
    except UserError as error:
        print(f"stepladder {args.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; repeat the command to resume", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has seen enough
        return 0


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The parsed arguments; `--config.KEY=VALUE` words become pairs in `overrides`.

    Exits as argparse does: with status 2 for what cannot be parsed, 0 after --help or --version.
    """
    prefix = "--config."
    words = [word for word in argv if not word.startswith(prefix)]
    overrides = [word.removeprefix(prefix) for word in argv if word.startswith(prefix)]
    parser = build_parser(next((word for word in words if word in COMMANDS), None))
    args = parser.parse_args(words)
    if overrides and not hasattr(args, "config"):
        parser.error(f"{args.command} takes no --config.key")
    args.overrides = [tuple(text.partition("=")[::2]) for text in overrides]
    return args


def build_parser(command: str | None) -> argparse.ArgumentParser:
    """The parser of the whole command line.

    Only `command` gets its arguments: some commands import libraries to say what they accept.
    """
    parser = argparse.ArgumentParser(
        prog="stepladder",
        description="Train small, decide big: ladders of language models and what they decide.",
    )
    parser.add_argument("--version", action=_Version, help="show the version and exit")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        sub = commands.add_parser(
            name,
            help=module.HELP.rstrip("."),
            description=module.HELP,
            epilog=f"example: {module.EXAMPLE}",
            allow_abbrev=False,
        )
        if name == command:
            module.add_arguments(sub)
    return parser


class _Version(argparse.Action):
    """Looks the version up only when it is asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, **options)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib import metadata

        print(f"stepladder {metadata.version('stepladder')}")
        parser.exit()


if __name__ == "__main__":
    sys.exit(main())
