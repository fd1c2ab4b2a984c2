"""The `stepladder` command, one file a sub-command; the only part of train/ that imports analysis.

Every file has the same four names: `HELP`, one sentence; `EXAMPLE`, a whole command line that can
be parsed; `add_arguments(parser)`; `main(args)`, which returns the exit status. Heavy imports stand
inside `main`, so that `--help` is quick.
"""
