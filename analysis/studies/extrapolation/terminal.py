"""The forecast, its interval, the truth and the baselines as text for a terminal."""

from stepladder.analysis.fit.levels import percent
from stepladder.analysis.report.jsonable import Results

_WIDTH = 56


def summary(results: Results) -> str:
    """A few lines for every forecast in `results` (results.json), and what is missing."""
    lines: list[str] = []
    for entry in results["forecasts"]:
        lines += [*_entry(entry), ""]
    if not results["forecasts"] and results["law"]:
        law = results["law"]
        lines += [
            f"law through {law['points']} proxies: {law['formula']}",
            "  " + ", ".join(f"{k} = {v:.4g}" for k, v in law["params"].items()),
            "",
        ]
    states = (
        ", ".join(f"{count} {state}" for state, count in sorted(results["states"].items()))
        or "none"
    )
    lines.append(
        f"runs: {states}; excluded evaluations and runs: {len(results['excluded'])} (reasons in "
        "the report)"
    )
    lines += [f"missing: {what}" for what in results["missing"]]
    return "\n".join(lines)


def _entry(entry: Results) -> list[str]:
    target, truth = entry["target"], entry["truth"]
    rows = [("forecast", entry["prediction"], entry["low"], entry["high"], entry.get("error"))]
    rows += [
        (b["name"], b["prediction"], None, None, b.get("error"))
        for b in entry["baselines"]
        if b["prediction"] is not None
    ]
    if truth is not None:
        rows.append(("truth", truth, None, None, None))
    values = [v for _, middle, low, high, _ in rows for v in (middle, low, high) if v is not None]
    left, right = min(values), max(values)
    spread = (right - left) or 1.0
    head = (
        f"target {entry['target_run_id']}: N = {target['N']:.4g}, D = {target['D']:.4g}, C = "
        f"{target['C']:.4g} FLOPs"
    )
    lines = [
        head,
        f"forecast written {entry['written_utc']} for spec {entry['target_spec_hash'][:12]}",
        "",
    ]
    span = f"{percent(entry['level'])} interval"
    lines.append(f"{'nats per token':<22}{'loss':>8}  {span:<18} {'error':>7}")
    for name, middle, low, high, error in rows:
        bar = [" "] * _WIDTH

        def place(v: float) -> int:
            return round((v - left) / spread * (_WIDTH - 1))

        if low is not None:
            bar[place(low) : place(high) + 1] = "-" * (place(high) - place(low) + 1)
        if truth is not None:
            bar[place(truth)] = "|"
        bar[place(middle)] = "*" if name == "truth" else "o"
        span = f"[{low:.4f}, {high:.4f}]" if low is not None else ""
        off = f"{error:+.2%}" if error is not None else ""
        lines.append(f"{name:<22}{middle:>8.4f}  {span:<18} {off:>7}  {''.join(bar).rstrip()}")
    if truth is not None:
        lines += [
            "",
            f"truth {truth:.4f} is {'inside' if entry['covered'] else 'OUTSIDE'} the "
            f"{percent(entry['level'])} interval; error {entry['error']:+.2%}",
        ]
    else:
        lines += ["", f"no truth yet: {entry['truth_reason']}"]
    return lines
