"""Branches of a trunk: runs that start from another run's checkpoint.

A kind of branch is one row of BRANCHES. What a branch keeps of its parent, and what starts anew, is
in its spec: `parent.reset`, `hyper` and `data.seen` are hashed and written into its lineage.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stepladder.configs.core.errors import UserError, row
from stepladder.configs.core.spec import (
    EXAMPLES_A_BLOCK,
    CorpusSpec,
    ModelSpec,
    ParentSpec,
    RunSpec,
    check_weights,
)


@dataclass(frozen=True)
class Branch:
    """A kind of branch.

    reset: parts of the parent's state that start anew, unless the caller says otherwise
        (ParentSpec). Optimizer moments, weight decay and learning rate go on from the parent's.
    other_data: whether it reads other data than its parent.
    """

    about: str
    reset: tuple[str, ...]
    other_data: bool


BRANCHES: dict[str, Branch] = {
    "cooldown": Branch("the parent's data, and its schedule decayed to the end", (), False),
    "continue": Branch("another mixture; the schedule goes on", ("data",), True),
    "specialise": Branch("one domain; the schedule goes on and decays", ("data",), True),
}

# Fields of ModelSpec that change what a model computes and not its parameters: a branch may have
# others than its parent.
_NOT_OF_PARAMETERS = ("compute_dtype", "document_end", "logit_cap", "marked", "window")


def with_checkpoints(trunk: RunSpec, *steps: int) -> RunSpec:
    """The trunk with permanent checkpoints at `steps` too (where branches will start)."""
    return dataclasses.replace(
        trunk, checkpoint_steps=tuple(sorted({*trunk.checkpoint_steps, *steps}))
    )


def branch_step(trunk: RunSpec, total_steps: int, decay_fraction: float) -> int:
    """The trunk step at which a cooldown that ends at `total_steps` starts."""
    return total_steps - round(decay_fraction * total_steps)


def cooldown(trunk: RunSpec, total_steps: int, decay_fraction: float, **tags: str) -> RunSpec:
    """A branch that leaves `trunk` at its checkpoint and decays to the end by `total_steps`.

    Raises UserError when the trunk has no such point.
    """
    start = branch_step(trunk, total_steps, decay_fraction)
    if start not in trunk.checkpoint_steps or start > trunk.hyper.decay_start:
        raise UserError(
            f"cooldown.start={start}: the trunk {trunk.name} has no undecayed checkpoint there; "
            "add it with with_checkpoints"
        )
    return dataclasses.replace(
        trunk,
        name=f"{trunk.name}-to{total_steps}",
        hyper=dataclasses.replace(trunk.hyper, decay_start=start, total_steps=total_steps),
        steps=total_steps,
        eval_steps=(total_steps,),
        checkpoint_steps=(total_steps,),
        parent=ParentSpec(trunk.run_id, start),
        tags=tuple(sorted({**trunk.tag, "branch": "cooldown", **tags}.items())),
    )


def with_cooldowns(
    trunk: RunSpec, horizons: Sequence[float], decay_fraction: float
) -> list[RunSpec]:
    """A trunk with cooldowns at shorter horizons (arXiv:2405.18392).

    Args:
        trunk: a run at constant learning rate up to its own decay.
        horizons: where cooldowns end, as shares of the trunk's length.
        decay_fraction: length of a cooldown, as a share of its end.

    Returns:
        The trunk, with checkpoints and evaluations where cooldowns leave it, then the cooldowns.
    """
    ends = [round(horizon * trunk.steps) for horizon in horizons]
    leaves = [branch_step(trunk, end, decay_fraction) for end in ends]
    trunk = dataclasses.replace(with_checkpoints(trunk, *leaves), eval_steps=(*leaves, trunk.steps))
    return [trunk, *(cooldown(trunk, end, decay_fraction) for end in ends)]


def branch(
    kind: str,
    trunk: RunSpec,
    step: int,
    steps: int,
    weights: Mapping[str, float],
    *,
    decay_fraction: float = 0.0,
    warmup_steps: int | None = None,
    learning_rate: float | None = None,
    weight_decay: float | None = None,
    reset: tuple[str, ...] | None = None,
    name: str = "",
    **tags: str,
) -> RunSpec:
    """A branch that leaves `trunk` at its checkpoint at `step` for another mixture.

    It reads on in every domain where the trunk stopped (`windows_read`), so it meets no text again
    before the domain's epoch ends.

    Args:
        kind: a row of BRANCHES with other data.
        trunk: the parent.
        step: a planned checkpoint of it; before its decay, unless the schedule starts anew.
        steps: of the branch itself.
        weights: domain -> weight, of the trunk's corpus; they sum to 1.
        decay_fraction: length of the final decay, as a share of all steps from the schedule's
            start; one that would begin before the branch begins with it.
        warmup_steps: when given, the schedule starts anew with so many steps of warm-up, and steps
            are counted from 0; else it goes on from the trunk's step.
        learning_rate: the peak; by default the trunk's.
        weight_decay: by default the trunk's.
        reset: parts of the trunk's state that start anew beside those; by default the kind's.
        name: of the run; by default the trunk's, the step and the kind.
        tags: for the analysis, beside the trunk's and `branch`, the kind.

    Raises:
        UserError: when the trunk has no checkpoint there, or its schedule cannot go on from it; for
            an unknown kind, and for weights that do not sum to 1.
    """
    found = row(BRANCHES, kind, "branch.kind")
    if not found.other_data:
        raise UserError(f"branch.kind={kind!r}: keeps its parent's data; use {kind}() for it")
    check_step(trunk, step)
    check_weights(dict(weights), "branch.weights")
    if steps < 1:
        raise UserError(f"branch.steps={steps}: takes no step; use 1 or more")
    parts = found.reset if reset is None else reset
    if warmup_steps is not None:
        parts = tuple(dict.fromkeys(("step", *parts)))
    if "step" not in parts:
        _check_undecayed(trunk, step)
    begin = 0 if "step" in parts else step
    end = begin + steps
    changed = {
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "warmup_steps": warmup_steps,
    }
    hyper = dataclasses.replace(
        trunk.hyper,
        decay_start=max(begin, end - round(decay_fraction * end)),
        total_steps=end,
        **{field: value for field, value in changed.items() if value is not None},
    )
    data = dataclasses.replace(
        trunk.data,
        weights=tuple(weights.items()),
        seen=windows_read(trunk, step),
        validation=tuple(domain for domain, _ in trunk.data.evaluated),
    )
    return dataclasses.replace(
        trunk,
        name=name or f"{trunk.name}-{kind}{step}",
        data=data,
        hyper=hyper,
        steps=end,
        eval_steps=(end,),
        checkpoint_steps=(end,),
        parent=ParentSpec(trunk.run_id, step, parts),
        tags=tuple(sorted({**trunk.tag, "branch": kind, **tags}.items())),
    )


def _check_undecayed(trunk: RunSpec, step: int) -> None:
    """Raise UserError unless the trunk's learning rate is at its peak at `step`."""
    constant = ("constant", "wsd", "wsd_linear")
    if trunk.optimizer.schedule not in constant:
        raise UserError(
            f"schedule.kind={trunk.optimizer.schedule!r}: {trunk.name} decays from its warm-up on, "
            f"so no branch goes on with its schedule; use {' or '.join(constant)} for the trunk, "
            "or give the branch a schedule of its own with warmup_steps"
        )
    if step > trunk.hyper.decay_start:
        raise UserError(
            f"branch.step={step}: the trunk {trunk.name} decays from step "
            f"{trunk.hyper.decay_start}; branch at or before it, or give the branch a schedule of "
            "its own with warmup_steps"
        )


def specialise(trunk: RunSpec, step: int, steps: int, domain: str, **more: Any) -> RunSpec:
    """A branch that trains on one domain of the trunk's (arXiv:2603.19149).

    `more`: arguments and errors of `branch`.
    """
    more = {"name": f"{trunk.name}-{domain}{step}to{step + steps}", "own": domain, **more}
    return branch("specialise", trunk, step, steps, {domain: 1.0}, **more)


def windows_read(trunk: RunSpec, step: int) -> tuple[tuple[str, int], ...]:
    """(domain, windows) that a run and its ancestors' streams have read of every domain by `step`.

    Rounded up to whole blocks of the mixture, in which a domain has its share to a row: at most one
    block's windows of a domain are left out by a run that reads on from there.
    """
    examples = (step - trunk.stream_start) * trunk.batch_size
    blocks = math.ceil(examples / EXAMPLES_A_BLOCK)
    before = dict(trunk.data.seen)
    read = {
        domain: math.ceil(weight * blocks * EXAMPLES_A_BLOCK) + 1
        for domain, weight in trunk.data.weights
        if weight and blocks
    }
    domains = sorted({*before, *read})
    return tuple((domain, before.get(domain, 0) + read.get(domain, 0)) for domain in domains)


def check_step(parent: RunSpec, step: int) -> None:
    """Raise UserError unless the parent has a permanent checkpoint at `step`; the nearest is
    named.
    """
    planned = sorted({*parent.checkpoint_steps, parent.steps} - {0})
    if step not in planned:
        nearest = min(planned, key=lambda other: abs(other - step))
        raise UserError(
            f"parent.step={step}: {parent.run_id} plans no checkpoint there; the nearest is "
            f"{nearest}, or add one with with_checkpoints"
        )


def check_branch(child: RunSpec, parent: RunSpec) -> None:
    """Raise UserError unless `child` can start from a checkpoint of `parent`.

    The checkpoint must be planned, the parameters of equal shapes, the tokens the same; other data
    is a branch's right.
    """
    assert child.parent
    check_step(parent, child.parent.step)
    reset = child.parent.reset
    for field in dataclasses.fields(ModelSpec):
        mine, theirs = getattr(child.model, field.name), getattr(parent.model, field.name)
        if mine != theirs and field.name not in _NOT_OF_PARAMETERS:
            raise UserError(
                f"model.{field.name}={mine!r}: the parent {parent.run_id} has {theirs!r}; a branch "
                "has its parent's shape"
            )
    if child.optimizer.name != parent.optimizer.name and "optimizer" not in reset:
        raise UserError(
            f"optimizer.name={child.optimizer.name!r}: the moments of {parent.run_id} are those of "
            f"{parent.optimizer.name}; use the same, or add 'optimizer' to parent.reset"
        )
    if child.steps <= child.start_step:
        raise UserError(
            f"run.steps={child.steps}: {child.run_id} starts at step {child.start_step} of its "
            "parent; train beyond it"
        )
    _check_tokens(child.data.corpus, parent.data.corpus, parent.run_id)
    if child.data.seen and child.data.seq_len != parent.data.seq_len:
        raise UserError(
            f"data.seq_len={child.data.seq_len}: data.seen counts windows of the parent's length, "
            f"{parent.data.seq_len}; use it, or leave data.seen empty"
        )


def _check_tokens(child: CorpusSpec, parent: CorpusSpec, run_id: str) -> None:
    if child.tokenizer != parent.tokenizer:
        raise UserError(
            f"data.tokenizer={child.tokenizer!r}: the parent {run_id} reads {parent.tokenizer!r}; "
            "a branch has its parent's tokens"
        )
    if child != parent and child.tokenizer != "bytes":
        raise UserError(
            f"data.corpus={child.name!r}: its tokenizer {child.tokenizer} is trained on another "
            f"text than that of {run_id} ({parent.name!r}); make the branch's text a domain of "
            "that corpus, with weight 0 in the parent"
        )
