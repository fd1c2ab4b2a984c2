"""`stepladder probe`: measurements that a config asks for beyond training."""

import argparse

from stepladder.train.cli.arguments import add_config, add_quiet, add_workdir, load_config

HELP = "Measure a study's checkpoints and data: what its config's probes() asks for."
EXAMPLE = "stepladder probe --config=configs/studies/proxy_transfer.py:cpu --workdir=W"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The config and the workdir of its finished runs."""
    add_config(parser)
    add_workdir(parser)
    add_quiet(parser)


def main(args: argparse.Namespace) -> int:
    """Make the probes that are not there yet; returns 0. Raises UserError."""
    from stepladder.train.hardware.machine import Machine, start_jax

    loaded = load_config(args)
    start_jax(Machine.from_config(loaded.config))
    from stepladder.train.probes.run import run_probes

    def say(line: str) -> None:
        if not args.quiet:
            print(line, flush=True)

    made, asked = len(run_probes(loaded, args.workdir, say)), len(loaded.probes)
    print(f"{asked} probes: {made} made, {asked - made} were there")
    return 0
