"""Train: data, loop, checkpoints, records and the command."""

if __name__ != "stepladder.train":
    raise ImportError(
        f"import this package as 'stepladder.train', not {__name__!r}: run `pip install -e .` and "
        "leave the repository root off sys.path"
    )
