"""The study in sentences: what the command prints, and the first lines of results.json."""

from collections.abc import Mapping
from typing import Any

from stepladder.analysis.report.absent import absent_lines
from stepladder.analysis.studies.proxy_transfer.checks import NOT_SEEN, SEEN
from stepladder.analysis.studies.proxy_transfer.measures.grid import same_rate
from stepladder.analysis.studies.proxy_transfer.measures.rank_agreement import TUNED_TARGET
from stepladder.analysis.studies.proxy_transfer.read_table import MEAN

Results = Mapping[str, Any]  # of results.json, or a row of it
# The answer in words by the verdicts on the claims (c) and (d).
ANSWERS = {
    (SEEN, SEEN): (
        "a reduced learning rate ranks the recipes as the tuned target does, and picks better ones"
    ),
    (SEEN, NOT_SEEN): (
        "a reduced learning rate ranks the recipes better, but does not pick a better one"
    ),
    (NOT_SEEN, NOT_SEEN): "that a reduced learning rate helps is not seen at this scale",
}


def sentences(results: Results) -> list[str]:
    """One line for every claim, then one for every proxy, then what is missing or looks wrong.

    `results`: Result.to_dict().
    """
    lines = [headline(results)]
    for claim in results["claims"]:
        lines.append(f"({claim['id']}) {claim['claim']}: {claim['verdict'].upper()}")
        for v in results["verdicts"]:
            if v["id"] == claim["id"]:
                lines.append(
                    f"    {v['size'] or 'all sizes'}: "
                    f"{span(v['number'], v['low'], v['high'], v['measure'])}; {v['why']}"
                )
    lines += [f"{r['size']}: {_rho_line(results, r)}" for r in results["rates"]]
    holes = len(results["missing_cells"])
    counts = (
        f"left out: {len(results['excluded'])} rows; diverged: {len(results['diverged'])}; cells "
        f"without a loss: {holes} (all listed in the report)"
    )
    return [
        *lines,
        counts,
        *(f"warning: {w}" for w in results["warnings"]),
        *absent_lines(results["absent"]),
    ]


def headline(results: Results) -> str:
    """The answer in one sentence: the claims (c) and (d) are the question, the others are its
    background.
    """
    words = {c["id"]: c["verdict"] for c in results["claims"]}
    n = len(results["recipes"])
    sizes = ", ".join(r["size"] for r in results["rates"])
    target = results["target"]["size"]
    answer = ANSWERS.get(
        (words["c"], words["d"]),
        f"rank correlation at a reduced rate: {words['c']}; lower regret: {words['d']}",
    )
    return f"{n} recipes, proxies {sizes}, target {target}: {answer}."


def span(value: float | None, low: float | None, high: float | None, unit: str = "") -> str:
    """0.950 [0.880, 0.980] unit; a number that does not exist is said to be unknown."""
    if value is None:
        return f"{unit} unknown".strip()
    ends = f" [{low:.3g}, {high:.3g}]" if low is not None and high is not None else " [no interval]"
    return f"{value:.3g}{ends} {unit}".strip()


def bracketed(row: Results, name: str, digits: int = 3) -> str:
    """0.950 [0.880, 0.980] of the columns name, name_low and name_high of a row; nothing without a
    number.
    """
    value, low, high = (row.get(k) for k in (name, f"{name}_low", f"{name}_high"))
    if value is None:
        return ""
    form = f".{digits}f" if abs(value) < 1000 else ".3g"
    ends = f" [{low:{form}}, {high:{form}}]" if low is not None and high is not None else ""
    return f"{value:{form}}{ends}"


def at_rate(results: Results, size: str, rate: float | None) -> Results | None:
    """The row of a proxy's agreement with the tuned target, on the mean domain, at one rate."""
    rows = _of_tuned_target(results, size)
    return next((r for r in rows if rate and same_rate(r["learning_rate"], rate)), None)


def _of_tuned_target(results: Results, size: str) -> list[Results]:
    wanted = (size, MEAN, TUNED_TARGET)
    return [r for r in results["agreement"] if (r["size"], r["domain"], r["against"]) == wanted]


def _rho_line(results: Results, rates: Results) -> str:
    """rho of a proxy at its standard rate and the reductions, its highest, and the baseline's."""
    parts = []
    for name in ("eta_std", "eta_std/3", "eta_std/10", "eta_std/30"):
        row = at_rate(results, rates["size"], rates[name])
        said = "not in the grid"
        if row:
            rho = span(row["rho"], row["rho_low"], row["rho_high"])
            said = f"{rho} ({row['recipes']} of {row['of']} recipes)"
        value = f" = {rates[name]:.3g}" if rates[name] else ""
        parts.append(f"{name}{value}: {said}")
    mine = [r for r in _of_tuned_target(results, rates["size"]) if r["rho"] is not None]
    if mine:
        top = max(mine, key=lambda r: r["rho"])
        best = f"{top['rho']:.3g} at {top['learning_rate']:.3g}"
        parts.append(f"highest of the grid, picked afterwards: {best}{_above_standard(top)}")
    line = "rho with the tuned target " + ", ".join(parts)
    for r in results["nulls"]:
        if (r["null"], r["domain"]) == ("bigram", MEAN):
            line += f"; bigram ranking {span(r['rho'], r['rho_low'], r['rho_high'])}"
    return line


def _above_standard(row: Results) -> str:
    gain = row.get("above_standard")
    if gain is None:
        return ""
    ends = row["above_standard_low"], row["above_standard_high"]
    return f", above eta_std's by {span(gain, *ends)}"
