"""The study in sentences: what the command prints, and the first lines of results.json."""

from collections.abc import Mapping
from typing import Any

from stepladder.analysis.report.absent import absent_lines
from stepladder.analysis.tables.numbers import human

Results = Mapping[str, Any]  # of results.json, or a row of it


def sentences(results: Results) -> list[str]:
    """One line for every claim with a line for each of its parts, then what is missing.

    `results`: Result.to_dict().
    """
    lines = [headline(results)]
    for v in results["verdicts"]:
        lines.append(f"({v['id']}) {v['claim']}: {v['verdict'].upper()}; {v['why']}")
        lines += [f"    {p['of']}: {p['verdict']}; {p['numbers']}" for p in v["parts"]]
    floors = [
        f"{r['floor']} floor {_range(r)} nats: {r['below']} of {r['models']} losses are below it"
        for r in results["floors"]
    ]
    return [
        *lines,
        *floors,
        f"left out: {len(results['excluded'])} rows (all listed in the report)",
        *absent_lines(results["missing"]),
    ]


def headline(results: Results) -> str:
    """The answer in one sentence."""
    s, words = results["settings"], {v["id"]: v["verdict"] for v in results["verdicts"]}
    totals = s["totals_per_parameter"]
    return (
        f"{s['cells']} cells of {', '.join(human(n) for n in s['sizes'])} parameters, "
        f"{totals[0]:.3g} to {totals[-1]:.3g} tokens per parameter, {s['experts']:g} experts. "
        f"Splitting early beats splitting late: {words['a']}; the law extrapolates: {words['b']}; "
        f"split models beat dense ones at equal tokens: {words['c']}."
    )


def bracketed(row: Results, name: str, form: str = ".3g") -> str:
    """0.95 [0.88, 0.98] of the columns name, name_low and name_high; nothing without a number."""
    value, low, high = (row.get(k) for k in (name, f"{name}_low", f"{name}_high"))
    if value is None:
        return ""
    ends = " [no interval]" if low is None or high is None else f" [{low:{form}}, {high:{form}}]"
    return f"{value:{form}}{ends}"


def _range(row: Results) -> str:
    low, high = row["low"], row["high"]
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
