"""`stepladder laws`: the table of laws."""

import argparse

HELP = "List the laws that can be fitted."
EXAMPLE = "stepladder laws"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None."""


def main(args: argparse.Namespace) -> int:
    """Print name, formula, source and note of every law; returns 0."""
    from stepladder.analysis.laws import LAWS

    shown = set()
    for law in LAWS.values():
        if law.formula in shown:  # the same law of another number of domains
            continue
        shown.add(law.formula)
        print(f"{law.name:<20} {law.formula}   [{law.source}]")
        if law.note:
            print(f"{'':<20} {law.note}")
    return 0
