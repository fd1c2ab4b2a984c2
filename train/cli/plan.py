"""`stepladder plan`: the table of runs, and with --topology what each of their programs costs when
compiled.
"""

import argparse
import dataclasses
import json
from typing import TYPE_CHECKING

from stepladder.configs.core.errors import UserError
from stepladder.train.cli.arguments import add_config, load_config
from stepladder.train.hardware.topology import HERE

if TYPE_CHECKING:
    from stepladder.configs.core.load import Loaded
    from stepladder.configs.core.spec import RunSpec

HELP = "Show what would run, at what cost; nothing runs."
EXAMPLE = "stepladder plan --config=configs/demo.py:cpu"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The config, how fast the machine is taken to be, and what to compile for."""
    add_config(parser)
    parser.add_argument(
        "--rate",
        type=float,
        default=0,
        help="achieved FLOP/s for the time estimate (default: a table by backend)",
    )
    parser.add_argument(
        "--backend", default="cpu", choices=("cpu", "gpu", "tpu"), help="which row of that table"
    )
    parser.add_argument(
        "--topology",
        default="",
        help=(
            "compile every program for a TPU slice, e.g. v5e:16x16, or a GPU node, e.g. h100:8, or "
            "for several, v5e:16x16*2 (needs none, but stepladder[tpu-plan] or [gpu-plan]); here: "
            "for this machine"
        ),
    )
    parser.add_argument(
        "--only", default="", metavar="REGEX", help="only the runs whose id it is found in"
    )
    parser.add_argument(
        "--largest",
        action="store_true",
        help="with --topology: search the largest micro-batch that fits, by compiling more",
    )
    parser.add_argument("--json", action="store_true", help="JSON instead of text")


def main(args: argparse.Namespace) -> int:
    """0, or 1 when a program does not fit.

    Raises UserError for a pattern without runs, or --largest without --topology.
    """
    from stepladder.train.ladder import cost

    if args.largest and not args.topology:
        raise UserError(
            "largest=True: it is found by compiling; add --topology=v5e:16x16 (or here)"
        )
    loaded = load_config(args)
    specs = cost.only(loaded.specs, args.only)
    rate = args.rate or _rate(args)
    ladder = {spec.run_id: spec for spec in loaded.specs}
    costs = [cost.cost(spec, rate, ladder) for spec in specs]
    if not args.json:
        print(cost.table(costs))
    programs = _compile(loaded, specs, args) if args.topology else []
    if args.json:
        body = {"runs": [cost.to_json(c) for c in costs], "programs": programs}
        print(json.dumps(body, indent=1))
    return 0 if all(program["fits"] for program in programs) else 1


def _rate(args: argparse.Namespace) -> float:
    """FLOP/s for the estimate of time.

    What the backend is known to achieve, or the usual share of the peak of the slices that are
    compiled for.
    """
    from stepladder.train.ladder import cost

    if args.topology in ("", HERE):
        return cost.achieved(args.backend)
    from stepladder.train.hardware import chips, topology

    return cost.UTILISATION * chips.peak_flops(topology.devices(args.topology))


def _compile(loaded: "Loaded", specs: "list[RunSpec]", args: argparse.Namespace) -> list[dict]:
    """Every program as JSON; as text on the way, when no JSON is asked for."""
    from stepladder.train.hardware.machine import Machine, start_jax
    from stepladder.train.ladder import executables

    machine = dataclasses.replace(Machine.from_config(loaded.config), compilation_cache="off")
    if args.topology == HERE:
        start_jax(machine)
    else:
        machine = dataclasses.replace(machine, topology=args.topology)
    programs = []
    for found in executables.compile_all(loaded.specs, machine, args.largest, specs):
        programs.append(found.to_json())
        if not args.json:
            print(executables.row(found), flush=True)
    return programs
