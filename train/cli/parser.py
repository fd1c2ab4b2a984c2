"""The `stepladder` command: one sub-command a function, in one table.

The only file of train/ that may import analysis, lazily.
"""

import argparse
import os
import sys
from pathlib import Path

from stepladder.configs.core import record
from stepladder.configs.core.errors import UserError
from stepladder.configs.core.load import Loaded, load
from stepladder.train.hardware.topology import hush

CONFIG_HELP = "FILE[:ARG], e.g. configs/demo.py:cpu; override any knob with --config.key=value"


def main(argv: list[str] | None = None) -> int:
    """Exit status 0 only when all that was asked for is done; 1 for what the user can mend; 143
    when preempted after a save.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    overrides = [
        a.removeprefix("--config.").partition("=") for a in argv if a.startswith("--config.")
    ]
    parser = _parser(next((a for a in argv if a in COMMANDS), None))
    args = parser.parse_args([a for a in argv if not a.startswith("--config.")])
    if overrides and not hasattr(args, "config"):
        parser.error(f"{args.command} takes no --config.key")
    args.overrides = [(key, value) for key, _, value in overrides]
    hush()
    try:
        return COMMANDS[args.command][1](args)
    except UserError as error:
        print(f"stepladder {args.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; repeat the command to resume", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0


def _parser(command: str | None) -> argparse.ArgumentParser:
    """The parser of the whole command line; only `command` has its arguments, for some import what
    they list.
    """
    parser = argparse.ArgumentParser(
        prog="stepladder",
        description="Train small, decide big: ladders of language models and what they decide.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (arguments, run) in COMMANDS.items():
        doc, _, example = run.__doc__.partition("Example: ")
        sub = commands.add_parser(
            name,
            help=doc.strip().rstrip("."),
            description=doc.strip(),
            epilog=f"example: {example.strip()}",
            allow_abbrev=False,
        )
        if name == command:
            arguments(sub)
    return parser


def _config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help=CONFIG_HELP)


def _workdir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workdir",
        required=True,
        type=Path,
        help="the folder that holds records, data and the report",
    )


def _checkpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run", metavar="RUN@STEP", help="WORKDIR/runs/ID@STEP; without @STEP the last checkpoint"
    )
    parser.add_argument("--store", default="", help="token store, when it is not in WORKDIR/data")


def _plan_arguments(parser):
    from stepladder.train.cli import plan

    _config(parser)
    plan.arguments(parser)


def plan(args) -> int:
    """Show what would run, at what cost; nothing runs.

    Example: stepladder plan --config=configs/demo.py:cpu
    """
    from stepladder.train.cli import plan

    return plan.main(args)


def _probe_arguments(parser):
    _config(parser)
    _workdir(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def _run_arguments(parser):
    _probe_arguments(parser)
    parser.add_argument(
        "--pack",
        default="",
        help="runs of one program trained together: auto, off, or how many at most (machine.pack)",
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


def run(args) -> int:
    """Run what is not done yet; safe to repeat.

    Example: stepladder run --config=configs/demo.py:cpu --workdir=W
    """
    given = [
        (f"machine.{name}", getattr(args, name))
        for name in ("pack", "profile")
        if getattr(args, name)
    ]
    return _run(args.config, [*args.overrides, *given], args.workdir, args.quiet)


def _run(config: str, overrides: list[tuple[str, str]], workdir: Path, quiet: bool) -> int:
    """Process 0 speaks for all of a job.

    Signals are listened to first of all: a process that dies unheard keeps the others waiting.
    """
    from stepladder.train.processes import group, preemption

    with preemption.Notice(meeting=group.has_layout(os.environ)).watching() as notice:
        return _run_heard(load(config, overrides), workdir, quiet, notice)


def _run_heard(loaded: Loaded, workdir: Path, quiet: bool, notice) -> int:
    from stepladder.train.ladder.consistency import check_same
    from stepladder.train.ladder.ladder import run_ladder
    from stepladder.train.processes import group
    from stepladder.train.processes.preemption import Preempted

    with group.job(notice=notice):
        check_same(loaded, workdir)
        try:
            states = run_ladder(loaded, workdir, _write_forecast, quiet, notice)
        except Preempted as stopped:
            if group.first():
                how = "interrupted" if notice.exit_status == 130 else "preempted"
                print(
                    f"stepladder run: {how}, {stopped}; repeat the command to resume",
                    file=sys.stderr,
                )
            return notice.exit_status
    counts = {state: list(states.values()).count(state) for state in dict.fromkeys(states.values())}
    if group.first():
        print(f"{len(states)} runs: " + ", ".join(f"{n} {state}" for state, n in counts.items()))
    return 0 if all(state in record.TERMINAL for state in states.values()) else 1


def _write_forecast(workdir: Path, spec) -> None:
    """Before the target's step 0: what the proxies say it will reach."""
    from stepladder.analysis.studies.extrapolation.forecast_file import (
        refuse_forecast,
        write_forecast,
    )
    from stepladder.configs.core import counting

    counts = counting.count(spec.model, spec.data.seq_len)
    tokens = spec.steps * spec.tokens_per_step
    target = {"N": counts.params_total, "D": tokens, "C": tokens * counts.flops_per_token_train}
    try:
        entry = write_forecast(workdir, spec.hash, spec.run_id, target)
        print(
            f"forecast for {spec.run_id}: {entry['prediction']:.4f} nats/token, "
            f"{entry['level']:.0%} interval {entry['low']:.4f} to {entry['high']:.4f}"
        )
    except UserError as error:
        # the target runs all the same: that its proxies support no forecast is a result
        print(
            f"no forecast for {spec.run_id}: "
            f"{refuse_forecast(workdir, spec.hash, spec.run_id, str(error))['reason']}"
        )


def probe(args) -> int:
    """Measure a study's checkpoints and data: what its config's probes() asks for.

    Example: stepladder probe --config=configs/studies/proxy_transfer.py:cpu --workdir=W
    """
    from stepladder.train.hardware import machine

    loaded = load(args.config, args.overrides)
    machine.start(machine.Machine.from_config(loaded.config))
    from stepladder.train.probes.run import run_probes

    written = run_probes(
        loaded,
        args.workdir,
        (lambda line: None) if args.quiet else (lambda line: print(line, flush=True)),
    )
    print(
        f"{len(loaded.probes)} probes: {len(written)} made, {len(loaded.probes) - len(written)} "
        "were there"
    )
    return 0


def _status_arguments(parser):
    _workdir(parser)


def status(args) -> int:
    """One line a run: state, progress, checkpoints, reasons of failures.

    Example: stepladder status --workdir=W
    """
    from stepladder.train.record.status import table

    print(table(args.workdir))
    return 0


def _report_arguments(parser):
    from stepladder.analysis.studies.registry import DEFAULT, STUDIES

    parser.add_argument("--workdir", type=Path, help="the folder that holds the records")
    parser.add_argument(
        "--table",
        type=Path,
        help=(
            "with a study that reads one: someone's runs as CSV, TSV, JSON, JSON lines or Parquet, "
            "in place of --workdir"
        ),
    )
    parser.add_argument(
        "--column",
        nargs="+",
        default=[],
        metavar="NAME=COLUMN",
        help=(
            "columns of --table, e.g. loss='smooth loss', or one number for all rows, e.g. "
            "seq_len=2048"
        ),
    )
    asked = "; ".join(f"{name}: {study.question}" for name, study in STUDIES.items())
    parser.add_argument("--study", help=f"the question to ask (default {DEFAULT}). {asked}")
    parser.add_argument(
        "--out",
        type=Path,
        help="folder of the report (default WORKDIR/report, of a study WORKDIR/report/STUDY)",
    )


def report(args) -> int:
    """Write report/index.html and results.json from the records.

    Example: stepladder report --workdir=W
    """
    from stepladder.analysis.studies.registry import DEFAULT

    columns = dict(c.partition("=")[::2] for c in args.column)
    return _study(args.study or DEFAULT, args.workdir, args.table, args.out, columns)


def _study(
    name: str, workdir: Path | None, table: Path | None, out: Path | None, columns: dict[str, str]
) -> int:
    from stepladder.analysis.studies.registry import run_study, summary

    page = run_study(name, workdir, table, out, columns=columns)
    print(summary(name, page))
    print(f"report: {page}")
    return 0


def evaluate(args) -> int:
    """Evaluate a checkpoint on the validation split of its domains.

    Example: stepladder eval W/runs/ID@120
    """
    inspect = _inspect()
    opened = inspect.open_checkpoint(args.run, args.store)
    print(f"{opened.spec.run_id}@{opened.step}  ({opened.spec.eval_windows} windows a domain)")
    for row in inspect.evaluate(opened):
        print(
            f"{row['domain']:24} loss {row['loss']:.6f} +- {row['loss_se']:.4f} nats/token   "
            f"{row['bits_per_byte']:.4f} bits/byte"
        )
    return 0


def _sample_arguments(parser):
    _checkpoint(parser)
    parser.add_argument("--prompt", default="def ", help="text to continue")
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--temperature", type=float, default=0.8, help="0 is greedy")
    parser.add_argument("--seed", type=int, default=0)


def sample(args) -> int:
    """Continue a prompt from a checkpoint.

    Example: stepladder sample W/runs/ID@120 --prompt='import numpy'
    """
    inspect = _inspect()
    print(
        inspect.sample(
            inspect.open_checkpoint(args.run, args.store),
            args.prompt,
            args.tokens,
            args.temperature,
            args.seed,
        )
    )
    return 0


def _export_arguments(parser):
    _checkpoint(parser)
    parser.add_argument("--out", type=Path, required=True, help="the .npz file to write")


def export(args) -> int:
    """Write a checkpoint's weights as a plain .npz.

    Example: stepladder export W/runs/ID@120 --out=weights.npz
    """
    inspect = _inspect()
    print(inspect.export(inspect.open_checkpoint(args.run, args.store), args.out))
    return 0


def _inspect():
    from stepladder.train.hardware import machine

    machine.start(machine.Machine())
    from stepladder.train.export import restore

    return restore


def _data_arguments(parser):
    from stepladder.train.cli import prepare

    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    prepare.add_arguments(
        actions.add_parser("prepare", help="tokenise text into a token store", allow_abbrev=False)
    )


def data(args) -> int:
    """Prepare token stores from text.

    Example: stepladder data prepare --out=store --corpus=embedded
    """
    from stepladder.train.cli import prepare

    return prepare.main(args)


def _fit_arguments(parser):
    from stepladder.train.cli import fit

    fit.fit_arguments(parser)


def fit(args) -> int:
    """Fit a scaling law to any table of runs.

    Example: stepladder fit runs.csv --law=chinchilla --bootstrap=4000 --budget=1e21
    """
    from stepladder.train.cli import fit

    return fit.fit(args)


def _predict_arguments(parser):
    from stepladder.train.cli import fit

    fit.predict_arguments(parser)


def predict(args) -> int:
    """Predict new runs, with intervals, from a fitted law.

    Example: stepladder predict runs.csv --law=chinchilla --at N=7e9,D=2e12
    """
    from stepladder.train.cli import fit

    return fit.predict(args)


def _recommend_arguments(parser):
    from stepladder.train.cli import recommend

    recommend.arguments(parser)


def recommend(args) -> int:
    """Which ladder to train for a target, a budget and a wanted error.

    Example: stepladder recommend --budget=1e19 --target=1e9,2e10 --error=4%
    """
    from stepladder.train.cli import recommend

    return recommend.main(args)


def laws(args) -> int:
    """List the laws that can be fitted. Example: stepladder laws"""
    from stepladder.train.cli import fit

    return fit.laws()


def _coordinates_arguments(parser):
    from stepladder.configs.core.sizes import BASES

    def numbers(text):
        return tuple(int(part) for part in text.split(","))

    _config(parser)
    _workdir(parser)
    grown = parser.add_mutually_exclusive_group(required=True)
    grown.add_argument(
        "--widths", type=numbers, metavar="W,W,...", help="grow the width, e.g. 64,128,256,512,1024"
    )
    grown.add_argument(
        "--depths", type=numbers, metavar="N,N,...", help="grow the number of layers, e.g. 2,4,8,16"
    )
    parser.add_argument("--parametrizations", default=",".join(BASES), help="default: all of them")
    parser.add_argument("--seeds", type=int, default=1, help="initialisations to average over")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def coordinates(args) -> int:
    """Coordinate check: do activations change alike at every width or depth in ten steps?

    Example: stepladder coordinates --config=configs/studies/parametrization.py:cpu
    --widths=64,128,256 --workdir=W
    """
    from stepladder.train.hardware import machine

    config, axis = load(args.config, args.overrides).config, "width" if args.widths else "depth"
    machine.start(machine.Machine.from_config(config))
    from stepladder.analysis.studies.coordinates import figures, study
    from stepladder.train.probes import coordinates as probe

    names = tuple(args.parametrizations.split(","))
    probe.run(
        config,
        args.workdir,
        axis,
        args.widths or args.depths,
        names,
        args.seeds,
        show=not args.quiet,
    )
    check = study.read(args.workdir, axis)
    print(check)
    print(f"figure: {figures.write(check, args.workdir)}")
    return 0


def _demo_arguments(parser):
    parser.add_argument("--workdir", type=Path, default=Path("demo"), help="default: ./demo")
    parser.add_argument(
        "--config",
        default=str(Path(__file__).parents[2] / "configs" / "demo.py") + ":cpu",
        help=CONFIG_HELP,
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def demo(args) -> int:
    """The five-minute tour: corpus, proxies, forecast, target, report.

    Example: stepladder demo --workdir=demo
    """
    from stepladder.analysis.studies.registry import DEFAULT
    from stepladder.train.processes import group

    code = _run(args.config, args.overrides, args.workdir, args.quiet)
    return code or (_study(DEFAULT, args.workdir, None, None, {}) if group.first() else 0)


COMMANDS = {
    "plan": (_plan_arguments, plan),
    "run": (_run_arguments, run),
    "probe": (_probe_arguments, probe),
    "status": (_status_arguments, status),
    "report": (_report_arguments, report),
    "eval": (_checkpoint, evaluate),
    "sample": (_sample_arguments, sample),
    "export": (_export_arguments, export),
    "data": (_data_arguments, data),
    "fit": (_fit_arguments, fit),
    "predict": (_predict_arguments, predict),
    "recommend": (_recommend_arguments, recommend),
    "laws": (lambda parser: None, laws),
    "coordinates": (_coordinates_arguments, coordinates),
    "demo": (_demo_arguments, demo),
}


if __name__ == "__main__":
    sys.exit(main())
