"""Read the records of a working directory into tables.

JSON only: no jax, no checkpoint is opened, and every exclusion is listed.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stepladder.configs.core import record
from stepladder.configs.core.errors import UserError

COUNTS = ("params_total", "params_non_embedding")
_RUN = tuple(
    (
        "run_id name role study recipe arm size width depth parametrization state step N "
        "params_total params_non_embedding steps tokens_per_step D train_flops train_flops_6nd "
        "flops_per_token_train flops_per_token_6n flops_per_token_inference learning_rate "
        "weight_decay warmup_steps schedule batch_size seq_len vocab_size compute_dtype seed "
        "data_seed parent parent_step root corpus tokenizer spec_hash created machine error"
    ).split()
)
_POINT = tuple(
    (
        "run_id root role size state step N D C C_6nd domain loss loss_se bits_per_byte windows "
        "tokens_evaluated decayed learning_rate seed data_seed"
    ).split()
)
_TRAIN = ("run_id", "role", "size", "N", "step", "tokens", *record.FIELDS[record.TRAIN])
_TIMING = ("run_id", "role", "size", "N", "step", *record.FIELDS[record.TIMING])
EXCLUDED = ("run_id", "step", "domain", "reason")
# Terminal and unfinished states that the reader is told about; points of `diverged` and `failed`
# runs never enter a fit.
STATE_REASONS = {
    record.DIVERGED: "run diverged",
    record.FAILED: "run failed",
    record.RUNNING: "still running",
    record.PENDING: "not started",
}


@dataclass(frozen=True)
class Runs:
    """A working directory's records.

    runs: a row a run. N is the parameter count named by `n`; D are the planned tokens (the parent's
    included); train_flops = D times the counted FLOPs per token, train_flops_6nd = 6
    N_non-embedding D as recorded.
    points: a row per (run, step, domain) evaluation: N, D tokens seen, C train FLOPs so far, loss
    in nats per token, loss_se, bits_per_byte.
    train: training rows; timing: wall-clock rows (seconds); excluded: run_id, step, domain, reason.
    """

    workdir: str
    n: str
    runs: pd.DataFrame
    points: pd.DataFrame
    train: pd.DataFrame
    timing: pd.DataFrame
    excluded: pd.DataFrame

    def __str__(self) -> str:
        states = (
            ", ".join(f"{c} {s}" for s, c in self.runs["state"].value_counts().items()) or "none"
        )
        return (
            f"{len(self.runs)} runs ({states}), {len(self.points)} evaluations, "
            f"{len(self.excluded)} exclusions in {self.workdir}"
        )


def load(workdir: str | Path, *, n: str = "params_total") -> Runs:
    """Read `<workdir>/runs/*`.

    `n` is the count used as N in every fit: all parameters (the default, embeddings included) or
    `params_non_embedding`. Raises UserError when the directory does not exist or `n` is unknown.
    Whatever cannot be read is listed in `excluded`.
    """
    if n not in COUNTS:
        raise UserError(f"n={n!r}: unknown parameter count; use one of {', '.join(COUNTS)}")
    root = _path(workdir)
    if not root.exists():
        raise UserError(
            f"workdir={str(workdir)!r}: does not exist; run `stepladder run --workdir={workdir}` "
            "first"
        )
    excluded: list[dict] = []
    folders = (
        sorted((p for p in (root / record.RUNS).iterdir() if p.is_dir()), key=lambda p: p.name)
        if (root / record.RUNS).exists()
        else []
    )
    ladder = _json(root / record.LADDER) or {}
    known = {p.name for p in folders}
    excluded += [
        _reason(r, "planned by the ladder, not started")
        for r in _ladder_ids(ladder)
        if r not in known
    ]
    runs, evals, trains, timings = [], [], [], []
    for folder in folders:
        run = _run(folder, n, excluded)
        if run is None:
            continue
        runs.append(run)
        if run["state"] in STATE_REASONS:
            excluded.append(
                _reason(
                    run["run_id"],
                    STATE_REASONS[run["state"]] + (f": {run['error']}" if run["error"] else ""),
                    run["step"],
                )
            )
        rows = _rows(folder, run["run_id"], excluded)
        evals += [_point(run, row) for row in rows if row["kind"] == record.EVAL]
        trains += [{**run, **row} for row in rows if row["kind"] == record.TRAIN]
        timings += [{**run, **row} for row in rows if row["kind"] == record.TIMING]
    _roots(runs, evals, excluded)
    points = _table(evals, _POINT)
    finite = np.isfinite(points["loss"])
    excluded += [
        _reason(p.run_id, f"loss is {p.loss}", p.step, p.domain)
        for p in points[~finite].itertuples()
    ]
    return Runs(
        workdir=str(workdir),
        n=n,
        runs=_table(runs, _RUN),
        points=points[finite].reset_index(drop=True),
        train=_table(trains, _TRAIN),
        timing=_table(timings, _TIMING),
        excluded=_table(excluded, EXCLUDED),
    )


_DTYPES = {
    "decayed": bool,
    "loss": float,
    "loss_se": float,
    "tokens_per_second": float,
    "mfu": float,
    "seconds": float,
    "steps": float,
}


def _table(rows: list[dict], columns: tuple[str, ...]) -> pd.DataFrame:
    """A table of `columns` with the same types whether it has rows or not (an empty mask of objects
    would select columns).
    """
    table = pd.DataFrame(rows, columns=list(columns))
    return table.astype({name: kind for name, kind in _DTYPES.items() if name in columns})


def _path(workdir: str | Path) -> Any:
    """A local path, or an epath for `gs://` and friends."""
    if "://" in str(workdir):
        from etils import epath

        return epath.Path(workdir)
    return Path(workdir)


def _reason(run_id: str, reason: str, step: float | None = None, domain: str = "") -> dict:
    return {
        "run_id": run_id,
        "step": math.nan if step is None else step,
        "domain": domain,
        "reason": reason,
    }


def _json(path: Any) -> dict | None:
    try:
        body = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return body if isinstance(body, dict) else None


def _ladder_ids(ladder: dict) -> list[str]:
    """Run ids of ladder.json: a list of ids, or of objects with `run_id`, or a mapping by id."""
    listed = ladder.get("run_ids") or ladder.get("runs") or []
    return [r["run_id"] if isinstance(r, dict) else str(r) for r in listed]


def _run(folder: Any, n: str, excluded: list[dict]) -> dict | None:
    """One row of `runs`, or None with the reason listed."""
    spec, lineage, status = (
        _json(folder / name) for name in (record.SPEC, record.LINEAGE, record.STATUS)
    )
    if spec is None:
        excluded.append(_reason(folder.name, f"{record.SPEC} is missing or unreadable"))
        return None
    if lineage is None:
        excluded.append(
            _reason(
                folder.name,
                f"{record.LINEAGE} is missing or unreadable: no parameter count to fit with",
            )
        )
        return None
    if status is None:
        excluded.append(
            _reason(
                folder.name, f"{record.STATUS} is missing or unreadable: taken as {record.PENDING}"
            )
        )
        status = {}
    try:
        hyper, parent, tags = spec["hyper"], spec.get("parent") or {}, dict(spec.get("tags", ()))
        tokens_per_step = spec["batch_size"] * spec["data"]["seq_len"]
        planned = spec["steps"] * tokens_per_step
        return {
            "run_id": folder.name,
            "name": spec["name"],
            "role": tags.get("role", ""),
            "study": tags.get("study", ""),
            "recipe": tags.get("recipe", ""),
            "arm": tags.get("arm", ""),
            "compute_dtype": spec["model"].get("compute_dtype", ""),
            "size": spec["model"]["size"],
            "width": spec["model"]["d_model"],
            "depth": spec["model"]["n_layers"],
            "parametrization": spec["model"].get("parametrization", "standard"),
            "state": status.get("state", record.PENDING),
            "step": status.get("step", 0),
            "error": status.get("error") or status.get("reason") or "",
            "N": lineage[n],
            "params_total": lineage["params_total"],
            "params_non_embedding": lineage["params_non_embedding"],
            "steps": spec["steps"],
            "tokens_per_step": tokens_per_step,
            "D": planned,
            "train_flops": planned * lineage["flops_per_token_train"],
            "train_flops_6nd": planned * lineage["flops_per_token_6n"],
            **{
                k: lineage[k]
                for k in (
                    "flops_per_token_train",
                    "flops_per_token_6n",
                    "flops_per_token_inference",
                )
            },
            **{
                k: hyper[k]
                for k in ("learning_rate", "weight_decay", "warmup_steps", "seed", "data_seed")
            },
            "schedule": spec["optimizer"]["schedule"],
            "batch_size": spec["batch_size"],
            "seq_len": spec["data"]["seq_len"],
            "vocab_size": spec["model"]["vocab_size"],
            "parent": parent.get("run_id"),
            "parent_step": parent.get("step"),
            "root": folder.name,
            "corpus": spec["data"]["corpus"]["name"],
            "tokenizer": lineage.get("tokenizer"),
            "spec_hash": lineage.get("spec_hash"),
            "created": lineage.get("created_utc"),
            "machine": lineage.get("machine"),
        }
    except (KeyError, TypeError, ValueError) as error:
        excluded.append(
            _reason(folder.name, f"{record.SPEC} or {record.LINEAGE} lacks a field: {error}")
        )
        return None


def _rows(folder: Any, run_id: str, excluded: list[dict]) -> list[dict]:
    """Rows of all metric parts in order of step; of a step written twice the last attempt stands
    and the earlier one is listed.
    """
    metrics = folder / record.METRICS
    parts = []
    for path in (
        sorted((p for p in metrics.iterdir() if p.name.endswith(".jsonl")), key=lambda p: p.name)
        if metrics.exists()
        else []
    ):
        try:
            parts.append((record.part_range(path.name), path))
        except ValueError:
            excluded.append(_reason(run_id, f"part {path.name}: the name is not first-last.jsonl"))
    kept: dict[tuple, dict] = {}
    timing: list[dict] = []
    begins = parts[0][0][0] if parts else 0
    # A later attempt covers its steps (first, last] again from its own `first`: it comes later in
    # this order.
    for (first, last), path in parts:
        seen: set[tuple] = set()
        for row in _lines(path, run_id, excluded):
            if row["kind"] == record.TIMING:
                timing.append(row)
                continue
            key = (row["kind"], row["step"], row.get("domain", ""))
            # The step a record begins at (0, or the parent's) belongs to its first part: no other
            # part could hold it.
            if not (first < row["step"] <= last or row["step"] == first == begins):
                excluded.append(
                    _reason(
                        run_id,
                        f"part {path.name}: step outside of the part's range",
                        row["step"],
                        key[2],
                    )
                )
                continue
            if key in kept:
                where = "twice in one part" if key in seen else "an earlier attempt"
                excluded.append(
                    _reason(
                        run_id,
                        f"duplicate {row['kind']} row ({where}); the last one stands",
                        row["step"],
                        key[2],
                    )
                )
            seen.add(key)
            kept[key] = row
    return [*sorted(kept.values(), key=lambda r: r["step"]), *timing]


def _lines(path: Any, run_id: str, excluded: list[dict]) -> list[dict]:
    try:
        text = path.read_text(errors="replace")
    except OSError as error:
        excluded.append(_reason(run_id, f"part {path.name}: {error}"))
        return []
    lines, rows = text.split("\n"), []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            missing = [f for f in record.REQUIRED if f not in row]
            if missing:
                raise ValueError(f"without {', '.join(missing)}")
            numbers = ("step", "tokens", *_DTYPES)
            wrong = [f for f in numbers if not isinstance(row.get(f), (int, float, type(None)))]
            if wrong or row["step"] is None or row["tokens"] is None:
                raise ValueError(f"{wrong[0] if wrong else 'step or tokens'} is not a number")
            if row["kind"] == record.EVAL and not {"domain", "loss", "decayed"} <= row.keys():
                raise ValueError("evaluation without domain, loss or decayed")
        except (ValueError, TypeError) as error:
            # no newline after it: the part is being written at this moment, or its writer was
            # killed
            cut = number == len(lines)
            excluded.append(
                _reason(
                    run_id,
                    f"part {path.name} line {number}: "
                    + ("cut short while being written" if cut else f"unreadable ({error})"),
                )
            )
            continue
        rows.append(row)
    return rows


def _point(run: dict, row: dict) -> dict:
    return {
        **{k: run[k] for k in "run_id root role size state N learning_rate seed data_seed".split()},
        **{k: row.get(k, math.nan) for k in ("step", *record.FIELDS[record.EVAL])},
        "loss": math.nan if row["loss"] is None else row["loss"],
        "D": row["tokens"],
        "decayed": bool(row["decayed"]),
        "C": row["tokens"] * run["flops_per_token_train"],
        "C_6nd": row["tokens"] * run["flops_per_token_6n"],
    }


def _roots(runs: list[dict], points: list[dict], excluded: list[dict]) -> None:
    """`root` is the oldest ancestor: a trunk and its branches share their noise, and resampling
    keeps them together.
    """
    parents = {r["run_id"]: r["parent"] for r in runs}
    for run in runs:
        root, seen = run["run_id"], set()
        while parents.get(root) and root not in seen:
            seen.add(root)
            root = parents[root]
        run["root"] = root
        if run["parent"] and run["parent"] not in parents:
            excluded.append(
                _reason(
                    run["parent"],
                    f"parent of {run['run_id']} has no readable record: the branch stands, its "
                    "trunk does not",
                )
            )
    roots = {r["run_id"]: r["root"] for r in runs}
    for point in points:
        point["root"] = roots[point["run_id"]]
