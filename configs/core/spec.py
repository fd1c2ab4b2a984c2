"""The run spec: everything that determines a run, frozen, JSON, hashed.

Two specs with equal `program_key` share one executable: what a sweep varies (`Hyper`) is traced
state, never a Python constant.
"""

import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, NamedTuple

from stepladder.configs.core.errors import UserError

# Rows of a mixture come in blocks of so many; a block holds of every domain its share, to a row
# (train/data/read/mixture.py).
EXAMPLES_A_BLOCK = 1024


@dataclass(frozen=True)
class ModelSpec:
    """Shape of a decoder-only Transformer."""

    size: str
    vocab_size: int
    d_model: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    d_ff: int
    activation: str  # swiglu | gelu
    tied: bool  # unembedding shares the embedding's weights
    qk_norm: bool
    rope_theta: float
    norm_eps: float
    logit_cap: float  # tanh soft-cap of the logits; 0 is off
    compute_dtype: str  # float32 | tensorfloat32 | bfloat16; parameters are float32 always
    parametrization: str = "standard"  # key of model/parametrization.py:PARAMETRIZATIONS
    # the width whose hyperparameters are meant to hold at this one; 0 for standard
    base_width: int = 0
    base_depth: int = 0  # the same in layers; 0 for standard and mup
    window: int = 0  # positions attention looks back over, itself included; 0 is all
    # token that ends a document, out of which attention does not look; -1: it does
    document_end: int = -1
    # a batch may mark tokens: -1 - t is token t, which is read and whose prediction does not count
    marked: bool = False


class Variant(NamedTuple):
    """Training text made from a domain, under a name that `weights` may use.

    A tuple, so that it is a list in a spec's JSON.
    """

    name: str
    domain: str  # the one it is made from
    filters: tuple[str, ...] = ()  # names in train/data/prepare/filters.py and quality.py, in order
    dedup: str = ""  # none | exact | minhash; in a config "" is the corpus'


@dataclass(frozen=True)
class CorpusSpec:
    """Which text, and how it becomes tokens.

    `sources` are paths, or empty for the text the installation carries.
    """

    name: str  # "embedded", or a label for one's own files
    sources: tuple[tuple[str, str], ...]  # (domain, path or glob)
    domains: tuple[str, ...]  # domains to prepare; empty is all
    tokenizer: str  # "bytes" or "bpe:<vocabulary>"
    max_mb_per_domain: float  # cap on text per domain before splitting, 0 is none
    validation_fraction: float
    filters: tuple[str, ...]  # names in train/data/prepare/filters.py, in order
    dedup: str  # none | exact | minhash
    seed: int
    variants: tuple[Variant, ...] = ()


@dataclass(frozen=True)
class TaskSpec:
    """Prompts with completions to fine-tune on: which, and how they are split and packed."""

    name: str  # evaluations are rows of the domain "task:NAME"
    source: str  # a row of train/data/tasks/sources.py and its argument, e.g. "jsonl:PATH"
    counted: str = "completion"  # completion | all: the tokens whose prediction is the loss
    # share of the examples to evaluate on, by a hash of the prompt; a source may have its own split
    validation_fraction: float = 0.1
    # refuse a task of which a larger share is longer than a window
    max_overlong: float = 0.05


@dataclass(frozen=True)
class DataSpec:
    """The recipe: a corpus and the weights of its domains.

    A changed recipe is another run (or a branch), never a resume.
    """

    corpus: CorpusSpec
    weights: tuple[tuple[str, float], ...]  # (domain, weight), sums to 1
    seq_len: int
    max_epochs: float  # refuse a run that would see any domain more often
    # domains to evaluate on, weighted equally; empty: those of `weights`, by their weights
    validation: tuple[str, ...] = ()
    # (domain, its training windows that come before the run's first one): a branch with a stream of
    # its own reads on where its parent stopped; 0 for a domain that is not named
    seen: tuple[tuple[str, int], ...] = ()
    # examples to fine-tune on; the rows of the mixture are then the replayed ones
    task: TaskSpec | None = None
    replay: float = 0.0  # share of a batch's rows that are of the mixture

    @property
    def evaluated(self) -> tuple[tuple[str, float], ...]:
        """(domain, weight in "all") of every domain the run is evaluated on."""
        return tuple((d, 1 / len(self.validation)) for d in self.validation) or self.weights


def check_weights(weights: Mapping[str, float], field: str) -> None:
    """Raise UserError, naming `field`, unless no weight is negative or NaN and they sum to 1."""
    for name, weight in weights.items():
        if not weight >= 0:
            raise UserError(f"{field}.{name}={weight}: is negative; leave the domain out, or use 0")
    total = sum(weights.values())
    if abs(total - 1) > 1e-6:
        raise UserError(f"{field}: the weights sum to {total:.6g}, not 1; divide them by their sum")


@dataclass(frozen=True)
class OptimizerSpec:
    """Static part of the optimizer."""

    name: str  # key of train/step/optimizer.py:OPTIMIZERS
    # independent (times the schedule, not the peak rate) | coupled (optax's AdamW)
    weight_decay_mode: str
    schedule: str  # key of train/step/schedule.py:SCHEDULES
    trainable: str = "all"  # key of train/step/trainable.py:TRAINABLE
    rank: int = 0  # of the adapters that "lora" trains
    to_start: bool = False  # a penalty on the distance to where the run started: hyper.l2_to_start


@dataclass(frozen=True)
class Hyper:
    """What a sweep varies: traced values, so that a whole grid is one compilation."""

    learning_rate: float
    weight_decay: float
    beta1: float
    beta2: float
    epsilon: float
    clip_norm: float
    z_loss: float
    warmup_steps: int
    decay_start: int  # first step of the decay; equal to `total_steps` means none
    total_steps: int  # end of the schedule
    end_factor: float  # final learning rate over peak
    seed: int  # of the initialisation
    data_seed: int  # of the order of examples
    # times half the squared distance of the parameters to where the run started
    l2_to_start: float = 0.0


@dataclass(frozen=True)
class ParentSpec:
    """Where a branch starts.

    `reset` names parts of the parent's state that start anew: "optimizer" (its moments), "step"
    (and with it the schedule), "data" (the stream of examples). "step" implies "data".
    """

    run_id: str
    step: int
    reset: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunSpec:
    """Everything that determines a run.

    `run_id` is a readable name plus 8 hex digits of the hash.
    """

    name: str
    model: ModelSpec
    data: DataSpec
    optimizer: OptimizerSpec
    hyper: Hyper
    batch_size: int  # sequences a step, over all hosts and devices
    steps: int  # last step of this run (a branch starts at parent.step)
    log_every: int  # steps between train rows; each holds the mean loss since the one before
    eval_steps: tuple[int, ...]
    eval_windows: int  # validation windows per domain
    checkpoint_steps: tuple[int, ...]  # permanent checkpoints; the last step always is one
    parent: ParentSpec | None = None
    # e.g. ("role", "proxy"): for the analysis, no part of the hash
    tags: tuple[tuple[str, str], ...] = ()

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * self.data.seq_len

    @property
    def start_step(self) -> int:
        return self.parent.step if self.parent and "step" not in self.parent.reset else 0

    @property
    def stream_start(self) -> int:
        """The step that reads the first batch of the stream of `data`."""
        return self.start_step if self.parent and "data" in self.parent.reset else 0

    @property
    def tag(self) -> dict[str, str]:
        return dict(self.tags)

    @cached_property
    def hash(self) -> str:
        body = to_dict(self)
        del body["tags"], body["name"]
        return hashlib.sha256(canonical(body).encode()).hexdigest()

    @property
    def run_id(self) -> str:
        return f"{self.name}-{self.hash[:8]}"

    @cached_property
    def program_key(self) -> str:
        """Equal keys share one compiled train step."""
        static = (to_dict(self.model), to_dict(self.optimizer), self.batch_size, self.data.seq_len)
        return hashlib.sha256(canonical(static).encode()).hexdigest()[:16]


# Fields that came after the first records, by class, and the value of each that says "off": left
# out of a spec's JSON and so of its hash, which keeps the ids of runs that do not use them.
LATER: dict[type, dict[str, Any]] = {
    ModelSpec: {"window": 0, "document_end": -1, "marked": False},
    DataSpec: {"seen": (), "task": None, "replay": 0.0},
    OptimizerSpec: {"trainable": "all", "rank": 0, "to_start": False},
    Hyper: {"l2_to_start": 0.0},
}


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def to_dict(spec: Any) -> dict[str, Any]:
    """A spec as plain JSON types: tuples become lists; fields of `LATER` that are off are left out.

    Raises ValueError for a float that is not finite.
    """
    return json.loads(json.dumps(_encode(spec), allow_nan=False))


def from_dict(body: Mapping[str, Any]) -> RunSpec:
    """The inverse of `to_dict` for a run spec.

    Raises KeyError or TypeError on an unknown or missing field.
    """
    return _decode(RunSpec, body)


def _encode(value: Any) -> Any:
    """Dataclasses become dicts, at any depth."""
    if dataclasses.is_dataclass(value):
        off = LATER.get(type(value), {})
        pairs = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
        return {k: _encode(v) for k, v in pairs if k not in off or v != off[k]}
    if isinstance(value, tuple):
        return [_encode(v) for v in value]
    return value


def _decode(kind: Any, value: Any) -> Any:
    """`value` as the type `kind`: a dataclass, a tuple, one of them or None, or a plain value."""
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        fields = _types(kind)
        return kind(**{name: _decode(fields[name], v) for name, v in value.items()})
    if hasattr(kind, "_fields"):  # a named tuple
        return kind(*map(_decode, _types(kind).values(), value))
    arguments = typing.get_args(kind)
    if types.NoneType in arguments:  # X | None
        return None if value is None else _decode(arguments[0], value)
    if typing.get_origin(kind) is tuple:
        if arguments[-1] is Ellipsis:
            return tuple(_decode(arguments[0], v) for v in value)
        return tuple(map(_decode, arguments, value))
    return value


@cache
def _types(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)
