"""`stepladder coordinates`: the coordinate check of a parametrisation (arXiv:2203.03466)."""

import argparse

from stepladder.configs.core.sizes import BASES
from stepladder.train.cli.arguments import add_config, add_quiet, add_workdir, load_config

HELP = "Coordinate check: do activations change alike at every width or depth in ten steps?"
EXAMPLE = (
    "stepladder coordinates --config=configs/studies/parametrization.py:cpu "
    "--widths=64,128,256 --workdir=W"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What grows, under which parametrisations."""
    add_config(parser)
    add_workdir(parser)
    grown = parser.add_mutually_exclusive_group(required=True)
    grown.add_argument(
        "--widths",
        type=_integers,
        metavar="W,W,...",
        help="grow the width, e.g. 64,128,256,512,1024",
    )
    grown.add_argument(
        "--depths",
        type=_integers,
        metavar="N,N,...",
        help="grow the number of layers, e.g. 2,4,8,16",
    )
    parser.add_argument("--parametrizations", default=",".join(BASES), help="default: all of them")
    parser.add_argument("--seeds", type=int, default=1, help="initialisations to average over")
    add_quiet(parser)


def main(args: argparse.Namespace) -> int:
    """Train ten steps at every size, print the verdict and draw it; returns 0. Raises UserError."""
    from stepladder.train.hardware.machine import Machine, start_jax

    config, axis = load_config(args).config, "width" if args.widths else "depth"
    start_jax(Machine.from_config(config))
    from stepladder.analysis.studies.coordinates import figures, study
    from stepladder.train.probes import coordinates as probe

    probe.run(
        config,
        args.workdir,
        axis,
        args.widths or args.depths,
        tuple(args.parametrizations.split(",")),
        args.seeds,
        show=not args.quiet,
    )
    check = study.read(args.workdir, axis)
    print(check)
    print(f"figure: {figures.write(check, args.workdir)}")
    return 0


def _integers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r}: give whole numbers separated by commas, e.g. 64,128,256"
        ) from error
