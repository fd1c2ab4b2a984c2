"""Everything the report says, as one JSON-able dictionary: results.json is this, and the page only
draws it.
"""

import dataclasses
import datetime
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from stepladder.analysis.fit.fit import fit
from stepladder.analysis.fit.result import Fit, from_dict
from stepladder.analysis.records.final_points import checkpoint_points, final_points
from stepladder.analysis.records.load import Runs, load
from stepladder.analysis.report.jsonable import plain
from stepladder.analysis.studies.extrapolation.forecast_file import read_forecasts, read_refusals
from stepladder.analysis.studies.learning_rate.curves import curves
from stepladder.analysis.tables.checks import joined
from stepladder.configs.core import record
from stepladder.configs.core.errors import UserError

RUN_COLUMNS = tuple(
    (
        "run_id role size params_total params_non_embedding D train_flops train_flops_6nd "
        "learning_rate weight_decay batch_size steps seed data_seed parent parent_step state step "
        "spec_hash created"
    ).split()
)


@dataclass(frozen=True)
class Collected:
    """`results` is JSON-able; the rest are the tables the figures need."""

    results: dict
    runs: Runs
    proxies: pd.DataFrame  # final decayed points of the proxies


def collect(workdir: str | Path, *, n: str = "params_total") -> Collected:
    """Load a workdir and work out what can be said about it now; what cannot stands in `missing`,
    each with its reason.
    """
    runs = load(workdir, n=n)
    proxies, left = final_points(runs)
    missing: list[str] = []
    if not len(runs.runs):
        missing.append("runs: none has a readable record yet")
    entries = [_with_truth(entry, runs) for entry in read_forecasts(workdir)]
    targets = runs.runs[runs.runs["role"] == "target"]["run_id"].tolist()
    refused = read_refusals(workdir)
    missing += [
        (
            f"forecast of {r['target_run_id']}: refused at {r['written_utc']}, before its step 0: "
            f"{r['reason']}"
        )
        for r in refused
    ]
    if not entries and not refused:
        missing.append(
            "forecast: none was written yet; `stepladder run` writes it once all proxies are done, "
            "before the target starts"
        )
    if not targets:
        missing.append("target: has no record yet")
    missing += [
        f"truth of {e['target_run_id']}: {e['truth_reason']}" for e in entries if e["truth"] is None
    ]
    law = None
    if entries:
        law = entries[-1]["fit"]
    else:
        try:
            law = fit(proxies, objective="squared_log").to_dict()
        except UserError as error:
            missing.append(f"law: {error}")
    undecayed = checkpoint_points(runs)
    try:
        other = fit(undecayed, objective="squared_log").to_dict() if len(undecayed) else None
    except UserError as error:
        other = None
        missing.append(f"law of undecayed checkpoints: {error}")
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
        "proxies": proxies[["run_id", "size", "N", "D", "C", "loss", "loss_se", "seed"]].to_dict(
            "records"
        ),
        "learning_rate": [dataclasses.asdict(c) for c in found],
        "timing": _timing(runs, Path(workdir)),
        "excluded": excluded.to_dict("records"),
        "excluded_from_curves": len(outside),
        "missing": missing,
    }
    return Collected(plain(body), runs, proxies)


def law_of(results: dict) -> Fit | None:
    """The fitted law in `results` as an object that predicts."""
    body = results["law"]
    if body is None:
        return None
    return from_dict(body)


def ends(curves_found: list[dict]) -> list[dict]:
    """The learning-rate curves at the smallest and the largest size (its longest duration each):
    the two that bracket the rule.
    """
    if not curves_found:
        return []
    sizes = sorted({c["N"] for c in curves_found})
    picked = []
    for n in dict.fromkeys((sizes[0], sizes[-1])):
        mine = [c for c in curves_found if c["N"] == n]
        picked.append(max(mine, key=lambda c: c["D"]))
    return picked


def _with_truth(entry: dict, runs: Runs) -> dict:
    """The entry with the target's final loss, error and coverage, or the reason why there is no
    truth yet.
    """
    run = runs.runs[runs.runs["run_id"] == entry["target_run_id"]]
    points = runs.points[(runs.points["run_id"] == entry["target_run_id"]) & runs.points["decayed"]]
    state = run["state"].iloc[0] if len(run) else record.PENDING
    out = entry | {
        "target_state": state,
        "target_created": run["created"].iloc[0] if len(run) else None,
        "truth": None,
        "truth_reason": "",
    }
    last = points[points["step"] == points["step"].max()] if len(points) else points
    whole = last[last["domain"] == "all"]
    if state != record.DONE or not len(whole):
        reason = {
            record.DONE: "finished without a decayed evaluation",
            record.PENDING: "not started",
        }.get(state, state)
        return out | {
            "truth_reason": f"the target is {reason}"
            if state != record.DONE
            else f"the target {reason}"
        }
    loss = float(whole["loss"].iloc[0])
    out |= {
        "truth": loss,
        "truth_se": float(whole["loss_se"].iloc[0]),
        "error": entry["prediction"] / loss - 1,
        "covered": bool(entry["low"] <= loss <= entry["high"]),
        "baselines": [
            b | {"error": b["prediction"] / loss - 1 if b["prediction"] is not None else None}
            for b in entry["baselines"]
        ],
    }
    seen = {r.domain: r for r in last.itertuples() if r.domain != "all"}
    domains = {
        d: dict(entry.get("domains", {}).get(d, {"reason": "not forecast"}))
        for d in sorted({*entry.get("domains", {}), *seen})
    }
    for name, row in domains.items():
        if name in seen:
            row |= {
                "truth": float(seen[name].loss),
                "truth_se": float(seen[name].loss_se),
                "bits_per_byte": float(seen[name].bits_per_byte),
            }
            if row.get("prediction"):
                row |= {
                    "error": row["prediction"] / row["truth"] - 1,
                    "covered": bool(row["low"] <= row["truth"] <= row["high"]),
                }
    return out | {"domains": domains}


def _timing(runs: Runs, workdir: Path) -> dict:
    """Seconds by phase: of the last `run` command where it left its times, else summed over the
    runs' own rows.

    Rows of phase `window` carry throughput and overlap the phases, so they are no part of the sum.
    """
    if (workdir / record.TIMES).exists():
        command = json.loads((workdir / record.TIMES).read_text())
        seconds, what = command["seconds"], f"the last `run` command, {command['runs']} runs"
    else:
        rows = runs.timing[runs.timing["phase"] != "window"]
        seconds = (
            {str(k): float(v) for k, v in rows.groupby("phase")["seconds"].sum().items()}
            if len(rows)
            else {}
        )
        what = "all runs"
    total = sum(seconds.values())
    phases = runs.timing[runs.timing["phase"] != record.WINDOW]
    lost = phases[phases["phase"] == record.LOST]["steps"].astype(float).sum()
    rates = runs.timing[np.isfinite(runs.timing["tokens_per_second"].astype(float))]
    by_size = [
        {
            "size": str(size),
            "N": float(n),
            "tokens_per_second": float(t["tokens_per_second"].median()),
            "mfu": _median(t["mfu"]),
        }
        for (n, size), t in rates.groupby(["N", "size"], sort=True)
    ]
    return {
        "of": what,
        "seconds": seconds,
        "total": total,
        "shares": {k: v / total for k, v in seconds.items()} if total else {},
        "throughput": by_size,
        "goodput": record.goodput(phases.groupby("phase")["seconds"].sum().to_dict())
        if len(phases)
        else None,
        "lost_steps": int(lost),
    }


def _median(column: pd.Series) -> float | None:
    values = column.astype(float)
    return float(values.median()) if np.isfinite(values).any() else None
