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

from stepladder.analysis.records.arithmetic import arithmetic_of
from stepladder.analysis.records.rows import DTYPES, Row, exclusion, metric_rows
from stepladder.configs.core import record
from stepladder.configs.core.errors import UserError

COUNTS = ("params_total", "params_non_embedding")
_RUN = tuple(
    (
        "run_id name role study recipe arm size width depth parametrization state step N "
        "params_total params_non_embedding steps tokens_per_step D train_flops train_flops_6nd "
        "flops_per_token_train flops_per_token_6n flops_per_token_inference learning_rate "
        "weight_decay warmup_steps schedule batch_size seq_len vocab_size compute_dtype "
        "arithmetic seed data_seed parent parent_step root corpus tokenizer spec_hash created "
        "machine error"
    ).split()
)
_POINT = tuple(
    (
        "run_id root role size state step N D C C_6nd domain loss loss_se bits_per_byte windows "
        "tokens_evaluated decayed learning_rate seed data_seed arithmetic"
    ).split()
)
_OF_RUN = "run_id root role size state N learning_rate seed data_seed arithmetic".split()
_FLOPS = ("flops_per_token_train", "flops_per_token_6n", "flops_per_token_inference")
_HYPER = ("learning_rate", "weight_decay", "warmup_steps", "seed", "data_seed")
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

    runs: a row a run. N is the count of parameters named by `n`; D are the planned tokens (the
    parent's included); train_flops is D times the counted FLOPs per token; train_flops_6nd is 6
    N_non-embedding D as recorded.
    points: a row an evaluation (run, step, domain): N, D tokens seen, C train FLOPs so far, loss in
    nats per token, loss_se, bits_per_byte.
    train: training rows. timing: wall-clock rows (seconds). excluded: run_id, step, domain, reason.
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
    """Read `<workdir>/runs/*`; whatever cannot be read is listed in `excluded`.

    Args:
        workdir: a local folder, or a `gs://` address.
        n: the count used as N in every fit: all parameters (the default, embeddings included) or
            `params_non_embedding`.

    Raises:
        UserError: when the directory does not exist or `n` is unknown.
    """
    if n not in COUNTS:
        raise UserError(f"n={n!r}: unknown parameter count; use one of {', '.join(COUNTS)}")
    root = _path(workdir)
    if not root.exists():
        raise UserError(
            f"workdir={str(workdir)!r}: does not exist; run `stepladder run --workdir={workdir}` "
            "first"
        )
    excluded: list[Row] = []
    folders = _folders(root)
    started = {folder.name for folder in folders}
    planned = (_json(root / record.LADDER) or {}).get("runs", [])
    excluded += [
        exclusion(run, "planned by the ladder, not started")
        for run in planned
        if run not in started
    ]
    runs, evals, trains, timings = [], [], [], []
    for folder in folders:
        run = _run(folder, n, excluded)
        if run is None:
            continue
        runs.append(run)
        if run["state"] in STATE_REASONS:
            why = STATE_REASONS[run["state"]] + (f": {run['error']}" if run["error"] else "")
            excluded.append(exclusion(run["run_id"], why, run["step"]))
        rows = metric_rows(folder, run["run_id"], excluded)
        evals += [_point(run, row) for row in rows if row["kind"] == record.EVAL]
        trains += [{**run, **row} for row in rows if row["kind"] == record.TRAIN]
        timings += [{**run, **row} for row in rows if row["kind"] == record.TIMING]
    _roots(runs, evals, excluded)
    points = _table(evals, _POINT)
    finite = np.isfinite(points["loss"].to_numpy())
    excluded += [
        exclusion(p["run_id"], f"loss is {p['loss']}", p["step"], p["domain"])
        for p in points[~finite].to_dict("records")
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


def _folders(root: Any) -> list[Any]:
    """The folders of the runs, by name."""
    runs = root / record.RUNS
    found = [p for p in runs.iterdir() if p.is_dir()] if runs.exists() else []
    return sorted(found, key=lambda p: p.name)


def _table(rows: list[Row], columns: tuple[str, ...]) -> pd.DataFrame:
    """A table of `columns`, whose types are the same whether it has rows or not.

    (An empty mask of objects would select columns.)
    """
    table = pd.DataFrame(rows, columns=list(columns))
    return table.astype({name: kind for name, kind in DTYPES.items() if name in columns})


def _path(workdir: str | Path) -> Any:
    """A local path, or an epath for `gs://` and friends."""
    if "://" in str(workdir):
        from etils import epath

        return epath.Path(workdir)
    return Path(workdir)


def _json(path: Any) -> Row | None:
    try:
        body = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return body if isinstance(body, dict) else None


def _run(folder: Any, n: str, excluded: list[Row]) -> Row | None:
    """One row of `runs`, or None with the reason listed."""
    spec, lineage, status = (
        _json(folder / name) for name in (record.SPEC, record.LINEAGE, record.STATUS)
    )
    if spec is None:
        excluded.append(exclusion(folder.name, f"{record.SPEC} is missing or unreadable"))
        return None
    if lineage is None:
        why = f"{record.LINEAGE} is missing or unreadable: no parameter count to fit with"
        excluded.append(exclusion(folder.name, why))
        return None
    if status is None:
        why = f"{record.STATUS} is missing or unreadable: taken as {record.PENDING}"
        excluded.append(exclusion(folder.name, why))
    try:
        return {
            "run_id": folder.name,
            "root": folder.name,
            **_state(status or {}),
            **_planned(spec),
            "arithmetic": arithmetic_of(spec, lineage),
            **_counted(lineage, n),
            **_flops(spec, lineage),
        }
    except (KeyError, TypeError, ValueError) as error:
        excluded.append(
            exclusion(folder.name, f"{record.SPEC} or {record.LINEAGE} lacks a field: {error}")
        )
        return None


def _state(status: Row) -> Row:
    return {
        "state": status.get("state", record.PENDING),
        "step": status.get("step", 0),
        "error": status.get("reason") or "",
    }


def _planned(spec: Row) -> Row:
    """What the spec says of a run."""
    model, hyper, tags = spec["model"], spec["hyper"], dict(spec.get("tags", ()))
    parent, tokens_per_step = spec.get("parent") or {}, _tokens_per_step(spec)
    return {
        "name": spec["name"],
        **{name: tags.get(name, "") for name in ("role", "study", "recipe", "arm")},
        "compute_dtype": model.get("compute_dtype", ""),
        "size": model["size"],
        "width": model["d_model"],
        "depth": model["n_layers"],
        "parametrization": model.get("parametrization", "standard"),
        "steps": spec["steps"],
        "tokens_per_step": tokens_per_step,
        "D": spec["steps"] * tokens_per_step,
        **{name: hyper[name] for name in _HYPER},
        "schedule": spec["optimizer"]["schedule"],
        "batch_size": spec["batch_size"],
        "seq_len": spec["data"]["seq_len"],
        "vocab_size": model["vocab_size"],
        "parent": parent.get("run_id"),
        "parent_step": parent.get("step"),
        "corpus": spec["data"]["corpus"]["name"],
    }


def _tokens_per_step(spec: Row) -> int:
    return spec["batch_size"] * spec["data"]["seq_len"]


def _counted(lineage: Row, n: str) -> Row:
    """What the lineage says of a run."""
    return {
        "N": lineage[n],
        **{name: lineage[name] for name in (*COUNTS, *_FLOPS)},
        "tokenizer": lineage.get("tokenizer"),
        "spec_hash": lineage.get("spec_hash"),
        "created": lineage.get("created_utc"),
        "machine": lineage.get("machine"),
    }


def _flops(spec: Row, lineage: Row) -> Row:
    """FLOPs of the whole training."""
    planned = spec["steps"] * _tokens_per_step(spec)
    return {
        "train_flops": planned * lineage["flops_per_token_train"],
        "train_flops_6nd": planned * lineage["flops_per_token_6n"],
    }


def _point(run: Row, row: Row) -> Row:
    return {
        **{k: run[k] for k in _OF_RUN},
        **{k: row.get(k, math.nan) for k in ("step", *record.FIELDS[record.EVAL])},
        "loss": math.nan if row["loss"] is None else row["loss"],
        "D": row["tokens"],
        "decayed": bool(row["decayed"]),
        "C": row["tokens"] * run["flops_per_token_train"],
        "C_6nd": row["tokens"] * run["flops_per_token_6n"],
    }


def _roots(runs: list[Row], points: list[Row], excluded: list[Row]) -> None:
    """Set `root`, the oldest ancestor, of runs and points.

    A trunk and its branches share their noise, and resampling keeps them together.
    """
    parents = {r["run_id"]: r["parent"] for r in runs}
    for run in runs:
        root, seen = run["run_id"], set()
        while parents.get(root) and root not in seen:
            seen.add(root)
            root = parents[root]
        run["root"] = root
        if run["parent"] and run["parent"] not in parents:
            why = (
                f"parent of {run['run_id']} has no readable record: the branch stands, its trunk "
                "does not"
            )
            excluded.append(exclusion(run["parent"], why))
    roots = {r["run_id"]: r["root"] for r in runs}
    for point in points:
        point["root"] = roots[point["run_id"]]
