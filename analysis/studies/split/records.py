"""The study's table, from the records of a working directory.

Experts are runs with the tags study "split", role "expert" and own, dense models those with role
"dense". Trunks are not decayed: they are no models of the study, and are not listed as left out.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stepladder.analysis.records.load import STATE_REASONS, Runs, load
from stepladder.analysis.studies.split.measures import Row
from stepladder.analysis.studies.split.read_table import ARMS, DENSE, EXCLUDED, ORACLE, PREFIX
from stepladder.configs.core import record
from stepladder.configs.core.errors import UserError

STUDY = "split"
TRUNK, EXPERT = "trunk", "expert"
FLOORS = Path(record.STUDIES) / STUDY / "floors.json"  # by_domain: order -> domain -> nats
ROUTED = Path(record.STUDIES) / STUDY / "routing"  # a file a set of experts
COLUMNS = (
    "run_id",
    "N",
    "D",
    "D2",
    "domain",
    "own",
    "arm",
    "seed",
    "K",
    "loss",
    "loss_se",
    "router",
    "oracle_loss",
    "floor_bigram",
    "floor_5gram",
)


@dataclass(frozen=True)
class Inputs:
    """What `study` takes: the table (columns COLUMNS), and what was left out of it (EXCLUDED)."""

    table: pd.DataFrame
    excluded: pd.DataFrame
    notes: tuple[str, ...]


def read(workdir: str | Path) -> Inputs:
    """The evaluations of the last step of every expert and dense model.

    D of an expert are the tokens of its trunk up to the branch, 0 without a trunk; D2 are its own.
    Floors of counting n-grams are read from FLOORS where that file is there, rows of the prefix
    router from the files in ROUTED.

    Raises:
        UserError: when no expert of the study is finished.
    """
    runs = load(workdir)
    table = {r["run_id"]: r for r in runs.runs.to_dict("records")}
    last = _last_rows(runs)
    rows: list[Row] = []
    left: list[Row] = []
    mine = {run_id for run_id, run in table.items() if run["study"] == STUDY}
    trunks = {run_id for run_id in mine if table[run_id]["role"] == TRUNK}
    for run_id in sorted(mine - trunks):
        _add(table[run_id], _tags(Path(workdir), run_id), table, last, rows, left)
    known = runs.excluded[
        runs.excluded["run_id"].isin(mine - trunks)
        & ~runs.excluded["reason"].str.startswith(tuple(STATE_REASONS.values()))
    ]
    started = set(table)
    planned = runs.excluded[~runs.excluded["run_id"].isin(started)]
    notes = [f"{len(trunks)} trunks are not decayed: they are no models of the study"]
    if others := len(table) - len(mine):
        notes.append(f"{others} of {len(table)} runs of the workdir are not the study's")
    if not any(r["own"] for r in rows):
        why = f": {left[0]['run_id']}: {left[0]['reason']}" if left else ""
        raise UserError(
            f"workdir={str(workdir)!r}: no finished expert of the study {STUDY}{why}; run its "
            "ladder first (configs/studies/split.py), or give --table=FILE"
        )
    routed, unread = _routed(Path(workdir), rows)
    notes += unread
    frame = pd.DataFrame([*rows, *routed], columns=list(COLUMNS))
    floors, said = _floors(Path(workdir), frame["domain"])
    parts = [pd.DataFrame(left, columns=list(EXCLUDED))]
    parts += [part.reindex(columns=list(EXCLUDED)) for part in (known, planned)]
    return Inputs(
        frame.assign(**floors),
        pd.concat([p for p in parts if len(p)] or parts[:1], ignore_index=True),
        (*(notes if trunks else notes[1:]), *said),
    )


def _last_rows(runs: Runs) -> dict[tuple[str, int], list[Row]]:
    """Run and step -> its evaluations."""
    out: dict[tuple[str, int], list[Row]] = {}
    for row in runs.points.to_dict("records"):
        out.setdefault((row["run_id"], int(row["step"])), []).append(
            {str(k): v for k, v in row.items()}
        )
    return out


def _add(
    run: Mapping[Any, Any],
    tags: Mapping[str, str],
    table: Mapping[str, Mapping[Any, Any]],
    last: Mapping[tuple[str, int], list[Row]],
    rows: list[Row],
    left: list[Row],
) -> None:
    """The rows of one run, or why there are none."""
    own = tags.get("own", "")
    expert = run["role"] == EXPERT
    # The cooldown of any trunk is a dense model, whatever the arm of that trunk.
    arm = run["arm"] if expert else DENSE
    base: Row = {"run_id": run["run_id"], "N": run["N"], "own": own, "arm": arm}
    base |= {"seed": run["seed"], "router": ORACLE}

    def leave(reason: str, **more: object) -> None:
        left.append({**dict.fromkeys(EXCLUDED, np.nan), **base, **more, "reason": reason})

    if run["role"] not in (EXPERT, DENSE):
        return leave(f"role {run['role']!r} is none of {TRUNK}, {DENSE}, {EXPERT}")
    if expert and not own:
        return leave("an expert without the tag own, its domain")
    if arm not in ARMS:
        return leave(f"arm {arm!r} is none of {', '.join(ARMS)}")
    if run["state"] != record.DONE:
        return leave(STATE_REASONS.get(run["state"], f"state {run['state']}"))
    total, general = float(run["D"]), float(run["D"])
    if expert:
        begun = isinstance(run["parent"], str)  # else it started from nothing
        parent = table.get(run["parent"]) if begun else None
        if begun and parent is None:
            return leave("its trunk has no readable record: how many tokens it read is not known")
        general = float(run["parent_step"] * parent["tokens_per_step"]) if parent else 0.0
        if parent is not None:
            own_steps = run["steps"] - run["parent_step"]
            total = general + float(own_steps * run["tokens_per_step"])
    base |= {"D": general, "D2": total - general, "K": float(tags.get("K") or "nan")}
    found = last.get((run["run_id"], int(run["steps"])), [])
    if not found:
        return leave("no evaluation at its last step")
    for row in found:
        if not row["decayed"]:
            leave("its learning rate had not decayed", domain=row["domain"])
            continue
        rows.append(base | {k: row[k] for k in ("domain", "loss", "loss_se")})
    return None


def _tags(workdir: Path, run_id: str) -> dict[str, str]:
    """The tags of a run's spec."""
    spec = _json(workdir / record.RUNS / run_id / record.SPEC) or {}
    return {str(name): str(value) for name, value in spec.get("tags", ())}


def _routed(workdir: Path, rows: list[Row]) -> tuple[list[Row], list[str]]:
    """What the probes of routing measured, a row an expert's domain; and files that say nothing.

    Their losses are of the tokens after the prefix, so the expert's own loss on these is a column.
    """
    on_own = {r["run_id"]: r for r in rows if r["own"] == r["domain"]}
    found: list[Row] = []
    said: list[str] = []
    for path in sorted((workdir / ROUTED).glob("*.json")):
        name = path.relative_to(workdir)
        try:
            body = _json(path)
            if body is None:
                raise ValueError("no object of JSON")
            experts, measured = body["experts"], body["rows"]
            new = [
                on_own[experts[row["domain"]]]
                | {"router": PREFIX, "loss": row[PREFIX], "loss_se": row[f"{PREFIX}_se"]}
                | {"oracle_loss": row[ORACLE]}
                for row in measured
                if experts[row["domain"]] in on_own
            ]
        except (KeyError, TypeError, ValueError) as error:
            said.append(f"{name} is unreadable ({error!r}); delete it and repeat the probe")
            continue
        if len(new) < len(measured):
            said.append(f"{name}: {len(measured) - len(new)} of its experts are not in the table")
        found += new
    return found, said


def _floors(workdir: Path, domains: pd.Series) -> tuple[dict[str, pd.Series], list[str]]:
    """The losses of counting n-grams for each row's domain."""
    path = workdir / FLOORS
    if not path.exists():
        return {}, []
    body = _json(path)
    try:
        if body is None:
            raise ValueError("no object of JSON")
        orders = {name: dict(body["by_domain"][name]) for name in ("bigram", "5gram")}
        return {f"floor_{k}": domains.map(v).astype(float) for k, v in orders.items()}, []
    except (KeyError, TypeError, ValueError) as error:
        return {}, [f"{FLOORS} is unreadable ({error}); delete it and repeat the probe"]


def _json(path: Path) -> Row | None:
    """The object in a file, or None when it cannot be read."""
    try:
        body = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return body if isinstance(body, dict) else None
