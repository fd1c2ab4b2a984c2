"""From a config to the spec of one run: `rung`."""

import re
from dataclasses import dataclass

from ml_collections import ConfigDict

from stepladder.configs.core import counting, durations, hyperparameters, sizes
from stepladder.configs.core.errors import UserError
from stepladder.configs.core.spec import (
    CorpusSpec,
    DataSpec,
    Hyper,
    ModelSpec,
    OptimizerSpec,
    RunSpec,
    Variant,
    check_weights,
)

# Tokenizers of fixed size: a byte each, and the end of a document.
VOCABULARY_SIZES = {"bytes": 257}
BATCH_SIZE = 32  # sequences a step, where a duration in steps leaves the rule no tokens to go by


def vocabulary(tokenizer: str) -> int:
    """Vocabulary size of a tokenizer's name. Raises UserError for an unknown one."""
    if tokenizer in VOCABULARY_SIZES:
        return VOCABULARY_SIZES[tokenizer]
    kind, _, size = tokenizer.partition(":")
    if kind == "bpe" and size.isdigit() and int(size) > 257:
        return int(size)
    raise UserError(
        f"data.tokenizer={tokenizer!r}: unknown; use 'bytes' or 'bpe:<vocabulary above 257>'"
    )


def document_end(tokenizer: str) -> int:
    """The token that ends a document: the last one of the vocabulary (train/data/tokenizer.py)."""
    return vocabulary(tokenizer) - 1


def corpus_spec(config: ConfigDict) -> CorpusSpec:
    """The text of a config and its preparation. Raises UserError for a variant that cannot be."""
    d = config.data
    return CorpusSpec(
        name=d.corpus,
        sources=tuple(sorted(d.sources.items())),
        domains=() if d.sources else tuple(d.domains),
        tokenizer=d.tokenizer,
        max_mb_per_domain=float(d.max_mb_per_domain),
        validation_fraction=float(d.validation_fraction),
        filters=tuple(d.filters),
        dedup=d.dedup,
        seed=int(d.seed),
        variants=tuple(_variant(config, name) for name in sorted(d.variants)),
    )


def _variant(config: ConfigDict, name: str) -> Variant:
    """An entry of data.variants, its domain checked and its deduplication filled in."""
    given, known = config.data.variants[name], _domains(config)
    field = f"data.variants.{name}={given!r}"
    variant = given if isinstance(given, Variant) else _parse_variant(name, given, field)
    if name in known:
        raise UserError(f"{field}: {name} is a domain already; choose another name")
    if variant.domain not in known:
        raise UserError(
            f"{field}: no domain {variant.domain!r} to make it from; use one of {', '.join(known)}"
        )
    return variant._replace(dedup=variant.dedup or config.data.dedup)


def _parse_variant(name: str, text: str, field: str) -> Variant:
    """What the command line gives: 'domain|filter,filter|dedup', the last two may be left out."""
    parts = [part.strip() for part in text.split("|")]
    if len(parts) > 3:
        raise UserError(f"{field}: more than three parts; write 'domain|filter,filter|dedup'")
    domain, filters, dedup = (*parts, "", "")[:3]
    return Variant(name, domain, tuple(f.strip() for f in filters.split(",") if f.strip()), dedup)


def _domains(config: ConfigDict) -> tuple[str, ...]:
    return tuple(config.data.sources) or tuple(config.data.domains)


def model_spec(config: ConfigDict) -> ModelSpec:
    m = config.model
    return sizes.shape(
        m.size,
        vocab_size=vocabulary(config.data.tokenizer),
        activation=m.activation,
        tied=m.tied,
        kv_ratio=m.kv_ratio,
        qk_norm=m.qk_norm,
        rope_theta=m.rope_theta,
        norm_eps=m.norm_eps,
        logit_cap=m.logit_cap,
        compute_dtype=m.compute_dtype,
        parametrization=m.parametrization,
        base_width=m.base_width,
        base_depth=m.base_depth,
        window=m.window,
        document_end=document_end(config.data.tokenizer) if m.document_mask else -1,
    )


def data_spec(config: ConfigDict) -> DataSpec:
    """The recipe of a config. Raises UserError for domains and weights that do not go together."""
    names = _domains(config)
    if not names:
        raise UserError(
            "data.domains=(): no domain to train on; name at least one, or give data.sources"
        )
    if len(set(names)) < len(names):
        raise UserError(f"data.domains={names}: a domain twice; name each once")
    corpus = corpus_spec(config)
    weights = dict(config.data.weights) or {name: 1 / len(names) for name in names}
    _check_data(config, names, weights)
    return DataSpec(
        corpus=corpus,
        weights=tuple(sorted((k, float(w)) for k, w in weights.items() if w > 0)),
        seq_len=config.data.seq_len,
        max_epochs=float(config.data.max_epochs),
        validation=tuple(config.data.validation),
    )


def _check_data(config: ConfigDict, names: tuple[str, ...], weights: dict[str, float]) -> None:
    """Weights name domains or variants and sum to 1; what is evaluated on has validation text."""
    variants, validation = config.data.variants, config.data.validation
    for name in validation:
        if name in variants:
            raise UserError(
                f"data.validation={name!r}: a variant is training text only; evaluate on one of "
                f"{', '.join(names)}"
            )
        if name not in names:
            raise UserError(
                f"data.validation={name!r}: no such domain; use one of {', '.join(names)}"
            )
    known = (*names, *variants)
    for name, weight in weights.items():
        if name not in known:
            raise UserError(
                f"data.weights.{name}={weight}: no such domain; use one of {', '.join(known)}"
            )
        if weight > 0 and name in variants and not validation:
            raise UserError(
                f"data.weights.{name}={weight}: a variant has no validation text; say in "
                "data.validation where to evaluate"
            )
    check_weights(weights, "data.weights")


_ANY = float("inf")
# Key -> least value, greatest value, whether the least one is itself too small.
LIMITS: dict[str, tuple[float, float, bool]] = {
    "data.seq_len": (1, _ANY, False),
    "data.max_epochs": (0, _ANY, True),
    "model.rope_theta": (0, _ANY, True),
    "model.norm_eps": (0, _ANY, True),
    "model.logit_cap": (0, _ANY, False),
    "optimizer.learning_rate": (0, _ANY, False),  # 0: the rule's
    "optimizer.learning_rate_factor": (0, _ANY, True),
    "optimizer.beta1": (0, 1, False),
    "optimizer.beta2": (0, 1, False),
    "optimizer.epsilon": (0, _ANY, False),
    "optimizer.clip_norm": (0, _ANY, True),
    "optimizer.z_loss": (0, _ANY, False),
    "schedule.end_factor": (0, _ANY, False),
    "run.batch_size": (0, _ANY, False),  # 0: the rule's
    "run.log_every": (1, _ANY, False),
    "run.eval_windows": (1, _ANY, False),
}
_NAME = re.compile(r"[A-Za-z0-9][\w.+-]*")  # a run's id is the name of a folder


def _check_values(config: ConfigDict) -> None:
    """Raises UserError for a number that cannot be, or a name that is no name of a folder."""
    if not _NAME.fullmatch(config.name):
        raise UserError(
            f"name={config.name!r}: names the folder of the run; use letters, digits and ._+-"
        )
    for key, (least, most, above) in LIMITS.items():
        section, name = key.split(".")
        value = config[section][name]
        if not (least <= value <= most) or (above and value == least):
            words = f"above {least:g}" if above else f"{least:g} or more"
            upto = f", at most {most:g}" if most < _ANY else ""
            raise UserError(f"{key}={value}: must be {words}{upto}")


def rung(config: ConfigDict, **tags: str) -> RunSpec:
    """One run from scratch.

    Learning rate, weight decay, warm-up and batch that the config leaves open come from
    `hyperparameters.recommend`.

    Args:
        config: a copy of configs/base.py with its values set.
        tags: labels for the analysis, no part of the run's identity.

    Raises:
        UserError: a value that cannot be, by its key and what to use instead.
    """
    _check_values(config)
    model, data, run = model_spec(config), data_spec(config), config.run
    params = counting.count(model, data.seq_len).params_total
    advice = _advice(config, params, data.seq_len)
    total = advice.steps
    relative = _Relative(advice.batch_size * data.seq_len, params, total)
    evals = {relative.steps(duration, "run.evals") for duration in run.evals} | {total}
    saves = {relative.steps(duration, "run.checkpoints") for duration in run.checkpoints} | {total}
    return RunSpec(
        name=config.name,
        model=model,
        data=data,
        optimizer=OptimizerSpec(
            name=config.optimizer.name,
            weight_decay_mode=config.optimizer.weight_decay_mode,
            schedule=config.schedule.kind,
        ),
        hyper=_hyper(config, model, advice, relative),
        batch_size=advice.batch_size,
        steps=total,
        log_every=run.log_every,
        eval_steps=tuple(sorted(step for step in evals if 0 < step <= total)),
        eval_windows=run.eval_windows,
        checkpoint_steps=tuple(sorted(step for step in saves if 0 < step <= total)),
        tags=tuple(sorted(tags.items())),
    )


@dataclass(frozen=True)
class _Relative:
    """A run as what durations inside it are relative to."""

    tokens_per_step: int
    params: int
    total_steps: int

    def steps(self, duration: str, field: str) -> int:
        return durations.steps(duration, field=field, **vars(self))


def _advice(config: ConfigDict, params: int, seq_len: int) -> hyperparameters.Recommended:
    """What the rule recommends for the run, at the config's batch where it has one."""
    duration, batch = config.run.duration, config.run.batch_size
    if durations.parse(duration, "run.duration").unit == durations.STEP:
        # a number of steps needs the batch first, and the rule's batch needs tokens
        batch = batch or BATCH_SIZE
        steps = durations.steps(duration, tokens_per_step=1, field="run.duration")
        tokens = steps * batch * seq_len
    else:
        tokens = durations.steps(duration, tokens_per_step=1, params=params, field="run.duration")
    if tokens <= 0:
        raise UserError(f"run.duration={duration!r}: no step at all; ask for more")
    return hyperparameters.recommend(params, tokens, seq_len, batch)


def _hyper(
    config: ConfigDict, model: ModelSpec, advice: hyperparameters.Recommended, relative: _Relative
) -> Hyper:
    """What a sweep varies: the config's values, the rule's where the config leaves them open."""
    o, schedule, steps = config.optimizer, config.schedule, advice.steps
    if schedule.warmup:
        warmup = relative.steps(schedule.warmup, "schedule.warmup")
    else:
        warmup = min(advice.warmup_steps, steps)
    if warmup > steps:
        raise UserError(
            f"schedule.warmup={schedule.warmup!r}: {warmup} steps exceed the run's {steps}; "
            "shorten it"
        )
    decay = steps - warmup
    if schedule.kind.startswith("wsd"):
        decay = relative.steps(schedule.decay, "schedule.decay")
    if warmup + decay > steps:
        raise UserError(
            f"schedule.decay={schedule.decay!r}: warm-up {warmup} + decay {decay} exceed "
            f"the run's {steps} steps; shorten one"
        )
    if model.parametrization != "standard" and not o.learning_rate:
        raise UserError(
            "optimizer.learning_rate=0: the rule's rate is for standard; "
            f"model.parametrization={model.parametrization} needs the rate tuned at "
            f"base_width={model.base_width}"
        )
    rate = (o.learning_rate or advice.learning_rate) * o.learning_rate_factor
    return Hyper(
        learning_rate=float(f"{rate:.6g}"),
        weight_decay=float(o.weight_decay if o.weight_decay >= 0 else advice.weight_decay),
        beta1=o.beta1,
        beta2=o.beta2,
        epsilon=o.epsilon,
        clip_norm=o.clip_norm,
        z_loss=o.z_loss,
        warmup_steps=warmup,
        decay_start=steps - decay,
        total_steps=steps,
        end_factor=schedule.end_factor,
        seed=config.seed,
        data_seed=config.data_seed,
    )
