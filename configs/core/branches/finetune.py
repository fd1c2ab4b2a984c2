"""Branches that train on the examples of a task."""

import dataclasses
import math
from dataclasses import dataclass

from stepladder.configs.core.branches.check import check_step
from stepladder.configs.core.branches.kinds import BRANCHES
from stepladder.configs.core.branches.mixture import windows_read
from stepladder.configs.core.build import document_end
from stepladder.configs.core.errors import UserError
from stepladder.configs.core.spec import ParentSpec, RunSpec, TaskSpec


@dataclass(frozen=True)
class Tuning:
    """How a checkpoint is fine-tuned.

    Attributes:
        trainable: which parameters change, a key of train/step/trainable.py:TRAINABLE.
        rank: of the adapters of "lora".
        replay: share of a batch's rows that are of the trunk's mixture (arXiv:2502.06042).
        l2_to_start: times half the squared distance to the checkpoint, added to the loss.
        batch_size: sequences a step; 0 is the trunk's.
        weight_decay: a step, as the trunk's optimizer has it.
        schedule, warmup, end_factor: of the learning rate; warm-up as a share of the steps.
        reset: parts of the trunk's state that start anew.
    """

    trainable: str = "all"
    rank: int = 0
    replay: float = 0.0
    l2_to_start: float = 0.0
    batch_size: int = 0
    weight_decay: float = 0.0
    schedule: str = "cosine"
    warmup: float = 0.1
    end_factor: float = 0.1
    reset: tuple[str, ...] = BRANCHES["finetune"].reset


def finetune(
    trunk: RunSpec,
    step: int,
    steps: int,
    task: TaskSpec,
    learning_rate: float,
    tuning: Tuning = Tuning(),
    *,
    seed: int = 0,
    name: str = "",
    **tags: str,
) -> RunSpec:
    """A branch that trains on a task's examples, packed without attention between them.

    Args:
        trunk: the parent.
        step: a planned checkpoint of it.
        steps: of the branch.
        task: prompts with completions.
        learning_rate: the peak.
        tuning: what is trained, and how.
        seed: of the order of the examples, and of adapters.
        name: of the run; by default the trunk's, the step, the task and the rate.
        tags: for the analysis, beside the trunk's, `branch` and `task`.

    Raises:
        UserError: when the trunk has no checkpoint there, or a value is out of its range.
    """
    check_step(trunk, step)
    for field, low, value, high in (
        ("steps", 1, steps, math.inf),
        ("tuning.replay", 0, tuning.replay, 1),
        ("tuning.warmup", 0, tuning.warmup, 1),
        ("tuning.l2_to_start", 0, tuning.l2_to_start, math.inf),
    ):
        if not low <= value <= high:
            raise UserError(f"{field}={value}: is not from {low} to {high}; use e.g. {low}")
    return dataclasses.replace(
        trunk,
        name=name or f"{trunk.name}-{task.name}{step}-{learning_rate:.3g}",
        model=dataclasses.replace(
            trunk.model, marked=True, document_end=document_end(trunk.data.corpus.tokenizer)
        ),
        data=dataclasses.replace(
            trunk.data,
            seen=windows_read(trunk, step) if tuning.replay else (),
            validation=tuple(domain for domain, _ in trunk.data.evaluated),
            task=task,
            replay=tuning.replay,
        ),
        optimizer=dataclasses.replace(
            trunk.optimizer,
            schedule=tuning.schedule,
            trainable=tuning.trainable,
            rank=tuning.rank,
            to_start=tuning.l2_to_start > 0,
        ),
        hyper=dataclasses.replace(
            trunk.hyper,
            learning_rate=learning_rate,
            weight_decay=tuning.weight_decay,
            warmup_steps=round(tuning.warmup * steps),
            decay_start=steps,
            total_steps=steps,
            end_factor=tuning.end_factor,
            l2_to_start=tuning.l2_to_start,
            seed=seed,
            data_seed=seed,
        ),
        batch_size=tuning.batch_size or trunk.batch_size,
        steps=steps,
        eval_steps=(steps,),
        checkpoint_steps=(steps,),
        parent=ParentSpec(trunk.run_id, step, tuning.reset),
        tags=tuple(sorted({**trunk.tag, "branch": "finetune", "task": task.name, **tags}.items())),
    )
