"""Arguments that several commands share, and what they mean."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from stepladder.configs.core.errors import UserError

if TYPE_CHECKING:
    from stepladder.configs.core.load import Loaded
    from stepladder.train.export.restore import Opened

CONFIG_HELP = "FILE[:ARG], e.g. configs/demo.py:cpu; override any knob with --config.key=value"


def add_config(parser: argparse.ArgumentParser) -> None:
    """--config, required; any override `--config.key=value` is taken by cli/parser.py."""
    parser.add_argument("--config", required=True, help=CONFIG_HELP)


def load_config(args: argparse.Namespace) -> "Loaded":
    """The config of `--config` under its overrides. Raises UserError."""
    from stepladder.configs.core.load import load

    return load(args.config, args.overrides)


def add_workdir(parser: argparse.ArgumentParser) -> None:
    """--workdir, required."""
    parser.add_argument(
        "--workdir",
        required=True,
        type=Path,
        help="the folder that holds records, data and the report",
    )


def add_quiet(parser: argparse.ArgumentParser) -> None:
    """--quiet, for commands that draw progress bars."""
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Which checkpoint of which run, and where its token store is."""
    parser.add_argument(
        "run", metavar="RUN@STEP", help="WORKDIR/runs/ID@STEP; without @STEP the last checkpoint"
    )
    parser.add_argument("--store", default="", help="token store, when it is not in WORKDIR/data")


def open_checkpoint(args: argparse.Namespace) -> "Opened":
    """The checkpoint that `add_checkpoint` asked for, with jax set up. Raises UserError."""
    from stepladder.train.hardware.machine import Machine, start_jax

    start_jax(Machine())
    from stepladder.train.export import restore

    return restore.open_checkpoint(args.run, args.store)


def pairs(items: list[str], option: str) -> dict[str, str]:
    """["a=b", ...] as a dict. Raises UserError, naming `option`, for another form."""
    found = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not (name and equals and value):
            raise UserError(f"{option}={item}: must be NAME=VALUE")
        found[name.strip()] = value.strip()
    return found


def numbers(items: list[str], option: str) -> dict[str, float]:
    """["a=1", ...] as a dict. Raises UserError, naming `option`, for another form."""
    found = {}
    for name, value in pairs(items, option).items():
        try:
            found[name] = float(value)
        except ValueError as error:
            raise UserError(
                f"{option}={name}={value}: {value!r} is not a number; write e.g. {name}=1e9"
            ) from error
    return found
