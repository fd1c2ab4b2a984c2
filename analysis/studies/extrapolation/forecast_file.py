"""forecast.json: what was forecast for a target, written once, before the target's step 0."""

import datetime
import json
from pathlib import Path
from typing import Any

from stepladder.analysis.records.load import Runs, load
from stepladder.analysis.studies.extrapolation.forecast import forecast
from stepladder.configs.core import record
from stepladder.configs.core.errors import UserError
from stepladder.configs.core.files import write_atomic


def read_forecasts(workdir: str | Path) -> list[dict[str, Any]]:
    """The entries of `<workdir>/forecast.json`, oldest first; empty when there is none.

    Raises UserError when it cannot be read.
    """
    return _read(workdir)["forecasts"]


def read_refusals(workdir: str | Path) -> list[dict[str, Any]]:
    """Targets that started without a forecast.

    Each is {target_spec_hash, target_run_id, written_utc, reason}.
    """
    return _read(workdir)["refused"]


def refuse_forecast(
    workdir: str | Path, target_spec_hash: str, target_run_id: str, reason: str
) -> dict[str, Any]:
    """Write down, once and before the target's step 0, why its proxies support no forecast."""
    body = _read(workdir)
    for entry in body["refused"]:
        if entry["target_spec_hash"] == target_spec_hash:
            return entry
    entry = {
        "target_spec_hash": target_spec_hash,
        "target_run_id": target_run_id,
        "written_utc": _now(),
        "reason": reason,
    }
    _write(Path(workdir) / record.FORECAST, body | {"refused": [*body["refused"], entry]})
    return entry


def _read(workdir: str | Path) -> dict[str, list[dict[str, Any]]]:
    path = Path(workdir) / record.FORECAST
    if not path.exists():
        return {"forecasts": [], "refused": []}
    try:
        body = json.loads(path.read_text())
        return {"forecasts": list(body["forecasts"]), "refused": list(body.get("refused", []))}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"forecast={path}: unreadable ({error}); move it away, it is never overwritten"
        ) from error


def write_forecast(
    workdir: str | Path,
    target_spec_hash: str,
    target_run_id: str,
    target: dict[str, float],
    *,
    seed: int = 0,
    level: float = 0.9,
    n: str = "params_total",
) -> dict[str, Any]:
    """Forecast a target from the proxies in `workdir` and write the entry.

    Args:
        workdir: the folder that holds the records.
        target_spec_hash: of the target; an entry of it that is there already is left as it is.
        target_run_id: of the target.
        target: {"N": parameters, "D": tokens, "C": training FLOPs}.
        seed: of the simulated ladders.
        level: of the intervals.
        n: the count of parameters that is N.

    Returns:
        The entry; `domains` of it holds a forecast for each domain, or why there is none.

    Raises:
        UserError: when the target has metrics already (it would be no forecast), or when the
            proxies identify no law.
    """
    workdir = Path(workdir)
    body = _read(workdir)
    entries = body["forecasts"]
    for entry in entries:
        if entry["target_spec_hash"] == target_spec_hash:
            return entry
    runs = load(workdir, n=n)
    begun = sum(
        int((table["run_id"] == target_run_id).sum()) for table in (runs.points, runs.train)
    )
    if begun:
        raise UserError(
            f"target={target_run_id}: has {begun} metric rows already; a forecast is written "
            "before step 0, use a new target"
        )
    made = forecast(runs, target, seed=seed, level=level)
    entry = {
        "target_spec_hash": target_spec_hash,
        "target_run_id": target_run_id,
        "written_utc": _now(),
        **made.to_dict(),
        "domains": {
            d: _domain(runs, target, seed, level, d)
            for d in sorted(set(runs.points["domain"]) - {"all"})
        },
    }
    _write(workdir / record.FORECAST, body | {"forecasts": [*entries, entry]})
    return entry


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _domain(
    runs: Runs, target: dict[str, float], seed: int, level: float, domain: str
) -> dict[str, Any]:
    try:
        made = forecast(runs, target, seed=seed, level=level, domain=domain)
    except UserError as error:
        return {"reason": str(error)}
    return {"prediction": made.prediction, "low": made.low, "high": made.high}


def _write(path: Path, body: dict[str, Any]) -> None:
    write_atomic(path, json.dumps(body, indent=1, allow_nan=False) + "\n")
