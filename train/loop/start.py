"""Where a run's training state comes from when it starts:

1. resume: it has checkpoints; from the latest that can be read.
2. branch: it has a parent; from the parent's whole state at the branch point.
3. weights only: its parent's state, but the optimizer or the step count start anew (parent.reset).
4. scratch: from its seed.

A run whose checkpoints cannot be read starts as it did at first (2 to 4): they are set aside, and
its rows are made again. A parent that is missing is an error, a parent that cannot be read becomes
an unfinished run: a branch never starts from scratch. A branch may read other data than its parent,
never other tokens.
"""

import logging
from pathlib import Path

from stepladder.configs.core.errors import UserError, nearest
from stepladder.configs.core.record import (
    CHECKPOINTS,
    LOST,
    RUNNING,
    RUNS,
    SPEC,
    TIMING,
)
from stepladder.configs.core.spec import ParentSpec, RunSpec, to_dict
from stepladder.train.data.read.store import Store
from stepladder.train.loop.member import Member
from stepladder.train.processes import group
from stepladder.train.record.checkpoint import Checkpoints, UnreadableError
from stepladder.train.record.record import read_json, reopen
from stepladder.train.step.trainable import is_plain

# Part of the parent's state that parent.reset may name -> entries of the state that start anew.
RESETTABLE: dict[str, tuple[str, ...]] = {
    "optimizer": ("opt", "window"),
    "step": ("step", "window"),
    "data": ("window",),
}


def check_reset(spec: RunSpec) -> None:
    """Raise UserError when parent.reset names what cannot be reset."""
    for part in spec.parent.reset if spec.parent else ():
        if part not in RESETTABLE:
            raise UserError(f"parent.reset={part!r}: unknown part; {nearest(part, RESETTABLE)}")


def needs_init(member: Member) -> bool:
    """Whether the start draws values from the run's seed; it does too when all checkpoints turn out
    to be damaged.
    """
    parent = member.spec.parent
    return not member.checkpoints.steps() and (parent is None or bool(parent.reset))


def start(member: Member, workdir: Path, hyper: dict) -> dict:
    """Bring a run to the step from which it goes on: its record, its status and its state.

    Args:
        member: the run; its step is set.
        workdir: where its parent's record is.
        hyper: its hyperparameters, on the devices of its program.

    Returns:
        The state to begin from.

    Raises:
        UserError: when the parent is missing or unreadable, or the data are others.
    """
    state, member.step = (
        _resume(member) or _branch(member, workdir, hyper) or _scratch(member, hyper)
    )
    member.committed = member.step
    member.record.truncate(member.step)
    if lost := member.record.count_lost_steps(member.step):
        steps, seconds = lost
        seconds = round(seconds, 4)
        member.record.add(TIMING, member.step, phase=LOST, steps=steps, seconds=seconds)
    if member.executable:
        _note_executable(member)
    member.record.set_status(RUNNING, member.step)
    return state


def _note_executable(member: Member) -> None:
    """Write into the lineage what computes the steps from here on; say so when it is another."""
    before = member.record.note_executable(member.step, member.executable)
    if before not in ("", member.executable) and group.is_leader():
        logging.warning(
            "%s: goes on from step %d with executable %s, which was %s: not bit for bit the run "
            "that it would be unbroken (another device, version, pack or choice of kernels)",
            member.spec.run_id,
            member.step,
            member.executable,
            before,
        )


def _resume(member: Member) -> tuple[dict, int] | None:
    """1. The latest checkpoint that can be read; those that cannot are set aside."""
    try:
        found = member.checkpoints.restore(member.program.abstract_state)
    except UnreadableError as error:
        _set_all_aside(member, error)
        return None
    if found is None:
        return None
    state, meta = found
    _check_fingerprint(member.spec.run_id, meta, member.store)
    damaged = [step for step in member.checkpoints.steps() if step > meta["step"]]
    if damaged:
        member.checkpoints.set_aside_after(meta["step"])
        if group.is_leader():
            logging.warning(
                "%s: its checkpoints at %s are damaged; set aside in %s, it goes on from step %d",
                member.spec.run_id,
                ", ".join(map(str, damaged)),
                member.checkpoints.unreadable,
                meta["step"],
            )
    return state, meta["step"]


def _branch(member: Member, workdir: Path, hyper: dict) -> tuple[dict, int] | None:
    """2. The parent's state at the branch point; without the parts that it resets."""
    spec, parent = member.spec, member.spec.parent
    if parent is None:
        return None
    folder = Path(workdir) / RUNS / parent.run_id / CHECKPOINTS
    if not group.broadcast_from_zero(folder.is_dir):
        raise UserError(
            f"parent={parent.run_id}: no record of it under {workdir}; run the parent first, a "
            "branch never starts from scratch"
        )
    checkpoints = Checkpoints(folder, read_only=True)
    try:
        if parent.step not in checkpoints.steps():  # planned, for branches are made of those only
            raise _make_parent_again(checkpoints, parent, f"no checkpoint at step {parent.step}")
        found = checkpoints.restore(member.program.plain.abstract_state, parent.step)
    except UnreadableError as error:
        raise _make_parent_again(checkpoints, parent, str(error)) from error
    finally:
        checkpoints.close()
    assert found, "restore raises when there is no checkpoint at a given step"
    state, meta = found
    _check_data_of_parent(folder.parent, member, meta)
    if not is_plain(spec.optimizer):
        state = member.program.adopt(state, hyper)
    if parent.reset:
        state = _weights_only(member, hyper, state, parent.reset)
    return state, spec.start_step


def _weights_only(member: Member, hyper: dict, state: dict, reset: tuple[str, ...]) -> dict:
    """3. The parent's state, with the parts in `reset` as they are at the start of a run."""
    fresh = member.program.init(hyper)
    return state | {name: fresh[name] for part in reset for name in RESETTABLE[part]}


def _scratch(member: Member, hyper: dict) -> tuple[dict, int]:
    """4. The initial state, drawn from the run's seed."""
    return member.program.init(hyper), 0


def _set_all_aside(member: Member, error: UnreadableError) -> None:
    """Move all checkpoints of a run out of the way, and say what is lost and what comes next."""
    spec, checkpoints = member.spec, member.checkpoints
    lost = checkpoints.steps()[-1]
    checkpoints.set_aside_after(-1)
    begin = f"step {spec.parent.step} of {spec.parent.run_id}" if spec.parent else "the start"
    if group.is_leader():
        logging.warning(
            "%s; set aside in %s. %s is trained again from %s: %d steps and their rows are made "
            "again",
            error,
            checkpoints.unreadable,
            spec.run_id,
            begin,
            lost - spec.start_step,
        )


def _make_parent_again(checkpoints: Checkpoints, parent: ParentSpec, why: str) -> UserError:
    """Make the parent an unfinished run, which the next command trains again from before the branch
    point, and set its later checkpoints aside; the error that says so.
    """
    left = [step for step in checkpoints.steps() if step < parent.step]
    # unfinished first: a process killed in between leaves a parent that the next command looks at
    group.broadcast_from_zero(lambda: reopen(checkpoints.path.parent, left[-1] if left else 0))
    checkpoints.set_aside_after(parent.step - 1)
    begin = f"step {left[-1]}" if left else "its start"
    return UserError(
        f"parent={parent.run_id}: {why}; checkpoints from there on are set aside in "
        f"{checkpoints.unreadable}; repeat the command: the parent is trained again from {begin}, "
        "then its branches"
    )


def _check_data_of_parent(record: Path, member: Member, meta: dict) -> None:
    """Raise UserError when the branch reads other tokens than its parent's checkpoint was made on,
    or when the text of the corpus that they share has changed.
    """
    spec, run_id = member.spec, record.name
    if meta["tokenizer"] != member.meta["tokenizer"]:
        raise UserError(
            f"data.tokenizer={spec.data.corpus.tokenizer!r}: its hash is "
            f"{member.meta['tokenizer']}, the checkpoint of {run_id} was made with "
            f"{meta['tokenizer']}; a branch has its parent's tokens"
        )
    held = group.broadcast_from_zero(lambda: read_json(record / SPEC)) or {}
    if held.get("data", {}).get("corpus") == to_dict(spec.data.corpus):
        _check_fingerprint(run_id, meta, member.store)


def _check_fingerprint(run_id: str, meta: dict, store: Store) -> None:
    if meta["data_fingerprint"] != store.fingerprint:
        raise UserError(
            f"data.fingerprint={store.fingerprint}: the checkpoint of {run_id} was made on "
            f"{meta['data_fingerprint']}; restore that token store"
        )
