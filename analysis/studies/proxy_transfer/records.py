"""The study's table, n-gram baselines and probes, from the records of a working directory."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from stepladder.analysis.records.final_points import final_points
from stepladder.analysis.records.load import STATE_REASONS, Runs, load
from stepladder.analysis.studies.proxy_transfer.measures import Row
from stepladder.analysis.studies.proxy_transfer.prepare import Ngrams
from stepladder.analysis.studies.proxy_transfer.read_table import EXCLUDED, MAIN, PROXY, TARGET
from stepladder.analysis.tables.checks import joined
from stepladder.configs.core import record
from stepladder.configs.core.errors import UserError

STUDY = "proxy_transfer"
NGRAMS = Path(record.STUDIES) / STUDY / "ngrams.json"


@dataclass(frozen=True)
class Inputs:
    """What `study` takes.

    Attributes:
        table: a row a run and domain, losses in nats per token.
        excluded: columns EXCLUDED of read_table.py.
        warnings: recipes that are one under two names.
    """

    table: pd.DataFrame
    ngrams: Ngrams | None
    probes: list[Row]
    excluded: pd.DataFrame
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


def read(workdir: str | Path) -> Inputs:
    """The study's runs in a working directory, with the loss of each at its end by domain.

    They are the runs with the tag study "proxy_transfer"; without any, those with a recipe. The
    loss is that of the last evaluation after the learning rate decayed; a diverged run has the loss
    infinity in every domain. The initial loss is that of an evaluation at step 0, else the
    logarithm of the vocabulary.

    Raises:
        UserError: when no run of the study has finished with a loss.
    """
    runs = load(workdir)
    table, others = runs.runs, []
    mine = table["study"] == STUDY
    if not mine.any():
        mine = table["recipe"] != ""
    others.append(_exclude(table[~mine], "another study's run"))
    role = table["role"].isin([PROXY, TARGET])
    others.append(_exclude(table[mine & ~role], "its role is neither proxy nor target"))
    mine &= role
    unfinished = mine & table["state"].isin([s for s in STATE_REASONS if s != record.DIVERGED])
    others.append(_exclude(table[unfinished], table[unfinished]["state"].map(STATE_REASONS)))
    kept = table[mine & ~unfinished]
    if not len(kept):
        raise UserError(
            f"workdir={str(workdir)!r}: no finished run of the study {STUDY}; run its ladder "
            "first, or give --table=FILE"
        )
    rows = _losses(runs, kept)
    silent = kept[~kept["run_id"].isin({r["run_id"] for r in rows})]
    others.append(_exclude(silent, "finished without a decayed evaluation"))
    if not rows:
        raise UserError(
            f"workdir={str(workdir)!r}: no run of the study {STUDY} has a decayed evaluation; let "
            "them finish"
        )
    # Of the loader's own list, what concerns these runs and is not said above: unreadable rows,
    # repeated steps, losses that are no numbers.
    known = runs.excluded[
        runs.excluded["run_id"].isin(set(kept["run_id"]))
        & ~runs.excluded["reason"].str.startswith(tuple(STATE_REASONS.values()))
    ]
    others.append(known.reindex(columns=list(EXCLUDED)))
    excluded = joined(others)
    notes = (
        [f"{int((~mine).sum())} of {len(table)} runs of the workdir are not the study's"]
        if (~mine).any()
        else []
    )
    ngrams = Path(workdir) / NGRAMS
    if ngrams.exists() and _json(ngrams) is None:
        notes.append(f"{NGRAMS} is unreadable; delete it and repeat `stepladder run`")
    probes, said = _probes(Path(workdir), list(table[mine]["run_id"]))
    return Inputs(
        pd.DataFrame(rows),
        _json(ngrams),
        probes,
        excluded,
        (*notes, *said),
        tuple(_same_data(Path(workdir), kept)),
    )


def _losses(runs: Runs, kept: pd.DataFrame) -> list[Row]:
    """A row a run and domain that has a loss."""
    columns = tuple(
        "run_id recipe size N D learning_rate weight_decay batch_size seed role steps state".split()
    )
    start = runs.points[runs.points["step"] == 0].set_index(["run_id", "domain"])["loss"].to_dict()
    domains = sorted(runs.points["domain"].unique())
    last = {d: final_points(runs, domain=d, roles={})[0].set_index("run_id") for d in domains}
    rows = []
    for run in kept.to_dict("records"):
        run_id = run["run_id"]
        base = {name: run[name] for name in columns} | {
            "arm": run["arm"] or MAIN,
            "precision": run["compute_dtype"],
        }
        for domain in domains:
            first = start.get((run_id, domain), math.log(run["vocab_size"]))
            if run["state"] == record.DIVERGED:
                rows.append({**base, "domain": domain, "loss": np.inf, "loss_init": first})
            elif run_id in last[domain].index:
                point = last[domain].loc[run_id]
                rows.append(
                    {
                        **base,
                        "domain": domain,
                        "loss": float(point["loss"]),
                        "loss_se": float(point["loss_se"]),
                        "loss_init": first,
                    }
                )
    return rows


def _exclude(rows: pd.DataFrame, reason: str | pd.Series) -> pd.DataFrame:
    """Runs as rows of `excluded`; one reason for all, or one for each."""
    return rows.assign(reason=reason, domain="").reindex(columns=list(EXCLUDED))


def _probes(workdir: Path, run_ids: list[str]) -> tuple[list[Row], list[str]]:
    """All alignment files of these runs, and the unreadable ones by name."""
    found, notes = [], []
    for run_id in run_ids:
        folder = workdir / record.RUNS / run_id / record.PROBES
        for path in sorted(folder.glob("alignment-*.json")):
            body = _json(path)
            if body is None:
                notes.append(f"probe {run_id}/{path.name}: unreadable")
            else:
                found.append(body)
    return found, notes


def _same_data(workdir: Path, kept: pd.DataFrame) -> list[str]:
    """Warnings of recipes with the same weights over the same prepared domains."""
    seen: dict[str, str] = {}
    said = []
    for recipe, rows in kept.groupby("recipe", sort=True):
        spec = _json(workdir / record.RUNS / rows["run_id"].iloc[0] / record.SPEC) or {}
        data = spec.get("data") or {}
        body = json.dumps(
            [sorted(map(list, data.get("weights", ()))), data.get("corpus")], sort_keys=True
        )
        if body in seen:
            said.append(
                f"recipes {seen[body]!r} and {recipe!r} have the same domain weights and corpus: "
                "one recipe under two names"
            )
        seen.setdefault(body, str(recipe))
    return said


def _json(path: Path) -> Row | None:
    """The object in a file, or None when it cannot be read."""
    try:
        body = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return body if isinstance(body, dict) else None
