"""What a config asks for beyond training: probes of checkpoints, and baselines of its data.

A config module may define `probes(config, specs)`, a list of these; `stepladder probe` makes those
that are not there yet.
"""

from dataclasses import dataclass

from stepladder.configs.core.spec import CorpusSpec, RunSpec

Recipes = tuple[tuple[str, tuple[tuple[str, float], ...]], ...]  # (name, weights)


@dataclass(frozen=True)
class Alignment:
    """Gradient alignment and curvature of every recipe at one step of a run.

    Measured on the run's validation domains; step 0 is its initialisation. Written to
    WORKDIR/runs/<run_id>/probes/alignment-<step>.json.
    """

    run: RunSpec
    step: int
    recipes: Recipes
    windows: int  # of validation, a domain
    train_windows: int  # of training text, a recipe
    iterations: int = 100  # Hessian-vector products of a power iteration, at most
    tolerance: float = 1e-2  # of its residual


@dataclass(frozen=True)
class Ngrams:
    """Unigram and bigram loss of every recipe's mixture on the study's validation windows.

    Also the epochs that the study's longest run sees. Written to
    WORKDIR/studies/<study>/ngrams.json.
    """

    study: str
    corpus: CorpusSpec
    recipes: Recipes
    validation: tuple[str, ...]
    seq_len: int
    eval_windows: int
    examples: int  # sequences of the longest run, for the epochs


Probe = Alignment | Ngrams
