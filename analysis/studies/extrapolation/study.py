"""Everything the report says, as one dictionary: results.json is this, and the page shows it."""

import dataclasses
import datetime
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stepladder.analysis.fit.fit import fit
from stepladder.analysis.fit.result import Fit, from_dict
from stepladder.analysis.records.arithmetic import refuse_mixed
from stepladder.analysis.records.final_points import checkpoint_points, final_points
from stepladder.analysis.records.load import Runs, load
from stepladder.analysis.report.jsonable import Results, plain
from stepladder.analysis.studies.extrapolation.forecast_file import read_forecasts, read_refusals
from stepladder.analysis.studies.learning_rate.curves import curves
from stepladder.analysis.tables.checks import joined
from stepladder.configs.core import record
from stepladder.configs.core.errors import UserError
from stepladder.configs.core.goodput import goodput

PROXY_COLUMNS = ("run_id", "size", "N", "D", "C", "loss", "loss_se", "seed")
RUN_COLUMNS = tuple(
    (
        "run_id role size params_total params_non_embedding D train_flops train_flops_6nd "
        "learning_rate weight_decay batch_size steps seed data_seed parent parent_step state step "
        "spec_hash created"
    ).split()
)


@dataclass(frozen=True)
class Extrapolation:
    """`results` is JSON-able; the rest are the tables the figures need."""

    results: dict[str, Any]
    runs: Runs
    proxies: pd.DataFrame  # final decayed points of the proxies


def study(workdir: str | Path, *, n: str = "params_total") -> Extrapolation:
    """Load a workdir and work out what can be said about it now.

    Args:
        workdir: the folder that holds the records.
        n: the count of parameters that is N: "params_total" or "params_non_embedding".

    Returns:
        The numbers; what cannot be said stands in `missing` of them, each with its reason.

    Raises:
        UserError: when `workdir` does not exist.
    """
    runs = load(workdir, n=n)
    proxies, left = final_points(runs)
    entries = [_with_truth(entry, runs) for entry in read_forecasts(workdir)]
    missing = _missing(runs, entries, read_refusals(workdir))
    law = entries[-1]["fit"] if entries else _law(proxies, "law", missing)
    undecayed = checkpoint_points(runs)
    other = _law(undecayed, "law of undecayed checkpoints", missing) if len(undecayed) else None
    found, outside = curves(runs)
    if not found:
        missing.append("learning-rate curves: no size has three learning rates at one duration")
    excluded = joined([runs.excluded, left])
    states = {str(k): int(v) for k, v in runs.runs["state"].value_counts().items()}
    body = {
        "generated_utc": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "workdir": str(workdir),
        "n": n,
        "states": states,
        "runs": runs.runs[list(RUN_COLUMNS)].to_dict("records"),
        "forecasts": entries,
        "law": law,
        "law_undecayed": other,
        "proxies": proxies[list(PROXY_COLUMNS)].to_dict("records"),
        "learning_rate": [dataclasses.asdict(c) for c in found],
        "timing": _timing(runs, Path(workdir)),
        "excluded": excluded.to_dict("records"),
        "excluded_from_curves": len(outside),
        "missing": missing,
    }
    return Extrapolation(plain(body), runs, proxies)


def _missing(runs: Runs, entries: list[dict[str, Any]], refused: list[dict[str, Any]]) -> list[str]:
    """What the records do not hold yet, each with its reason."""
    missing = []
    if not len(runs.runs):
        missing.append("runs: none has a readable record yet")
    missing += [
        f"forecast of {r['target_run_id']}: refused at {r['written_utc']}, before its step 0: "
        f"{r['reason']}"
        for r in refused
    ]
    if not entries and not refused:
        missing.append(
            "forecast: none was written yet; `stepladder run` writes it once all proxies are done, "
            "before the target starts"
        )
    if not (runs.runs["role"] == "target").any():
        missing.append("target: has no record yet")
    return missing + [
        f"truth of {e['target_run_id']}: {e['truth_reason']}" for e in entries if e["truth"] is None
    ]


def _law(points: pd.DataFrame, name: str, missing: list[str]) -> dict[str, Any] | None:
    """The law through `points`; where they do not support one None, and `missing` says why."""
    try:
        refuse_mixed(points)
        return fit(points, objective="squared_log").to_dict()
    except UserError as error:
        missing.append(f"{name}: {error}")
        return None


def law_of(results: dict[str, Any]) -> Fit | None:
    """The fitted law in `results` as an object that predicts."""
    body = results["law"]
    if body is None:
        return None
    return from_dict(body)


def ends(curves_found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The curves at the smallest and the largest size, each at its longest duration."""
    if not curves_found:
        return []
    sizes = sorted({c["N"] for c in curves_found})
    picked = []
    for n in dict.fromkeys((sizes[0], sizes[-1])):
        mine = [c for c in curves_found if c["N"] == n]
        picked.append(max(mine, key=lambda c: c["D"]))
    return picked


def _with_truth(entry: dict[str, Any], runs: Runs) -> dict[str, Any]:
    """The entry with the target's final loss, error and coverage, or why there is no truth yet."""
    run = runs.runs[runs.runs["run_id"] == entry["target_run_id"]]
    points = runs.points[(runs.points["run_id"] == entry["target_run_id"]) & runs.points["decayed"]]
    last = points[points["step"] == points["step"].max()]
    whole = last[last["domain"] == "all"]
    state = run["state"].iloc[0] if len(run) else record.PENDING
    out = entry | {
        "target_state": state,
        "target_created": run["created"].iloc[0] if len(run) else None,
        "truth": None,
        "truth_reason": _no_truth(state),
    }
    if state != record.DONE or not len(whole):
        return out
    loss = float(whole["loss"].iloc[0])
    known = [b | {"error": _error(b["prediction"], loss)} for b in entry["baselines"]]
    return out | {
        "truth": loss,
        "truth_reason": "",
        "truth_se": float(whole["loss_se"].iloc[0]),
        "error": entry["prediction"] / loss - 1,
        "covered": bool(entry["low"] <= loss <= entry["high"]),
        "baselines": known,
        "domains": _domains(entry.get("domains", {}), last[last["domain"] != "all"]),
    }


def _no_truth(state: str) -> str:
    """Why a target of that state has no final loss."""
    if state == record.DONE:
        return "the target finished without a decayed evaluation"
    return f"the target is {'not started' if state == record.PENDING else state}"


def _error(prediction: float | None, truth: float) -> float | None:
    return None if prediction is None else prediction / truth - 1


def _domains(forecasts: Results, last: pd.DataFrame) -> dict[str, Any]:
    """Forecast and truth of each domain, from the forecasts and the target's last evaluations."""
    seen = {row["domain"]: row for row in last.to_dict("records")}
    domains = {}
    for name in sorted({*forecasts, *seen}):
        row = domains[name] = dict(forecasts.get(name, {"reason": "not forecast"}))
        if name not in seen:
            continue
        truth = float(seen[name]["loss"])
        row |= {
            "truth": truth,
            "truth_se": float(seen[name]["loss_se"]),
            "bits_per_byte": float(seen[name]["bits_per_byte"]),
        }
        if row.get("prediction"):
            row |= {
                "error": row["prediction"] / truth - 1,
                "covered": bool(row["low"] <= truth <= row["high"]),
            }
    return domains


def _timing(runs: Runs, workdir: Path) -> dict[str, Any]:
    """Seconds by phase: of the last `run` command where it left its times, else of all runs.

    Rows of phase `window` carry throughput and overlap the phases, so they are no part of the sum.
    """
    phases = runs.timing[runs.timing["phase"] != record.WINDOW]
    of_phase = {str(k): float(v) for k, v in phases.groupby("phase")["seconds"].sum().items()}
    seconds, what = of_phase, "all runs"
    if command := _json(workdir / record.TIMES):
        seconds, what = command["seconds"], f"the last `run` command, {command['runs']} runs"
    total = sum(seconds.values())
    return {
        "of": what,
        "seconds": seconds,
        "total": total,
        "shares": {k: v / total for k, v in seconds.items()} if total else {},
        "throughput": _throughput(runs.timing),
        "goodput": goodput(of_phase) if len(phases) else None,
        "lost_steps": int(phases[phases["phase"] == record.LOST]["steps"].astype(float).sum()),
    }


def _json(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None when there is none, or it is damaged."""
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _throughput(timing: pd.DataFrame) -> list[dict[str, Any]]:
    """Tokens a second and MFU of each size, medians over the timing rows that have them."""
    known = timing[np.isfinite(timing["tokens_per_second"].astype(float))]
    return [
        {
            "size": str(rows["size"].iloc[0]),
            "N": float(rows["N"].iloc[0]),
            "tokens_per_second": float(rows["tokens_per_second"].median()),
            "mfu": _median(rows["mfu"]),
        }
        for _, rows in known.groupby(["N", "size"], sort=True)
    ]


def _median(column: pd.Series) -> float | None:
    values = column.astype(float)
    return float(values.median()) if np.isfinite(values).any() else None
