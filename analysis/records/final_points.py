"""Which points a law of final losses may see: one decayed point a run.

Every other point is left out with a reason.
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from stepladder.analysis.records.load import EXCLUDED, STATE_REASONS, Runs
from stepladder.analysis.records.rows import exclusion
from stepladder.analysis.tables.checks import joined
from stepladder.configs.core import record

# Roles whose runs answer another question than L(N, D) of well-tuned proxies.
ROLE_REASONS = {
    "sweep": "learning-rate sweep: feeds the learning-rate curves, not the law",
    "target": "the target: hidden from the law that forecasts it",
}


def checkpoint_points(runs: Runs, *, domain: str = "all") -> pd.DataFrame:
    """Undecayed evaluations of finished proxies: checkpoints at full learning rate.

    They lie above the law of final losses (no decay yet) and never enter it; the fit through them
    shows what the decay is worth.
    """
    points = _on(runs, domain)
    undecayed = (points["state"] == record.DONE) & ~points["decayed"]
    return _in_order(points[undecayed & ~points["role"].isin(list(ROLE_REASONS))])


def final_points(
    runs: Runs, *, domain: str = "all", roles: dict[str, str] | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The last decayed evaluation of every finished run, and what was left out.

    Decayed and undecayed points are never mixed: under a decaying schedule an unfinished run is
    worse than a finished one of the same tokens. Runs that are not done are left out too: a
    diverged run says nothing about the law, and a running one may still be replaced.

    Args:
        runs: as `load` returns them.
        domain: of the evaluations.
        roles: the roles to leave out and why; None is `ROLE_REASONS`, {} keeps every role.

    Returns:
        The points, and a table of run_id, step, domain and reason.
    """
    roles = ROLE_REASONS if roles is None else roles
    points = _on(runs, domain)
    last = points[points["decayed"]].groupby("run_id")["step"].max().to_dict()
    reasons = [_reason(point, last, roles) for point in points.to_dict("records")]
    reason = pd.Series(reasons, index=points.index, dtype=object)
    used = _in_order(points[reason.isna()])
    left = points.assign(reason=reason)[reason.notna()][list(EXCLUDED)]
    known = set(used["run_id"])
    without = [
        exclusion(r["run_id"], "finished without a decayed evaluation", r["step"], domain)
        for r in runs.runs.to_dict("records")
        if r["role"] not in roles and r["state"] == record.DONE and r["run_id"] not in known
    ]
    return used, joined([left, pd.DataFrame(without, columns=list(EXCLUDED))])


def _on(runs: Runs, domain: str) -> pd.DataFrame:
    return runs.points[runs.points["domain"] == domain]


def _in_order(points: pd.DataFrame) -> pd.DataFrame:
    return points.sort_values(["N", "D", "run_id"]).reset_index(drop=True)


def _reason(point: Mapping[Any, Any], last: Mapping[Any, Any], roles: dict[str, str]) -> str | None:
    """Why a point is no final one; `last` is the step of each run's last decayed evaluation."""
    if point["role"] in roles:
        return roles[point["role"]]
    if point["state"] != record.DONE:
        return STATE_REASONS.get(point["state"], f"state {point['state']}")
    if not point["decayed"]:
        return "undecayed: the learning rate had not fallen to its end"
    if point["step"] != last[point["run_id"]]:
        return "an earlier decayed evaluation of the same run"
    return None
