"""Configs: what to run.

Plain Python that yields run specs; imports the standard library and ml_collections only.
"""

if __name__ != "stepladder.configs":
    raise ImportError(
        f"import this package as 'stepladder.configs', not {__name__!r}: run `pip install -e .` "
        "and leave the repository root off sys.path"
    )
