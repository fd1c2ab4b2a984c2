"""`stepladder run`: the ladder of a config, in one process or as one of a group."""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from stepladder.configs.core.errors import UserError
from stepladder.train.cli.arguments import add_config, add_quiet, add_workdir

if TYPE_CHECKING:
    from stepladder.configs.core.load import Loaded
    from stepladder.configs.core.spec import RunSpec
    from stepladder.train.processes.preemption import Preemption

HELP = "Run what is not done yet; safe to repeat."
EXAMPLE = "stepladder run --config=configs/demo.py:cpu --workdir=W"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The config and the workdir; --pack and --profile stand for two of the machine's knobs."""
    add_config(parser)
    add_workdir(parser)
    add_quiet(parser)
    parser.add_argument(
        "--pack",
        default="",
        help="runs of one program trained together: auto, off, or how many at most (machine.pack)",
    )
    parser.add_argument(
        "--only",
        default="",
        metavar="REGEX",
        help=(
            "only the runs whose id it is found in; e.g. branches of a trunk that another command "
            "is still training"
        ),
    )
    parser.add_argument(
        "--profile",
        default="",
        metavar="START:COUNT",
        help=(
            "XProf trace of COUNT dispatches (of up to 10 steps) after START others "
            "(machine.profile)"
        ),
    )


def main(args: argparse.Namespace) -> int:
    """0 when every run is done, 1 when one failed, 130 or 143 when stopped after a save.

    Raises UserError for what the user can mend.
    """
    overrides = [*args.overrides]
    if args.pack:
        overrides.append(("machine.pack", args.pack))
    if args.profile:
        overrides.append(("machine.profile", args.profile))
    return run_config(args.config, overrides, args.workdir, args.quiet, args.only)


def run_config(
    config: str, overrides: list[tuple[str, str]], workdir: Path, quiet: bool, only: str = ""
) -> int:
    """Run a config's ladder; returns the exit status, as `main` does.

    Signals are listened to before anything heavy is imported: a process that is killed before its
    handler stands leaves the others of its group waiting.
    """
    from stepladder.train.processes import address
    from stepladder.train.processes.preemption import Preemption

    with Preemption(meeting=address.is_given(os.environ)).listening() as preemption:
        from stepladder.configs.core.load import load

        return _run(load(config, overrides), workdir, quiet, only, preemption)


def _run(loaded: "Loaded", workdir: Path, quiet: bool, only: str, preemption: "Preemption") -> int:
    """Join the group, run, and say how it went; process 0 speaks for all."""
    from stepladder.configs.core.record import TERMINAL
    from stepladder.train.ladder import cost
    from stepladder.train.ladder.consistency import check_same
    from stepladder.train.ladder.ladder import run_ladder
    from stepladder.train.processes import group
    from stepladder.train.processes.preemption import Preempted

    with group.job(preemption=preemption):
        check_same(loaded, workdir, only)
        mine = {spec.run_id for spec in cost.only(loaded.specs, only)} if only else None
        try:
            states = run_ladder(loaded, workdir, write_forecast, quiet, preemption, mine)
        except Preempted as stopped:
            if group.is_leader():
                what = "interrupted" if preemption.exit_status == 130 else "preempted"
                print(
                    f"stepladder run: {what}, {stopped}; repeat the command to resume",
                    file=sys.stderr,
                )
            return preemption.exit_status
    if group.is_leader():
        counts = dict.fromkeys(states.values(), 0)
        for state in states.values():
            counts[state] += 1
        print(f"{len(states)} runs: " + ", ".join(f"{n} {state}" for state, n in counts.items()))
    return 0 if all(state in TERMINAL for state in states.values()) else 1


def write_forecast(workdir: Path, target: "RunSpec") -> None:
    """Write down, before the target's step 0, what the finished proxies say it will reach."""
    from stepladder.analysis.studies.extrapolation import forecast_file
    from stepladder.configs.core import counting

    counts = counting.count(target.model, target.data.seq_len)
    tokens = target.steps * target.tokens_per_step
    point = {"N": counts.params_total, "D": tokens, "C": tokens * counts.flops_per_token_train}
    try:
        entry = forecast_file.write_forecast(workdir, target.hash, target.run_id, point)
    except UserError as error:
        # the target runs all the same: that its proxies support no forecast is a result
        refused = forecast_file.refuse_forecast(workdir, target.hash, target.run_id, str(error))
        print(f"no forecast for {target.run_id}: {refused['reason']}")
        return
    print(
        f"forecast for {target.run_id}: {entry['prediction']:.4f} nats/token, "
        f"{entry['level']:.0%} interval {entry['low']:.4f} to {entry['high']:.4f}"
    )
