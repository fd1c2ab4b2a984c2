"""Whether all processes of a job would run the same, compared before anything compiles.

Compared are the runs, machine settings, package versions and source files; and whether all
processes see the same workdir.
"""

import hashlib
import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from stepladder.configs.core.errors import UserError
from stepladder.configs.core.load import Loaded
from stepladder.configs.core.spec import CorpusSpec, RunSpec
from stepladder.train.data.read.store import Store
from stepladder.train.data.tasks.task import load
from stepladder.train.hardware.machine import Machine
from stepladder.train.loop.lineage import PACKAGES
from stepladder.train.loop.member import check_task
from stepladder.train.processes import group

ROOT = Path(__file__).resolve().parents[2]
COMPILERS = ("libtpu", "jax-cuda", "jax_cuda")
FLAGS = (
    "XLA_FLAGS",
    "LIBTPU_INIT_ARGS",
    "JAX_PLATFORMS",
    "JAX_ENABLE_X64",
    "JAX_DEFAULT_MATMUL_PRECISION",
)
FOLDERS = ("configs", "model", "train")  # what executes; analysis only reads


def check_same(loaded: Loaded, workdir: Path, only: str = "") -> None:
    """Raise SharedError, on every process, when they differ, or train `only` others of the runs.

    The error names what differs between the processes, or those that do not see the WORKDIR of
    process 0.
    """
    if group.count() == 1:
        return
    mine = {**fingerprint(loaded), "only": only}
    if len(set(group.gather(_hash(json.dumps(mine))))) == 1:
        return _check_shared(Path(workdir))
    tables = [json.loads(text) for text in group.gather(json.dumps(mine))]
    raise group.SharedError(
        f"processes differ: {'; '.join(differences(tables))}; run the same command with the same "
        "installation on every host"
    )


def check_tasks(specs: Sequence[RunSpec], stores: Mapping[CorpusSpec, Store]) -> None:
    """Find the examples of every task before the first run trains.

    Raises:
        UserError: for a task that cannot be trained on.
        SharedError: on every process, when they find other examples.
    """
    mine = {}
    for spec in specs:
        store = stores[spec.data.corpus]
        if spec.data.task:
            check_task(spec, store)
            mine[spec.run_id] = load(spec.data.task, store, spec.data.seq_len).fingerprint
    if not mine or group.count() == 1:
        return
    found = [json.loads(text) for text in group.gather(json.dumps(mine))]
    for spec in specs:
        if spec.data.task and len({each[spec.run_id] for each in found}) > 1:
            raise group.SharedError(
                f"data.task.source={spec.data.task.source!r}: processes find other examples there; "
                "give every host the same files"
            )


def _check_shared(workdir: Path) -> None:
    """Raise SharedError unless all processes find a file that process 0 leaves."""
    probe = group.broadcast_from_zero(lambda: _leave_probe(workdir))
    blind = [
        i for i, seen in enumerate(group.gather(str((workdir / probe).exists()))) if seen != "True"
    ]
    group.broadcast_from_zero(lambda: (workdir / probe).unlink(missing_ok=True))
    if blind:
        raise group.SharedError(
            f"workdir={workdir}: process {' '.join(map(str, blind[:8]))} does not see what process "
            "0 writes there; give a folder that all hosts share"
        )


def _leave_probe(workdir: Path) -> str:
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        name = f".shared-{os.getpid()}-{time.time_ns()}"
        (workdir / name).touch()
    except OSError as error:
        raise UserError(
            f"workdir={workdir}: cannot write there ({error.strerror}); choose another --workdir"
        ) from error
    return name


def fingerprint(loaded: Loaded) -> dict[str, str]:
    """What must be the same in all processes: name -> value or hash."""
    return {
        **{f"run {spec.run_id}": spec.hash for spec in loaded.specs},
        **{
            f"machine.{name}": str(value)
            for name, value in asdict(Machine.from_config(loaded.config)).items()
        },
        **{
            f"package {d.name}": d.version
            for d in metadata.distributions()
            if (d.name or "").startswith((*PACKAGES, *COMPILERS))
        },
        **{name: os.environ[name] for name in FLAGS if name in os.environ},
        "python": platform.python_version(),
        **sources(),
    }


def sources(root: Path = ROOT) -> dict[str, str]:
    """Hash of every source file that executes: "file PATH" -> hash, PATH relative to `root`."""
    return {
        f"file {path.relative_to(root)}": _hash(path.read_bytes())
        for folder in FOLDERS
        for path in sorted((root / folder).rglob("*.py"))
    }


def differences(tables: list[dict[str, str]], most: int = 4) -> list[str]:
    """One sentence for each of the first `most` names that differ between the processes' tables."""
    names = list(dict.fromkeys(name for table in tables for name in table))
    found = [name for name in names if len({table.get(name) for table in tables}) > 1]
    said = []
    for name in found[:most]:
        values: dict[str, list[str]] = {}
        for process, table in enumerate(tables):
            values.setdefault(table.get(name, "absent"), []).append(str(process))
        parts = [f"{value} on process {' '.join(on[:8])}" for value, on in values.items()]
        said.append(f"{name} is {', '.join(parts)}")
    if len(found) > most:
        said.append(f"and {len(found) - most} more")
    return said


def _hash(content: str | bytes) -> str:
    data = content.encode() if isinstance(content, str) else content
    return hashlib.sha256(data).hexdigest()[:12]
