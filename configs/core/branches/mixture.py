"""Branches that read another mixture than their trunk, in text that it has not read."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from stepladder.configs.core.branches.check import check_step
from stepladder.configs.core.branches.kinds import BRANCHES
from stepladder.configs.core.errors import UserError, row
from stepladder.configs.core.spec import EXAMPLES_A_BLOCK, ParentSpec, RunSpec, check_weights


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
