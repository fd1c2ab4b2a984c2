"""lineage.json: what a reader of the record needs beside the spec. Parent, data, counts, versions,
machine.
"""

import platform
import time
from dataclasses import asdict
from importlib import metadata

from stepladder.configs.core import counting
from stepladder.configs.core.spec import RunSpec
from stepladder.model.parallel.device import platform_name
from stepladder.train.data.read.store import Store
from stepladder.train.data.tasks.batches import replayed
from stepladder.train.data.tasks.task import Task
from stepladder.train.step.program import Program

PACKAGES = ("stepladder", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def lineage(spec: RunSpec, store: Store, program: Program, task: Task | None = None) -> dict:
    """The body of lineage.json (fields: configs/core/record.py); `task` is what the run trains on,
    if it does.
    """
    rows = (spec.steps - spec.stream_start) * spec.batch_size
    of_task = rows - int(replayed(rows, spec.data.replay))
    counts = counting.count(spec.model, spec.data.seq_len)
    devices = program.mesh.devices.flatten()
    parent = spec.parent and {
        "run_id": spec.parent.run_id,
        "step": spec.parent.step,
        "reset": list(spec.parent.reset),
    }
    versions = {name: metadata.version(name) for name in PACKAGES}
    return {
        "run_id": spec.run_id,
        "spec_hash": spec.hash,
        "parent": parent,
        "data_fingerprint": store.fingerprint,
        "tokenizer": store.manifest["tokenizer"],
        "task": task and task.lineage(of_task, spec.hyper.data_seed),
        "params_total": counts.params_total,
        "params_non_embedding": counts.params_non_embedding,
        "flops_per_token_train": counts.flops_per_token_train,
        "flops_per_token_6n": counts.flops_per_token_6n,
        "flops_per_token_inference": counts.flops_per_token_inference,
        "tokens_per_step": spec.tokens_per_step,
        "created_utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "created_unix": time.time(),
        "versions": {**versions, "python": platform.python_version()},
        "arithmetic": spec.model.compute_dtype,
        "executables": {},  # Record.note_executable
        "machine": {
            "platform": platform_name(devices[0]),
            "device_kind": devices[0].device_kind,
            "devices": len(devices),
            **asdict(program.machine),
        },
    }
