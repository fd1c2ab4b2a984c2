"""Look at one checkpoint: evaluate it, sample from it, take its weights.

`RUN@STEP` names it; without @STEP, the last one.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from stepladder.configs.core.errors import UserError
from stepladder.configs.core.files import replacing
from stepladder.configs.core.record import CHECKPOINTS, LINEAGE, SPEC
from stepladder.configs.core.spec import RunSpec, from_dict
from stepladder.model.generate.sample import generate
from stepladder.train.data.read.corpora import folder
from stepladder.train.data.read.store import Store
from stepladder.train.hardware.machine import Machine
from stepladder.train.record.checkpoint import Checkpoints, UnreadableError
from stepladder.train.record.record import read_json
from stepladder.train.step.evaluator import Evaluator
from stepladder.train.step.program import Program, program


@dataclass
class Opened:
    """A checkpoint in memory."""

    spec: RunSpec
    step: int
    params: dict
    store: Store
    record: Path
    program: Program


def open_checkpoint(reference: str, store: str = "", machine: Machine | None = None) -> Opened:
    """Restore `RUN@STEP`, where RUN is a record's folder (WORKDIR/runs/ID).

    `store` overrides WORKDIR/data. Raises UserError.
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
    checkpoints = Checkpoints(record / CHECKPOINTS, read_only=True)
    compiled = program(spec, machine or Machine())
    try:
        found = checkpoints.restore(compiled.abstract_state, int(step) if step else None)
    except UnreadableError as error:
        raise UserError(
            f"run={reference}: {error}; take another step, as `stepladder status` lists them"
        ) from error
    if found is None:
        raise UserError(
            f"run={reference}: no checkpoint yet; wait for the first one, see `stepladder status`"
        )
    state, meta = found
    kept = (read_json(record / LINEAGE) or {}).get("machine", {}).get(
        "store"
    ) or record.parent.parent / "data"
    opened = Store.open(store or folder(kept, spec.data.corpus), tokenizer=meta["tokenizer"])
    if opened.fingerprint != meta["data_fingerprint"]:
        raise UserError(
            f"store={store}: fingerprint {opened.fingerprint}, the checkpoint was made on "
            f"{meta['data_fingerprint']}; give its own store"
        )
    return Opened(spec, meta["step"], state["params"], opened, record, compiled)


def evaluate(opened: Opened) -> list[dict]:
    """The rows of kind `eval` for this checkpoint, made anew."""
    evaluator = Evaluator.create(opened.spec, opened.store, opened.program)
    return evaluator(opened.program.put(opened.params))


def sample(opened: Opened, prompt: str, tokens: int, temperature: float, seed: int) -> str:
    """`prompt` and its continuation."""
    tokenizer = opened.store.tokenizer()
    ids = [tokenizer.eos, *tokenizer.encode(prompt)]
    return tokenizer.decode(
        np.asarray(
            generate(
                opened.spec.model, opened.params, ids, tokens, temperature, jax.random.key(seed)
            )
        )[1:]
    )


def export(opened: Opened, out: Path) -> Path:
    """Write weights and spec as one .npz of plain float32 arrays, keys joined by dots; readable
    with numpy alone.
    """
    out = Path(out).with_suffix(".npz")
    flat = {
        ".".join(str(getattr(k, "key", k)) for k in path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_flatten_with_path(opened.params)[0]
    }
    about = json.dumps(
        {
            "run_id": opened.spec.run_id,
            "step": opened.step,
            "spec": read_json(opened.record / SPEC),
        }
    )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(out) as file:
            np.savez(file, __about__=np.array(about), **flat)
    except OSError as error:
        raise UserError(
            f"out={out}: cannot write it ({error.strerror}); choose another --out"
        ) from error
    return out


def load_export(path: Path) -> tuple[RunSpec, dict]:
    """The spec and nested parameters of an exported file."""
    with np.load(path) as file:
        about, flat = (
            json.loads(str(file["__about__"])),
            {k: file[k] for k in file.files if k != "__about__"},
        )
    nested: dict = {}
    for name, array in flat.items():
        *parents, last = name.split(".")
        node = nested
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = array
    return from_dict(about["spec"]), nested
