"""What the runs of a ladder would cost: steps, tokens, FLOPs, bytes, time. Nothing compiles."""

import dataclasses
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from stepladder.configs.core import counting
from stepladder.configs.core.errors import UserError
from stepladder.configs.core.spec import RunSpec
from stepladder.train.hardware.defaults import DEVICES

UTILISATION = 0.4  # share of the peak that a slice is taken to reach, for an estimate of time


@dataclass(frozen=True)
class Cost:
    """What one run costs; a branch counts from the step at which it leaves its parent."""

    spec: RunSpec
    params: int
    params_non_embedding: int
    tokens: int
    flops: float  # counted module by module
    flops_6n: float  # 6 N D
    steps: int
    checkpoints: int  # permanent ones
    bytes: int  # of these checkpoints on disk
    seconds: float  # an estimate
    # FLOPs of the run trained apart: with all steps that its parents took before it left them
    flops_apart: float


def achieved(backend: str) -> float:
    """FLOP/s that a whole machine is taken to reach, for an estimate of time.

    backend: cpu | gpu | tpu.
    """
    return DEVICES[backend].achieved


def cost(spec: RunSpec, rate: float, ladder: Mapping[str, RunSpec]) -> Cost:
    """The cost of a run, on a machine that reaches `rate` FLOP/s.

    ladder: run id -> run, with all parents of it.
    """
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
        flops_apart=_flops_until(spec, spec.steps, ladder),
    )


def _flops_until(spec: RunSpec, step: int, ladder: Mapping[str, RunSpec]) -> float:
    """FLOPs of a run up to `step`, with those of its parents before it left them."""
    counts = counting.count(spec.model, spec.data.seq_len)
    own = (step - spec.start_step) * spec.tokens_per_step * counts.flops_per_token_train
    parent = spec.parent
    return own + (_flops_until(ladder[parent.run_id], parent.step, ladder) if parent else 0.0)


def only(specs: list[RunSpec], pattern: str) -> list[RunSpec]:
    """The runs whose id matches the regular expression `pattern` somewhere.

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
    """The fields as plain types, with the run's names in place of its spec."""
    body = {
        "run_id": c.spec.run_id,
        "size": c.spec.model.size,
        "batch": c.spec.batch_size,
        "seq_len": c.spec.data.seq_len,
    }
    parent = c.spec.parent
    body |= {
        "parent": parent and parent.run_id,
        "parent_step": parent and parent.step,
        "reset": list(parent.reset) if parent else [],
        "branch": c.spec.tag.get("branch"),
    }
    return body | {
        field.name: getattr(c, field.name)
        for field in dataclasses.fields(c)
        if field.name != "spec"
    }


COLUMNS = (
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


def table(costs: list[Cost]) -> str:
    """The costs as text: a line a run, branches below their trunk, and the total."""
    rows = [COLUMNS, *(_row(c, depth) for c, depth in _in_tree(costs)), _total(costs)]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [_line(row, widths) for row in rows]
    rule = "-" * len(lines[0])
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1], *_apart(costs)])


def _in_tree(costs: list[Cost]) -> list[tuple[Cost, int]]:
    """(cost, depth below its trunk) of every run, each followed by its branches."""
    known = {c.spec.run_id for c in costs}
    below: dict[str, list[Cost]] = {}
    for c in costs:
        parent = c.spec.parent
        below.setdefault(parent.run_id if parent and parent.run_id in known else "", []).append(c)

    def walk(name: str, depth: int) -> Iterator[tuple[Cost, int]]:
        for c in below.get(name, []):
            yield c, depth
            yield from walk(c.spec.run_id, depth + 1)

    return list(walk("", 0))


def _apart(costs: list[Cost]) -> list[str]:
    """What the runs would cost without trunks; nothing where no run is a branch."""
    if not any(c.spec.parent for c in costs):
        return []
    together, apart = sum(c.flops for c in costs), sum(c.flops_apart for c in costs)
    return [
        f"trained apart, every branch with its trunk's steps before it: {apart:.3g} FLOPs, "
        f"{apart / together:.2f} times as many"
    ]


def _row(c: Cost, depth: int) -> tuple[str, ...]:
    left = f"{'   ' * (depth - 1)}|- @{c.spec.parent.step} " if c.spec.parent and depth else ""
    return (
        f"{left}{c.spec.run_id}",
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


def _total(costs: list[Cost]) -> tuple[str, ...]:
    programs = len({c.spec.program_key for c in costs})
    return (
        f"total: {len(costs)} runs, {programs} programs",
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


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    numbers = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))
    return "  ".join([row[0].ljust(widths[0]), *numbers])


def _bytes(n: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:.3g} TB"


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f}s"
    if seconds < 86400:
        return time.strftime("%Hh%Mm%Ss", time.gmtime(seconds))
    return f"{seconds / 86400:.1f}d"
