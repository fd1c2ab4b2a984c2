"""What a config asks for beyond training: probes of checkpoints, and baselines of its data.

A config module may define `probes(config, specs)`, a list of these; `stepladder probe` makes those
that are not there yet.
"""

import math
from dataclasses import dataclass

from stepladder.configs.core.errors import UserError
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


SCALES = ("init", "weights")  # what a strength of noise is relative to
TENSORS = ("matrices", "all")  # which tensors are perturbed
BITS = range(2, 9)  # of the integers that weights are rounded to


@dataclass(frozen=True)
class Perturbation:
    """Loss of one checkpoint after Gaussian noise and after quantisation, and its curvature.

    Noise has a standard deviation of `strength` times that of a tensor's initialisation (scale
    "init", arXiv:2503.19206) or times the tensor's root mean square now ("weights", a control that
    follows the growth of the weights). Measured on the run's validation domains; step 0 is its
    initialisation. Written to WORKDIR/runs/<run_id>/probes/perturbation-<step>.json.

    Raises UserError for a value that measures nothing.
    """

    run: RunSpec
    step: int
    strengths: tuple[float, ...]
    draws: int  # of noise; each is used at every strength, scale and set of tensors
    windows: int  # of validation, a domain
    scales: tuple[str, ...] = ("init",)  # of SCALES
    # of TENSORS; matrices: without embedding and unembedding; both: without norms, which start as
    # ones and so have no distribution
    tensors: tuple[str, ...] = ("matrices",)
    bits: tuple[int, ...] = ()  # of BITS
    trace_probes: int = 0  # Rademacher vectors of Hutchinson's estimate; 0: no curvature
    seed: int = 0  # of the noise and of the vectors
    iterations: int = 100  # Hessian-vector products of a power iteration, at most
    tolerance: float = 1e-2  # of its residual

    def __post_init__(self) -> None:
        for name, least in (("draws", 1), ("windows", 1), ("trace_probes", 0), ("step", 0)):
            if getattr(self, name) < least:
                raise UserError(
                    f"perturbation.{name}={getattr(self, name)}: too few; use {least} or more"
                )
        if self.trace_probes == 1:
            raise UserError(
                "perturbation.trace_probes=1: one vector has no standard error; use at least 2, "
                "or 0 for no curvature"
            )
        for name in ("strengths", "scales", "tensors"):
            if not getattr(self, name):
                raise UserError(f"perturbation.{name}=(): nothing is perturbed; give at least one")
        for strength in self.strengths:
            if not (math.isfinite(strength) and strength >= 0):
                raise UserError(
                    f"perturbation.strengths={self.strengths}: {strength} is no strength of noise; "
                    "use finite numbers, 0 or above"
                )
        for name, known in (("scales", SCALES), ("tensors", TENSORS), ("bits", BITS)):
            for value in getattr(self, name):
                if value not in known:
                    raise UserError(
                        f"perturbation.{name}={getattr(self, name)}: {value!r} is unknown; known: "
                        f"{', '.join(map(str, known))}"
                    )
        for name in ("strengths", "scales", "tensors", "bits"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise UserError(f"perturbation.{name}={values}: has a value twice; give each once")


@dataclass(frozen=True)
class Interpolation:
    """Losses on the line from a branch's parent (alpha 0) to the branch (alpha 1): weight averaging
    of a fine-tuning (arXiv:2109.01903). Written to
    WORKDIR/runs/<run_id>/probes/interpolation.json.

    Raises UserError for a run without a parent.
    """

    run: RunSpec
    alphas: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)

    def __post_init__(self) -> None:
        if self.run.parent is None:
            raise UserError(
                f"interpolation.run={self.run.run_id}: has no parent to average with; use a branch"
            )


@dataclass(frozen=True)
class Elsewhere:
    """Losses of a checkpoint on the validation text of another corpus with the same tokens.

    Written to WORKDIR/runs/<run_id>/probes/elsewhere-<corpus>-<step>.json.
    """

    run: RunSpec
    step: int
    corpus: CorpusSpec
    domains: tuple[str, ...] = ()  # of the corpus; empty: all
    windows: int = 32  # of validation, a domain


@dataclass(frozen=True)
class Routing:
    """Losses where the first tokens of a window choose the expert that reads the rest, beside those
    of its domain's own expert. Written to WORKDIR/studies/<study>/routing/<name>.json.
    """

    study: str
    name: str
    experts: tuple[RunSpec, ...]  # of one domain each, at their last steps
    prefix: int  # tokens that choose
    windows: int = 32  # of validation, a domain


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


@dataclass(frozen=True)
class Floors:
    """Loss of n-gram models of a mixture on a study's validation windows: what text statistics
    alone reach. Written to WORKDIR/studies/<study>/floors.json.
    """

    study: str
    corpus: CorpusSpec
    weights: tuple[tuple[str, float], ...]
    validation: tuple[str, ...]
    seq_len: int
    eval_windows: int

    @classmethod
    def of(cls, study: str, run: RunSpec) -> "Floors":
        """Those of a run's mixture, on the windows that it is evaluated on."""
        return cls(
            study,
            run.data.corpus,
            run.data.weights,
            tuple(domain for domain, _ in run.data.evaluated),
            run.data.seq_len,
            run.eval_windows,
        )


Probe = Alignment | Perturbation | Interpolation | Elsewhere | Routing | Ngrams | Floors
