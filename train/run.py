"""One run, top to bottom: mesh, data, model, state, restore, loop, done."""

import math
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

import numpy as np

from stepladder.configs import counting, schema
from stepladder.configs.errors import UserError
from stepladder.configs.spec import RunSpec
from stepladder.train import faults, schedule, tensorboard
from stepladder.train.checkpoint import Checkpoints
from stepladder.train.clock import Clock
from stepladder.train.data import batches as batching
from stepladder.train.data.mixture import check_epochs
from stepladder.train.data.store import Store
from stepladder.train.evaluate import Evaluator
from stepladder.train.machine import Machine
from stepladder.train.peak import peak_flops
from stepladder.train.preempt import Notice, Preempted
from stepladder.train.program import DISPATCH, Program, program, traced
from stepladder.train.record import Record

Progress = Callable[[int, int, float], None]  # (step, last step, loss so far)


def run(
    spec: RunSpec, workdir: Path, store: Store, machine: Machine, *,
    notice: Notice | None = None, progress: Progress | None = None, clock: Clock | None = None,
) -> str:  # fmt: skip
    """Train `spec` to its end, from wherever its record stands; returns the terminal state ("done" or "diverged").

    Idempotent: a finished run returns at once. Raises UserError for what a user can mend (before anything compiles where possible) and
    Preempted after a save when `notice` arrives.
    """
    record, notice = Record(workdir, spec), notice or Notice()
    if record.status["state"] in schema.TERMINAL:
        return record.status["state"]
    clock = clock or Clock()
    earlier = clock.table()

    # Mesh and data
    _check_data(spec, store)
    compiled = program(spec, machine)
    source = batching.BatchSource(store, spec.data.weights, spec.data.seq_len, spec.batch_size, spec.hyper.data_seed)
    evaluator = Evaluator.create(spec, store, compiled)
    hyper = compiled.put(traced(spec))

    # Model
    record.open(lineage(spec, store, compiled))
    checkpoints = Checkpoints(record.path / schema.CHECKPOINTS, permanent=spec.checkpoint_steps)
    with clock.phase("compile"):
        train_step = compiled.step
        evaluator.compile()
        if not checkpoints.steps() and (spec.parent is None or spec.parent.reset):
            _ = compiled.init

    # State and restore: resume > branch > weights only > scratch
    with clock.phase("restore"):
        state, start = _start(spec, workdir, store, compiled, checkpoints, hyper)
    record.truncate(start)
    record.set_status(schema.RUNNING, start)

    # Loop: a dispatch of steps is on its way before the metrics of the one before are fetched
    meta = {"run_id": spec.run_id, "data_fingerprint": store.fingerprint, "tokenizer": store.manifest["tokenizer"]["hash"]}
    rates, committed, steps_since, pending, ended = _Rates(spec, compiled, clock), start, 0, None, None
    batches = batching.batches(source, start, spec.steps)
    step, group = start, _dispatch(spec, start)
    with clock.phase("data"):
        batch = _next(compiled, batches, group)
    while step < spec.steps:
        with clock.phase("steps"):
            state, metrics = train_step(state, hyper, *batch)
        step, steps_since = step + group, steps_since + group
        began = time.perf_counter()
        group = _dispatch(spec, step)
        batch = _next(compiled, batches, group)
        hidden = not metrics["last_loss"].is_ready()  # the device was still computing: the batch cost nothing
        clock.seconds["steps" if hidden else "data"] += time.perf_counter() - began
        due = step in spec.eval_steps or step in spec.checkpoint_steps or step == spec.steps
        temporary = notice.arrived or time.monotonic() - checkpoints.last_save > machine.temporary_every
        with clock.phase("steps"):
            ended = _fetch(record, pending) or (_fetch(record, (step, metrics)) if due or temporary else None)
        pending = None if due or temporary else (step, metrics)
        if ended:
            break
        record.heartbeat(step)
        if progress:
            progress(step, spec.steps, record.rows[-1].get("loss", math.nan) if record.rows else math.nan)
        if step in spec.eval_steps:
            with clock.phase("eval"):
                decayed = schedule.decayed(spec.optimizer.schedule, step, asdict(spec.hyper))
                evaluated = evaluator(state["params"])
            if not all(math.isfinite(row["loss"]) for row in evaluated):  # the last update broke what the last loss could not show yet
                ended = {"step": step, "reason": f"evaluation is not finite at step {step}"}
                break
            for row in evaluated:
                record.add(schema.EVAL, step, **row, decayed=decayed)
        if step in spec.checkpoint_steps or step == spec.steps or temporary:
            record.add(schema.TIMING, step, phase="window", **rates.since(clock, steps_since))
            if step == spec.steps:
                for phase, seconds in clock.table().items():
                    record.add(schema.TIMING, step, phase=phase, seconds=round(seconds - earlier[phase], 4))
            with clock.phase("checkpoint"):
                _commit(record, committed, step, machine)
                faults.point("after_metrics")
                checkpoints.save(step, state, {**meta, "step": step})
            committed, steps_since = step, 0
            if notice.arrived:
                checkpoints.close()
                raise Preempted(f"{spec.run_id}: saved at step {step}")

    # Done
    with clock.phase("checkpoint"):
        checkpoints.wait()
        faults.point("after_checkpoint")
        if ended:
            _commit(record, committed, ended["step"], machine)
        checkpoints.close()
    final = schema.DIVERGED if ended else schema.DONE
    record.set_status(final, ended["step"] if ended else spec.steps, **({"reason": ended["reason"]} if ended else {}))
    return final


def lineage(spec: RunSpec, store: Store, compiled: Program) -> dict:
    """What a reader of the record needs beside the spec: parent, data, counts by the trainer, versions, machine."""
    counts = counting.count(spec.model, spec.data.seq_len)
    devices = compiled.mesh.devices.flatten()
    return {
        "run_id": spec.run_id,
        "spec_hash": spec.hash,
        "parent": {"run_id": spec.parent.run_id, "step": spec.parent.step, "reset": list(spec.parent.reset)} if spec.parent else None,
        "data_fingerprint": store.fingerprint,
        "tokenizer": store.manifest["tokenizer"],
        "params_total": counts.params_total,
        "params_non_embedding": counts.params_non_embedding,
        "flops_per_token_train": counts.flops_per_token_train,
        "flops_per_token_6n": counts.flops_per_token_6n,
        "flops_per_token_inference": counts.flops_per_token_inference,
        "tokens_per_step": spec.tokens_per_step,
        "created_utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "created_unix": time.time(),
        "versions": {name: metadata.version(name) for name in ("stepladder", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")}
        | {"python": platform.python_version()},
        "machine": {"platform": devices[0].platform, "device_kind": devices[0].device_kind, "devices": len(devices), **asdict(compiled.machine)},
    }  # fmt: skip


def _check_data(spec: RunSpec, store: Store) -> None:
    if store.vocab_size != spec.model.vocab_size:
        raise UserError(
            f"model.vocab_size={spec.model.vocab_size}: the token store has {store.vocab_size} (tokenizer {store.manifest['tokenizer']['name']}); "
            "prepare the store with the config's data.tokenizer"
        )
    check_epochs(store, spec.data.weights, spec.data.seq_len, spec.steps * spec.batch_size, spec.data.max_epochs)


def _start(spec: RunSpec, workdir: Path, store: Store, compiled: Program, own: Checkpoints, hyper: dict) -> tuple[dict, int]:
    """(state, step) to begin from: resume > branch > weights only > scratch. A named parent that is missing is an error."""
    found = own.restore(compiled.abstract_state)
    if found:
        state, meta = found
        _check_fingerprint(spec.run_id, meta, store)
        own.drop_after(meta["step"])
        return state, meta["step"]
    if spec.parent is None:
        return compiled.init(hyper), 0
    folder = Path(workdir) / schema.RUNS / spec.parent.run_id / schema.CHECKPOINTS
    if not folder.is_dir():
        raise UserError(
            f"parent={spec.parent.run_id}: no record of it under {workdir}; run the parent first, a branch never starts from scratch"
        )
    parent = Checkpoints(folder, read_only=True)
    state, meta = parent.restore(compiled.abstract_state, spec.parent.step)
    parent.close()
    _check_fingerprint(spec.run_id, meta, store)
    if spec.parent.reset:
        fresh = compiled.init(hyper)
        parts = {"optimizer": ("opt", "window"), "step": ("step", "window")}
        for part in spec.parent.reset:
            if part not in parts:
                raise UserError(f"parent.reset={part!r}: unknown part; use one of {', '.join(parts)}")
            state |= {name: fresh[name] for name in parts[part]}
    return state, spec.start_step


def _check_fingerprint(run_id: str, meta: dict, store: Store) -> None:
    if meta["data_fingerprint"] != store.fingerprint:
        raise UserError(
            f"data.fingerprint={store.fingerprint}: the checkpoint of {run_id} was made on {meta['data_fingerprint']}; restore that token store"
        )


def _dispatch(spec: RunSpec, step: int) -> int:
    """Steps in the dispatch after `step`: up to the next row, evaluation, checkpoint or multiple of DISPATCH, whichever comes first.

    It depends on the step alone, so a resumed run groups its steps, and sees a divergence, as the unbroken one does.
    """
    ends = [step - step % every + every for every in (DISPATCH, spec.log_every)]
    ends += [s for s in (*spec.eval_steps, *spec.checkpoint_steps, spec.steps) if s > step]
    return min(ends) - step if step < spec.steps else 0


def _next(compiled: Program, batches: Iterator[np.ndarray], count: int) -> tuple | None:
    return compiled.put_batches([next(batches) for _ in range(count)]) if count else None


def _fetch(record: Record, pending: tuple | None) -> dict | None:
    """Bring a step's metrics to the host: a train row when the window is full; the reason to stop when the loss is not finite."""
    if pending is None:
        return None
    step, metrics = pending
    last = float(metrics["last_loss"])
    if not math.isfinite(last):
        return {"step": step, "reason": f"loss is {last} at step {step}"}
    if step % record.spec.log_every == 0:
        values = {name: float(np.asarray(metrics[name])) for name in ("loss", "z_loss", "grad_norm", "learning_rate")}
        for name, value in values.items():
            if not math.isfinite(value):  # the norm of a gradient overflows float32 before the loss does
                return {"step": step, "reason": f"{name} is {value} at step {step}"}
        record.add(schema.TRAIN, step, **values)
    return None


def _commit(record: Record, first: int, last: int, machine: Machine) -> None:
    rows = record.commit_rows(first, last)
    if machine.tensorboard and rows:
        tensorboard.mirror(record.path / "tensorboard", rows)


class _Rates:
    """Tokens a second and model FLOPs utilisation of the steps since the last call."""

    def __init__(self, spec: RunSpec, compiled: Program, clock: Clock):
        device = compiled.mesh.devices.flatten()[0]
        self.peak = peak_flops(device.device_kind, device.platform)
        self.tokens_per_step = spec.tokens_per_step
        self.flops_per_token = counting.count(spec.model, spec.data.seq_len).flops_per_token_train
        self.before = clock.seconds["steps"] + clock.seconds["data"]

    def since(self, clock: Clock, steps: int) -> dict:
        spent = clock.seconds["steps"] + clock.seconds["data"]
        seconds, self.before = max(spent - self.before, 1e-9), spent
        rate = steps * self.tokens_per_step / seconds
        mfu = rate * self.flops_per_token / self.peak if self.peak else None
        return {"seconds": round(seconds, 4), "tokens_per_second": round(rate, 1), "mfu": mfu and round(mfu, 5), "steps": steps}
