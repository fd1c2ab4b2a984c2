"""Cooldowns: the trunk's own data and state, decayed to the end."""

import dataclasses
from collections.abc import Sequence

from stepladder.configs.core.errors import UserError
from stepladder.configs.core.spec import ParentSpec, RunSpec


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
