"""What a ladder would run, at what cost. Nothing compiles, nothing runs."""

import dataclasses
import re
import time
from dataclasses import dataclass

from stepladder.configs.core import counting
from stepladder.configs.core.errors import UserError
from stepladder.configs.core.spec import RunSpec

# Achieved FLOP/s of the whole machine for an estimate of time: on CPU what `make demo` reached on 2
# cores (1.6e13 FLOPs in 190 to 254 s of steps), else 40 % of the peak of an H100 or a v4 chip.
# `plan --rate` overrides it.
UTILISATION = 0.4
ACHIEVED = {"cpu": 70e9, "gpu": 400e12, "tpu": 110e12}


@dataclass(frozen=True)
class Cost:
    """One line of a plan.

    Bytes are of the permanent checkpoints on disk; seconds are an estimate.
    """

    spec: RunSpec
    params: int
    params_non_embedding: int
    tokens: int  # this run's own (a branch: after its parent's step)
    flops: float  # counted per module
    flops_6n: float  # 6 N D
    steps: int
    checkpoints: int
    bytes: int
    seconds: float


def cost(spec: RunSpec, rate: float) -> Cost:
    counts = counting.count(spec.model, spec.data.seq_len)
    steps = spec.steps - spec.start_step
    tokens = steps * spec.tokens_per_step
    flops = tokens * counts.flops_per_token_train
    saves = len([s for s in spec.checkpoint_steps if s > spec.start_step])
    return Cost(
        spec=spec,
        params=counts.params_total,
        params_non_embedding=counts.params_non_embedding,
        tokens=tokens,
        flops=flops,
        flops_6n=tokens * counts.flops_per_token_6n,
        steps=steps,
        checkpoints=saves,
        bytes=saves * 12 * counts.params_total,
        seconds=flops / rate,
    )


def only(specs: list[RunSpec], pattern: str) -> list[RunSpec]:
    """The runs in whose id `pattern` is found.

    Raises UserError when there is none, or the pattern is no regular expression.
    """
    try:
        found = [spec for spec in specs if re.search(pattern, spec.run_id)]
    except re.error as error:
        raise UserError(
            f"only={pattern!r}: no regular expression ({error}); e.g. --only=7b"
        ) from error
    if not found:
        raise UserError(
            f"only={pattern!r}: no run has it in its id; the first is {specs[0].run_id}"
        )
    return found


def to_json(c: Cost) -> dict:
    """Plain types: the fields, with the spec's names in place of the spec."""
    body = {
        "run_id": c.spec.run_id,
        "size": c.spec.model.size,
        "batch": c.spec.batch_size,
        "seq_len": c.spec.data.seq_len,
    }
    return body | {
        field.name: getattr(c, field.name)
        for field in dataclasses.fields(c)
        if field.name != "spec"
    }


def table(costs: list[Cost]) -> str:
    """The plan as text: a line a run, and the total."""
    header = (
        "run",
        "N",
        "N non-emb",
        "tokens",
        "FLOPs",
        "6ND",
        "steps",
        "batch",
        "lr",
        "ckpt",
        "bytes",
        "time",
    )
    rows = [
        (
            c.spec.run_id,
            f"{c.params:,}",
            f"{c.params_non_embedding:,}",
            f"{c.tokens:,}",
            f"{c.flops:.3g}",
            f"{c.flops_6n:.3g}",
            f"{c.steps:,}",
            str(c.spec.batch_size),
            f"{c.spec.hyper.learning_rate:.3g}",
            str(c.checkpoints),
            _bytes(c.bytes),
            _time(c.seconds),
        )
        for c in costs
    ]
    rows.append(
        (
            f"total: {len(costs)} runs, {len({c.spec.program_key for c in costs})} programs",
            "",
            "",
            f"{sum(c.tokens for c in costs):,}",
            f"{sum(c.flops for c in costs):.3g}",
            f"{sum(c.flops_6n for c in costs):.3g}",
            f"{sum(c.steps for c in costs):,}",
            "",
            "",
            str(sum(c.checkpoints for c in costs)),
            _bytes(sum(c.bytes for c in costs)),
            _time(sum(c.seconds for c in costs)),
        )
    )
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    line = "  ".join
    body = [
        line(
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths))
        )
        for row in (header, *rows)
    ]
    return "\n".join([body[0], "-" * len(body[0]), *body[1:-1], "-" * len(body[0]), body[-1]])


def _bytes(n: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if n < 1000 or unit == "TB":
            return f"{n:.3g} {unit}"
        n /= 1000


def _time(seconds: float) -> str:
    return (
        f"{seconds:.1f}s"
        if seconds < 60
        else time.strftime("%Hh%Mm%Ss", time.gmtime(seconds))
        if seconds < 86400
        else f"{seconds / 86400:.1f}d"
    )
