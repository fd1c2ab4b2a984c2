"""The study's table, from the records of a working directory.

Pretrained models are runs with the tag study "overtraining" and an arm. Noise and quantisation come
from their probe files, fine-tuning from their child runs with the tags branch "finetune" and task.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stepladder.analysis.records.load import STATE_REASONS, Runs, load
from stepladder.analysis.studies.overtraining.changes import ARMS, FINETUNE, NO_DECAY
from stepladder.analysis.studies.overtraining.measures import Row
from stepladder.analysis.studies.overtraining.read_table import EXCLUDED, NEEDED, OPTIONAL
from stepladder.configs.core import record
from stepladder.configs.core.errors import UserError

STUDY = "overtraining"
PROBE = "perturbation-*.json"
FLOORS = Path(record.STUDIES) / STUDY / "floors.json"  # {"bigram": nats, "5gram": nats}
ALL, MATRICES = "all", "matrices"
COLUMNS = ("run_id", "seed", *NEEDED, *OPTIONAL)


@dataclass(frozen=True)
class Inputs:
    """What `study` takes: the table (columns COLUMNS), and what was left out of it (EXCLUDED)."""

    table: pd.DataFrame
    excluded: pd.DataFrame
    notes: tuple[str, ...]


def read(workdir: str | Path) -> Inputs:
    """The changed models in a working directory, a row each.

    A checkpoint counts where its schedule has come to its end; those of the arm "no_decay" always
    do. Floors are read from FLOORS where that file is there.

    Raises:
        UserError: when no pretrained model of the study has a changed copy.
    """
    runs = load(workdir)
    tags = {r: _tags(Path(workdir), r) for r in runs.runs["run_id"]}
    table = {r["run_id"]: r for r in runs.runs.to_dict("records")}
    losses = _losses(runs)
    rows: list[Row] = []
    left: list[Row] = []
    for run_id, run in table.items():
        tag = tags[run_id]
        if tag.get("branch") == FINETUNE:
            _finetuned(run, tag.get("task", ""), table, tags, losses, rows, left)
        elif run["study"] == STUDY:
            _probed(Path(workdir), run, losses, rows, left)
    used = {r["run_id"] for r in (*rows, *left)} | {table[r["run_id"]]["parent"] for r in rows}
    left += [
        _left(run, "no probe of perturbations and no fine-tuned child", D=run["D"])
        for run_id, run in table.items()
        if run["study"] == STUDY and tags[run_id].get("branch") != FINETUNE and run_id not in used
    ]
    mine = used | {r["run_id"] for r in left}
    others = sum(run_id not in mine for run_id in table)
    notes = [f"{others} of {len(table)} runs of the workdir are not the study's"] if others else []
    if not rows:
        why = f": {left[0]['run_id']}: {left[0]['reason']}" if left else ""
        raise UserError(
            f"workdir={str(workdir)!r}: no changed model of the study {STUDY}{why}; run its ladder "
            "and its probes first, or give --table=FILE"
        )
    known = runs.excluded[
        runs.excluded["run_id"].isin(mine)
        & ~runs.excluded["reason"].str.startswith(tuple(STATE_REASONS.values()))
    ]
    floors, said = _floors(Path(workdir))
    frame = pd.DataFrame(rows, columns=list(COLUMNS)).assign(**floors)
    return Inputs(
        frame,
        pd.concat(
            [pd.DataFrame(left, columns=list(EXCLUDED)), known.reindex(columns=list(EXCLUDED))],
            ignore_index=True,
        ),
        (*notes, *said),
    )


def _losses(runs: Runs) -> dict[tuple[str, int], dict[str, Row]]:
    """Run and step -> domain -> its evaluation."""
    out: dict[tuple[str, int], dict[str, Row]] = {}
    for row in runs.points.to_dict("records"):
        out.setdefault((row["run_id"], int(row["step"])), {})[row["domain"]] = {
            str(k): v for k, v in row.items()
        }
    return out


def _left(run: Mapping[Any, Any], reason: str, **more: object) -> Row:
    known = {"run_id": run["run_id"], "N": run["N"], "seed": run["seed"], "arm": run["arm"]}
    return {**dict.fromkeys(EXCLUDED, np.nan), **known, **more, "reason": reason}


def _probed(
    workdir: Path,
    run: Mapping[Any, Any],
    losses: Mapping[tuple[str, int], Mapping[str, Row]],
    rows: list[Row],
    left: list[Row],
) -> None:
    """The rows of a pretrained model's probe files."""
    if run["arm"] not in ARMS:
        left.append(_left(run, f"arm {run['arm']!r} is none of {', '.join(ARMS)}"))
        return
    if run["state"] != record.DONE:
        left.append(_left(run, _state(run), D=run["D"]))
        return
    paths = sorted((workdir / record.RUNS / run["run_id"] / record.PROBES).glob(PROBE))
    for path in paths:
        body = _json(path)
        try:
            if body is None:
                raise ValueError("no object of JSON")
            step, tokens = int(body["step"]), float(body["tokens"])
            seen = losses.get((run["run_id"], step), {}).get(ALL, {})
            decayed = seen.get("decayed", step == run["steps"])
            if run["arm"] != NO_DECAY and not decayed:
                left.append(
                    _left(run, "a checkpoint whose learning rate had not decayed", D=tokens)
                )
                continue
            rows += list(_of_probe(run, body, tokens))
        except (KeyError, TypeError, ValueError) as error:
            left.append(_left(run, f"probe {path.name}: unreadable ({error})"))


def _of_probe(run: Mapping[Any, Any], body: Row, tokens: float) -> Iterator[Row]:
    """The rows of one probe file; every one has all fields, so a broken file gives none."""
    base: Row = {
        "run_id": run["run_id"],
        "N": run["N"],
        "D": tokens,
        "seed": run["seed"],
        "arm": run["arm"],
        "base_loss": _loss(body["base"]),
    }
    curvature = body.get("curvature") or {}
    of = curvature.get("tensors")  # which tensors the trace is over; not in older files
    found = []
    for entry in body.get("noise", ()):
        tensors = str(entry["tensors"])
        same = entry["scale"] == "init" and of in (None, tensors)
        traces = ("trace_sigma", "trace_sigma_se") if same else ()
        found.append(
            base
            | {
                "change": f"noise:{entry['scale']}:{tensors}",
                "strength": float(entry["gamma"]),
                "draw": int(entry["draw"]),
                "loss": _loss(entry["loss"]),
            }
            | {name: curvature.get(name) for name in traces}
        )
    for entry in body.get("quantised", ()):
        tensors = str(entry.get("tensors", MATRICES))
        name = f"int{int(entry['bits'])}" + ("" if tensors == MATRICES else f":{tensors}")
        strength = float(entry["bits"])
        found.append(base | {"change": name, "strength": strength, "loss": _loss(entry["loss"])})
    yield from found


def _loss(by_domain: Mapping[str, float | None]) -> float:
    """The loss of all domains; JSON has no infinity, so null is a model that is destroyed."""
    value = by_domain[ALL]
    return np.inf if value is None else float(value)


def _finetuned(
    run: Mapping[Any, Any],
    task: str,
    table: Mapping[str, Mapping[Any, Any]],
    tags: Mapping[str, Mapping[str, str]],
    losses: Mapping[tuple[str, int], Mapping[str, Row]],
    rows: list[Row],
    left: list[Row],
) -> None:
    """The row of one fine-tuned child."""
    parent = table.get(run["parent"])
    if parent is not None and parent["study"] != STUDY:
        return  # of another study
    own = {"change": f"{FINETUNE}:{task}", "strength": run["learning_rate"]}
    if parent is None or not task:
        what = "its parent has no readable record" if parent is None else "it has no tag task"
        left.append(_left(run, f"fine-tuned run: {what}", **own))
        return
    step = int(run["parent_step"])
    own |= {"arm": parent["arm"], "seed": parent["seed"], "N": parent["N"]}
    own |= {"D": float(step * parent["tokens_per_step"])}
    if parent["state"] == record.DIVERGED:
        left.append(_left(run, "its parent diverged", **own))
        return
    if run["state"] not in (record.DONE, record.DIVERGED):
        left.append(_left(run, _state(run), **own))
        return
    base = losses.get((parent["run_id"], step), {}).get(ALL)
    if parent["arm"] != NO_DECAY and base is not None and not base["decayed"]:
        left.append(
            _left(run, "its parent's checkpoint had a learning rate not yet decayed", **own)
        )
        return
    row: Row = {"run_id": run["run_id"], **own}
    row["base_loss"] = np.nan if base is None else base["loss"]
    after = losses.get((run["run_id"], int(run["step"])), {})
    if run["state"] == record.DIVERGED:
        row |= {"loss": np.inf, "tuned_loss": np.inf}
    else:
        on_task = after.get(f"task:{task}")
        row["loss"] = after[ALL]["loss"] if ALL in after else np.nan
        row["loss_se"] = after[ALL]["loss_se"] if ALL in after else np.nan
        row["tuned_loss"] = np.nan if on_task is None else on_task["loss"]
        if on_task is None:
            why = f"no evaluation of task:{task} at its last step: tuned_loss is empty"
            left.append(_left(run, why, **own))
    rows.append(row)


def _state(run: Mapping[Any, Any]) -> str:
    if run["state"] == record.DIVERGED:
        return "the pretrained model diverged"
    return STATE_REASONS.get(run["state"], f"state {run['state']}")


def _tags(workdir: Path, run_id: str) -> dict[str, str]:
    """The tags of a run's spec."""
    spec = _json(workdir / record.RUNS / run_id / record.SPEC) or {}
    return {str(name): str(value) for name, value in spec.get("tags", ())}


def _floors(workdir: Path) -> tuple[dict[str, float], list[str]]:
    path = workdir / FLOORS
    if not path.exists():
        return {}, []
    body = _json(path)
    try:
        if body is None:
            raise ValueError("no object of JSON")
        return {f"floor_{name}": float(body[name]) for name in ("bigram", "5gram")}, []
    except (KeyError, TypeError, ValueError) as error:
        return {}, [f"{FLOORS} is unreadable ({error}); delete it and repeat the probe"]


def _json(path: Path) -> Row | None:
    """The object in a file, or None when it cannot be read."""
    try:
        body = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return body if isinstance(body, dict) else None
