"""From a config to run specs: `rung` makes one run, `cooldown` a branch that decays from a trunk's
checkpoint.
"""

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
)

SPECIAL_TOKENS = {"bytes": 257}


def vocabulary(tokenizer: str) -> int:
    """Vocabulary size of a tokenizer's name. Raises UserError for an unknown one."""
    if tokenizer in SPECIAL_TOKENS:
        return SPECIAL_TOKENS[tokenizer]
    kind, _, size = tokenizer.partition(":")
    if kind == "bpe" and size.isdigit() and int(size) > 257:
        return int(size)
    raise UserError(
        f"data.tokenizer={tokenizer!r}: unknown; use 'bytes' or 'bpe:<vocabulary above 257>'"
    )


def document_end(tokenizer: str) -> int:
    """The token with which a tokenizer ends a document: the last one of all of them
    (train/data/tokenizer.py).
    """
    return vocabulary(tokenizer) - 1


def corpus_spec(config: ConfigDict) -> CorpusSpec:
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
        variants=tuple(_variant(name, text, config) for name, text in sorted(d.variants.items())),
    )


def _variant(name: str, text: str, config: ConfigDict) -> tuple[str, str, tuple[str, ...], str]:
    """(name, domain, filters, dedup) of 'domain|filter,filter|dedup'; the last two may be left out:
    no filter, the corpus' dedup.
    """
    field, parts = f"data.variants.{name}={text!r}", [part.strip() for part in text.split("|")]
    known = _domains(config)
    if len(parts) > 3:
        raise UserError(f"{field}: more than three parts; write 'domain|filter,filter|dedup'")
    if name in known:
        raise UserError(f"{field}: {name} is a domain already; choose another name")
    if parts[0] not in known:
        raise UserError(
            f"{field}: no domain {parts[0]!r} to make it from; use one of {', '.join(known)}"
        )
    base, filters, dedup = (*parts, "", "")[:3]
    return (
        name,
        base,
        tuple(f.strip() for f in filters.split(",") if f.strip()),
        dedup or config.data.dedup,
    )


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
    names = _domains(config)
    if not names:
        raise UserError(
            "data.domains=(): no domain to train on; name at least one, or give data.sources"
        )
    corpus = corpus_spec(config)
    weights = dict(config.data.weights) or {name: 1 / len(names) for name in names}
    for name in config.data.validation:
        if name in config.data.variants:
            raise UserError(
                f"data.validation={name!r}: a variant is training text only; evaluate on one of "
                f"{', '.join(names)}"
            )
        if name not in names:
            raise UserError(
                f"data.validation={name!r}: no such domain; use one of {', '.join(names)}"
            )
    known = (*names, *config.data.variants)
    for name, weight in weights.items():
        if name not in known:
            raise UserError(
                f"data.weights.{name}={weight}: no such domain; use one of {', '.join(known)}"
            )
        if weight < 0:
            raise UserError(f"data.weights.{name}={weight}: negative; use a weight of 0 or more")
        if weight > 0 and name in config.data.variants and not config.data.validation:
            raise UserError(
                f"data.weights.{name}={weight}: a variant has no validation text; say in "
                "data.validation where to evaluate"
            )
    if abs(sum(weights.values()) - 1) > 1e-6:
        raise UserError(
            f"data.weights: sum is {sum(weights.values()):.6g}; make the weights sum to 1"
        )
    return DataSpec(
        corpus=corpus,
        weights=tuple(sorted((k, float(w)) for k, w in weights.items() if w > 0)),
        seq_len=config.data.seq_len,
        max_epochs=float(config.data.max_epochs),
        validation=tuple(config.data.validation),
    )


def rung(config: ConfigDict, **tags: str) -> RunSpec:
    """One run from scratch.

    Rates, decay, warm-up and batch not set in the config come from `rule.recommend`.
    """
    model, data, o = model_spec(config), data_spec(config), config.optimizer
    params = counting.count(model, data.seq_len).params_total
    tokens = durations.steps(
        config.run.duration, tokens_per_step=1, params=params, field="run.duration"
    )
    # a number of steps needs the batch first, and the rule's batch needs tokens
    if str(config.run.duration).rstrip("s").endswith("step"):
        batch = config.run.batch_size or 32
        tokens = (
            durations.steps(config.run.duration, tokens_per_step=1, field="run.duration")
            * batch
            * data.seq_len
        )
    else:
        batch = config.run.batch_size
    if tokens <= 0:
        raise UserError(f"run.duration={config.run.duration!r}: no step at all; ask for more")
    advice = hyperparameters.recommend(params, tokens, data.seq_len, batch)
    steps = advice.steps
    relative = dict(
        tokens_per_step=advice.batch_size * data.seq_len, params=params, total_steps=steps
    )
    warmup = (
        durations.steps(config.schedule.warmup, **relative, field="schedule.warmup")
        if config.schedule.warmup
        else min(advice.warmup_steps, steps)
    )
    decay = (
        durations.steps(config.schedule.decay, **relative, field="schedule.decay")
        if config.schedule.kind.startswith("wsd")
        else steps - warmup
    )
    if warmup + decay > steps:
        raise UserError(
            f"schedule.decay={config.schedule.decay!r}: warm-up {warmup} + decay {decay} exceed "
            f"the run's {steps} steps; shorten one"
        )
    evals = {durations.steps(d, **relative, field="run.evals") for d in config.run.evals} | {steps}
    saves = {
        durations.steps(d, **relative, field="run.checkpoints") for d in config.run.checkpoints
    } | {steps}
    if model.parametrization != "standard" and not o.learning_rate:
        raise UserError(
            "optimizer.learning_rate=0: the rule's rate is for standard; "
            f"model.parametrization={model.parametrization} needs the rate tuned at "
            f"base_width={model.base_width}"
        )
    rate = o.learning_rate or advice.learning_rate
    return RunSpec(
        name=config.name,
        model=model,
        data=data,
        optimizer=OptimizerSpec(
            name=o.name, weight_decay_mode=o.weight_decay_mode, schedule=config.schedule.kind
        ),
        hyper=Hyper(
            learning_rate=float(f"{rate * o.learning_rate_factor:.6g}"),
            weight_decay=float(o.weight_decay if o.weight_decay >= 0 else advice.weight_decay),
            beta1=o.beta1,
            beta2=o.beta2,
            epsilon=o.epsilon,
            clip_norm=o.clip_norm,
            z_loss=o.z_loss,
            warmup_steps=warmup,
            decay_start=steps - decay,
            total_steps=steps,
            end_factor=config.schedule.end_factor,
            seed=config.seed,
            data_seed=config.data_seed,
        ),
        batch_size=advice.batch_size,
        steps=steps,
        log_every=config.run.log_every,
        eval_steps=tuple(sorted(e for e in evals if 0 < e <= steps)),
        eval_windows=config.run.eval_windows,
        checkpoint_steps=tuple(sorted(s for s in saves if 0 < s <= steps)),
        tags=tuple(sorted(tags.items())),
    )
