"""Which points a law of final losses may see: one decayed point a run, and a reason for every other
one.
"""

import pandas as pd

from stepladder.analysis.records.load import EXCLUDED, STATE_REASONS, Runs
from stepladder.configs.core import record

# Roles whose runs answer another question than L(N, D) of well-tuned proxies.
ROLE_REASONS = {
    "sweep": "learning-rate sweep: feeds the learning-rate curves, not the law",
    "target": "the target: hidden from the law that forecasts it",
}


def checkpoint_points(runs: Runs, *, domain: str = "all") -> pd.DataFrame:
    """Undecayed evaluations of finished proxies on `domain`: intermediate checkpoints at full
    learning rate, a law of their own.

    They lie above the law of final losses (no decay yet) and never enter it; the fit through them
    shows what the decay is worth.
    """
    points = runs.points[
        (runs.points["domain"] == domain)
        & (runs.points["state"] == record.DONE)
        & ~runs.points["decayed"]
    ]
    return (
        points[~points["role"].isin(ROLE_REASONS)]
        .sort_values(["N", "D", "run_id"])
        .reset_index(drop=True)
    )


def final_points(
    runs: Runs, *, domain: str = "all", roles: dict[str, str] | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The last decayed evaluation of every finished run on `domain`, and what was left out (run_id,
    step, domain, reason).

    Decayed and undecayed points are never mixed: under a decaying schedule an unfinished run is
    worse than a finished one of the same tokens. `roles` maps the roles to leave out to the reason;
    None is `ROLE_REASONS`, {} keeps every role. Runs that are not done are left out too: a diverged
    run says nothing about the law, and a running one may still be replaced.
    """
    roles = ROLE_REASONS if roles is None else roles
    points = runs.points[runs.points["domain"] == domain]
    reasons = []
    last = points[points["decayed"]].groupby("run_id")["step"].max()
    for point in points.itertuples():
        if point.role in roles:
            reason = roles[point.role]
        elif point.state != record.DONE:
            reason = STATE_REASONS.get(point.state, f"state {point.state}")
        elif not point.decayed:
            reason = "undecayed: the learning rate had not fallen to its end"
        elif point.step != last[point.run_id]:
            reason = "an earlier decayed evaluation of the same run"
        else:
            reason = None
        reasons.append(reason)
    reason = pd.Series(reasons, index=points.index, dtype=object)
    used = points[reason.isna()].sort_values(["N", "D", "run_id"]).reset_index(drop=True)
    left = points.assign(reason=reason)[reason.notna()][list(EXCLUDED)]
    silent = [
        r
        for r in runs.runs.itertuples()
        if r.role not in roles and r.state == record.DONE and r.run_id not in set(used["run_id"])
    ]
    without = [
        {
            "run_id": r.run_id,
            "step": r.step,
            "domain": domain,
            "reason": "finished without a decayed evaluation",
        }
        for r in silent
    ]
    tables = [t for t in (left, pd.DataFrame(without, columns=list(EXCLUDED))) if len(t)]
    return used, pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(
        columns=list(EXCLUDED)
    )
