"""How a job of same_bits.py becomes facts: JSON that can be compared.

Arrays and token stores stand in it by their SHA-256, metric rows by their text.
"""

import csv
import gzip
import hashlib
import json
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import tensorstore
from same_bits_jobs import WORKDIR, Job

# Fields of times, versions and the size of this machine: not compared, wherever they stand.
IGNORED = {
    "created",
    "created_unix",
    "created_utc",
    "generated_utc",
    "memory",
    "seconds",
    "target_created",
    "timing",
    "versions",
    "written_utc",
}
EXACT = {"runs", "stores", "text"}  # facts that must be equal to the last bit


class JobFailed(Exception):
    """A command of a job ended with an error."""


def perform(job: Job, sandbox: Path, checkout: Path, environment: dict[str, str]) -> dict:
    """Run the commands in `sandbox` with the code of `checkout`, and gather the facts.

    Raises JobFailed with the end of a command's errors.
    """
    shutil.rmtree(sandbox, ignore_errors=True)
    sandbox.mkdir(parents=True)
    (sandbox / "configs").symlink_to(checkout / "configs")
    _copy_examples(checkout, sandbox / "examples")
    if environment.get("STEPLADDER_DATA"):
        (sandbox / "public").symlink_to(Path(environment["STEPLADDER_DATA"]).resolve())
    _write_texts(sandbox / "texts")
    printed, text = [], []
    for command in job.commands:
        runs = sorted((sandbox / WORKDIR / "runs").glob("*"))
        words = [
            w.replace("{run}", str(runs[0].relative_to(sandbox)) if runs else w) for w in command
        ]
        done = subprocess.run(
            [sys.executable, "-m", "stepladder.train", *words],
            cwd=sandbox,
            env=environment,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            end = " ".join(done.stderr.strip().splitlines()[-1:])
            raise JobFailed(f"{words[0]}: exit {done.returncode}: {end}")
        if "--json" in command:
            printed.append(json.loads(done.stdout))
        elif command[0] in ("eval", "sample"):
            text.append(done.stdout)
    facts = {"printed": printed, "text": text, **_files(sandbox)}
    return {name: fact for name, fact in facts.items() if fact}


def _copy_examples(checkout: Path, to: Path) -> None:
    """The example tables, wherever the commit has them, under one name for both commits."""
    found = next(p for p in sorted(checkout.rglob("widths.csv.gz")) if ".git" not in p.parts)
    shutil.copytree(found.parent, to)


def _write_texts(folder: Path) -> None:
    """Own files for `data prepare`: documents of random words, the same every time."""
    folder.mkdir()
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghij", k=draw.randint(2, 9))) for _ in range(500)]
    lines = [" ".join(draw.choices(words, k=draw.randint(5, 300))) for _ in range(200)]
    body = "".join(json.dumps({"text": line}) + "\n" for line in [*lines, *lines[:20]])
    (folder / "web.jsonl.gz").write_bytes(gzip.compress(body.encode(), mtime=0))
    for i in range(6):
        code = "".join(f"def {w}(x):\n    return x + {i}\n\n\n" for w in draw.sample(words, 60))
        (folder / f"code{i}.py").write_text(code)


def _files(sandbox: Path) -> dict:
    """Facts of the files that the commands wrote: records, token stores, results, weights."""
    runs = {p.name: _run(p) for p in sorted((sandbox / WORKDIR / "runs").glob("*"))}
    stores = {
        str(p.parent.relative_to(sandbox)): _store(p) for p in _found(sandbox, "manifest.json")
    }
    results: dict = {}
    for pattern in (
        "results.json",
        "forecast.json",
        "ladder.json",
        "probes.json",
        "studies/**/*.json",
    ):
        for path in _found(sandbox, pattern):
            results[str(path.relative_to(sandbox))] = json.loads(path.read_text())
    for path in _found(sandbox, "*.npz"):
        with np.load(path) as held:
            results[path.name] = {name: _digest(held[name]) for name in held.files}
    for path in _found(sandbox, "runs.csv.gz"):
        results[str(path.relative_to(sandbox))] = _table(path)
    figures = sorted(str(p.relative_to(sandbox)) for p in _found(sandbox, "*.svg"))
    return {"runs": runs, "stores": stores, "results": results, "figures": figures}


def _found(sandbox: Path, pattern: str) -> list[Path]:
    """Files of the folders that commands write, links and inputs left out."""
    inputs = {"configs", "examples", "public", "texts"}
    tops = [p for p in sorted(sandbox.iterdir()) if p.name not in inputs]
    inside = [q for p in tops if p.is_dir() for q in sorted(p.rglob(pattern))]
    return [p for p in (*inside, *(t for t in tops if t.match(pattern))) if p.is_file()]


def _run(folder: Path) -> dict:
    """A record: everything but wall-clock rows."""
    lineage = json.loads((folder / "lineage.json").read_text())
    parts = sorted((folder / "metrics").glob("*.jsonl"))
    rows = {
        part.name: [r for r in part.read_text().splitlines() if json.loads(r)["kind"] != "timing"]
        for part in parts
    }
    steps = [p for p in sorted((folder / "checkpoints").iterdir()) if p.name.isdigit()]
    return {
        "spec": (folder / "spec.json").read_text(),
        "lineage": lineage,
        "status": (folder / "status.json").read_text(),
        "rows": rows,
        "checkpoints": {p.name: _checkpoint(p) for p in steps},
    }


def _checkpoint(folder: Path) -> dict:
    """Every array of a checkpoint by shape, type and digest, read without the trainer's code."""
    base = f"file://{folder}/state/"
    keys = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result().list().result()
    names = sorted(k.decode().removesuffix("/.zarray") for k in keys if k.endswith(b"/.zarray"))
    arrays = {}
    for name in names:
        where = {"driver": "ocdbt", "base": base, "path": f"{name}/"}
        opened = tensorstore.open({"driver": "zarr", "kvstore": where}, open=True).result()
        arrays[name] = _digest(opened.read().result())
    return {"arrays": arrays, "meta": json.loads((folder / "meta" / "metadata").read_text())}


def _digest(array: np.ndarray) -> str:
    body = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
    return f"{array.dtype}{list(array.shape)} {body}"


def _store(manifest: Path) -> dict:
    """A token store: its manifest and the digest of every file of tokens."""
    left = {"manifest.json", "sources.json", ".lock"}
    files = [p for p in sorted(manifest.parent.iterdir()) if p.is_file() and p.name not in left]
    body = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
    return body | {"manifest": json.loads(manifest.read_text())}


def _table(path: Path) -> list:
    """The rows of a table that a report wrote, numbers as numbers."""
    rows = csv.reader(gzip.decompress(path.read_bytes()).decode().splitlines())
    return [[_number(cell) for cell in row] for row in rows]


def _number(cell: str) -> float | str:
    return float(cell) if re.fullmatch(r"[-+]?\d+(\.\d+)?([eE][-+]?\d+)?", cell) else cell
