"""Analysis: from saved metrics to decisions.

Imports neither the model nor the trainer, and jax only when a fit is asked for.
"""

if __name__ != "stepladder.analysis":
    raise ImportError(
        f"import this package as 'stepladder.analysis', not {__name__!r}: run `pip install -e .` "
        "and leave the repository root off sys.path"
    )
