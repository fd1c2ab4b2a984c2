"""Whether all processes of a job would run the same: specs, machine settings, package versions and source files, compared at the start."""

import hashlib
import json
import platform
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from stepladder.configs.load import Loaded
from stepladder.train import hosts
from stepladder.train.lineage import PACKAGES
from stepladder.train.machine import Machine

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("configs", "model", "train")  # what executes; analysis only reads


def check_same(loaded: Loaded) -> None:
    """Raise SharedError, on every process, that names what differs between them."""
    if hosts.count() == 1:
        return
    mine = fingerprint(loaded)
    if len(set(hosts.gather(_hash(json.dumps(mine))))) == 1:
        return
    tables = [json.loads(text) for text in hosts.gather(json.dumps(mine))]
    raise hosts.SharedError(
        f"processes differ: {'; '.join(differences(tables))}; run the same command with the same installation on every host"
    )


def fingerprint(loaded: Loaded) -> dict[str, str]:
    """What -> its value or hash."""
    return {
        **{f"run {spec.run_id}": spec.hash for spec in loaded.specs},
        **{f"machine.{name}": str(value) for name, value in asdict(Machine.from_config(loaded.config)).items()},
        **{f"package {name}": metadata.version(name) for name in PACKAGES},
        "python": platform.python_version(),
        **{
            f"file {path.relative_to(ROOT)}": _hash(path.read_bytes())
            for folder in FOLDERS
            for path in sorted((ROOT / folder).rglob("*.py"))
        },
    }


def differences(tables: list[dict[str, str]], most: int = 4) -> list[str]:
    """One sentence for each of the first `most` things that are not the same in all tables, one of which belongs to a process."""
    names = list(dict.fromkeys(name for table in tables for name in table))
    found = [name for name in names if len({table.get(name) for table in tables}) > 1]
    said = []
    for name in found[:most]:
        values: dict[str, list[str]] = {}
        for process, table in enumerate(tables):
            values.setdefault(table.get(name, "absent"), []).append(str(process))
        said.append(f"{name} is " + ", ".join(f"{value} on process {' '.join(processes[:8])}" for value, processes in values.items()))
    return said + ([f"and {len(found) - most} more"] if len(found) > most else [])


def _hash(content: str | bytes) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()[:12]
