"""Whether a run can start from a checkpoint of another."""

import dataclasses

from stepladder.configs.core.errors import UserError
from stepladder.configs.core.spec import CorpusSpec, ModelSpec, RunSpec

# Fields of ModelSpec that change what a model computes and not its parameters: a branch may have
# others than its parent.
_NOT_OF_PARAMETERS = ("compute_dtype", "document_end", "logit_cap", "marked", "window")


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
    if parent.optimizer.trainable == "lora" or parent.optimizer.to_start:
        raise UserError(
            f"parent={parent.run_id}: its state is that of a fine-tuning (adapters, or where it "
            "started); branch from the run that it started from"
        )
    if child.optimizer.trainable == "lora" and "optimizer" not in reset:
        raise UserError(
            "optimizer.trainable='lora': its moments are those of the adapters; add 'optimizer' to "
            "parent.reset"
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
