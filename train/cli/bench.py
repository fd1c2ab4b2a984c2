"""`stepladder bench`: what the device at hand reaches."""

import argparse
import json
import time
from pathlib import Path

HELP = "Measure the device at hand: its ceilings, training steps, and whether they repeat."
EXAMPLE = "stepladder bench --case=25k:8:32:128:bytes --seconds=2"
BUDGET = 210.0  # seconds, after which no case begins: the last one ends within four minutes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is timed, for how long, and where the file goes."""
    parser.add_argument(
        "--case",
        action="append",
        default=[],
        metavar="SIZE:RUNS:BATCH:LENGTH:TOKENIZER",
        help="time this step instead of the usual ones; may be repeated",
    )
    parser.add_argument(
        "--large", action="store_true", help="also a model of 1B parameters (on an accelerator)"
    )
    parser.add_argument("--tiny", action="store_true", help="two tiny steps: shows that it runs")
    parser.add_argument(
        "--layers", default="auto", choices=("auto", "scan", "unroll"), help="how the layers run"
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="of timed steps a case")
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="also write FOLDER/DEVICE-DATE.json"
    )
    parser.add_argument("--json", action="store_true", help="JSON instead of text")


def main(args: argparse.Namespace) -> int:
    """0, or 1 when a step does not repeat bit for bit. Raises UserError for a case that cannot
    be.
    """
    from stepladder.configs.core.errors import UserError
    from stepladder.configs.core.files import write_atomic
    from stepladder.train.bench import case, table
    from stepladder.train.hardware.machine import platform_of

    if args.seconds <= 0:
        raise UserError(f"seconds={args.seconds}: no time to measure in; use e.g. --seconds=5")
    until = time.monotonic() + BUDGET
    wanted = [case.Case.parse(text) for text in args.case]
    machine = table.machine_here(args.layers)
    usual = case.TINY if args.tiny else case.CASES[platform_of(machine)]
    cases = [*(wanted or usual), *(case.LARGE if args.large else ())]
    seconds = min(args.seconds, 0.1) if args.tiny else args.seconds

    def show(line: str) -> None:
        if not args.json:
            print(line, flush=True)

    body = table.bench(cases, machine, seconds=seconds, until=until, show=show)
    if args.json:
        print(json.dumps(body, indent=1))
    if args.out:
        device = "-".join(body["device_kind"].lower().split())
        path = args.out / f"{device}-{body['date']}.json"
        write_atomic(path, json.dumps(body, indent=1) + "\n", field="out")
        if not args.json:
            print(f"written to {path}")
    return 1 if any(step["unequal"] for step in body["steps"]) else 0
