"""Open one checkpoint, evaluate it, sample from it.

`RUN@STEP` names it; without @STEP, the last one.
"""

from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from stepladder.configs.core.errors import UserError
from stepladder.configs.core.record import CHECKPOINTS, LINEAGE, SPEC
from stepladder.configs.core.spec import RunSpec, from_dict
from stepladder.model.generate.sample import generate
from stepladder.train.data.read.corpora import folder
from stepladder.train.data.read.store import Store
from stepladder.train.data.tasks.task import load
from stepladder.train.hardware.machine import Machine
from stepladder.train.record.checkpoint import Checkpoints, UnreadableError
from stepladder.train.record.record import read_json
from stepladder.train.step.evaluator import Evaluator
from stepladder.train.step.program import Program
from stepladder.train.step.programs import Programs


@dataclass
class Opened:
    """A checkpoint in memory."""

    spec: RunSpec
    step: int
    params: dict
    store: Store
    record: Path
    program: Program
    task_fingerprint: str = ""  # of the examples that a fine-tuned checkpoint was trained on


def open_checkpoint(
    reference: str,
    store: str = "",
    machine: Machine | None = None,
    programs: Programs | None = None,
) -> Opened:
    """Restore the parameters of one checkpoint.

    Args:
        reference: `RUN@STEP` or `RUN`, where RUN is a record's folder (WORKDIR/runs/ID).
        store: the token store, when it is not where the run had it.
        machine: the devices to restore to.
        programs: where compiled programs are shared with other checkpoints.

    Raises:
        UserError: when there is no such run or step, nothing is readable, or the store is another
            than the run's.
    """
    path, _, step = reference.partition("@")
    record = Path(path)
    body = read_json(record / SPEC)
    if body is None:
        raise UserError(
            f"run={path}: no {SPEC} there; give WORKDIR/runs/ID, as `stepladder status` lists them"
        )
    if step and not step.isdigit():
        raise UserError(f"run={reference}: {step!r} is no step; write RUN@120")
    spec = from_dict(body)
    compiled = (programs or Programs()).program(spec, machine or Machine())
    state, meta = _restore(reference, record, int(step) if step else None, compiled)
    opened = Store.open(store or _store_of(record, spec), tokenizer=meta["tokenizer"])
    if opened.fingerprint != meta["data_fingerprint"]:
        raise UserError(
            f"store={opened.path}: fingerprint {opened.fingerprint}, the checkpoint was made on "
            f"{meta['data_fingerprint']}; give its own store with --store"
        )
    task = meta.get("task_fingerprint", "")
    return Opened(spec, meta["step"], state["params"], opened, record, compiled, task)


def evaluate(opened: Opened) -> list[dict]:
    """The rows of kind `eval` for this checkpoint, made anew.

    Raises UserError when the examples of its task are others than it was trained on.
    """
    if spec := opened.spec.data.task:
        task = load(spec, opened.store, opened.spec.data.seq_len)
        if task.fingerprint != opened.task_fingerprint:
            raise UserError(
                f"data.task.fingerprint={task.fingerprint}: the checkpoint was made on "
                f"{opened.task_fingerprint}; restore the examples of {spec.source}"
            )
    evaluator = Evaluator.create(opened.spec, opened.store, opened.program)
    return evaluator(opened.params)


def sample(opened: Opened, prompt: str, tokens: int, temperature: float, seed: int) -> str:
    """`prompt` and its continuation by at most `tokens` tokens; temperature 0 takes the likeliest
    token each time.
    """
    tokenizer = opened.store.tokenizer()
    ids = [tokenizer.eos, *tokenizer.encode(prompt)]
    key = jax.random.key(seed)
    found = generate(opened.spec.model, opened.params, ids, tokens, temperature, key)
    return tokenizer.decode(np.asarray(found)[1:])


def _restore(reference: str, record: Path, step: int | None, program: Program) -> tuple[dict, dict]:
    """(state, meta) of the checkpoint."""
    checkpoints = Checkpoints(record / CHECKPOINTS, read_only=True)
    try:
        found = checkpoints.restore(program.abstract_state, step)
    except UnreadableError as error:
        raise UserError(
            f"run={reference}: {error}; take another step, as `stepladder status` lists them"
        ) from error
    finally:
        checkpoints.close()
    if found is None:
        raise UserError(
            f"run={reference}: no checkpoint yet; wait for the first one, see `stepladder status`"
        )
    return found


def _store_of(record: Path, spec: RunSpec) -> Path:
    """The token store that the run of a record was trained on."""
    machine = (read_json(record / LINEAGE) or {}).get("machine", {})
    return folder(machine.get("store") or record.parent.parent / "data", spec.data.corpus)
