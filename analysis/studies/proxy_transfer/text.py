"""The study in sentences: what the command prints, and the first lines of results.json."""

_ORDER = ("a", "b", "c", "d", "e")


def sentences(results: dict) -> list[str]:
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
        *(f"not here: {w}" for w in results["absent"]),
    ]


def headline(results: dict) -> str:
    """The answer in one sentence: check (c) and (d) are the question, the other checks are its
    background.
    """
    words = {c["id"]: c["verdict"] for c in results["claims"]}
    n = len(results["recipes"])
    sizes = ", ".join(r["size"] for r in results["rates"])
    target = results["target"]["size"]
    answers = {
        (
            "seen",
            "seen",
        ): (
            "a reduced learning rate ranks the recipes as the tuned target does, and picks better "
            "ones"
        ),
        (
            "seen",
            "not seen at this scale",
        ): "a reduced learning rate ranks the recipes better, but does not pick a better one",
        (
            "not seen at this scale",
            "not seen at this scale",
        ): "that a reduced learning rate helps is not seen at this scale",
    }
    answer = answers.get(
        (words["c"], words["d"]),
        f"rank correlation at a reduced rate: {words['c']}; lower regret: {words['d']}",
    )
    return f"{n} recipes, proxies {sizes}, target {target}: {answer}."


def span(value, low, high, unit: str = "") -> str:
    """0.950 [0.880, 0.980] unit; a number that does not exist is said to be unknown."""
    if value is None:
        return f"{unit} unknown".strip()
    ends = f" [{low:.3g}, {high:.3g}]" if low is not None and high is not None else " [no interval]"
    return f"{value:.3g}{ends} {unit}".strip()


def at_rate(results: dict, size: str, rate: float | None) -> dict | None:
    """The row of A4 on the mean domain at one rate."""
    rows = (
        r
        for r in results["agreement"]
        if r["size"] == size and r["domain"] == "mean" and r["against"] == "tuned target"
    )
    return next((r for r in rows if rate and abs(r["learning_rate"] / rate - 1) < 1e-4), None)


def _rho_line(results: dict, rates: dict) -> str:
    parts = []
    for name in ("eta_std", "eta_std/3", "eta_std/10", "eta_std/30"):
        row = at_rate(results, rates["size"], rates[name])
        said = (
            (
                f"{span(row['rho'], row['rho_low'], row['rho_high'])} ({row['recipes']} of "
                f"{row['of']} recipes)"
            )
            if row
            else "not in the grid"
        )
        parts.append(f"{name}{f' = {rates[name]:.3g}' if rates[name] else ''}: {said}")
    mine = [
        r
        for r in results["agreement"]
        if (r["size"], r["domain"], r["against"]) == (rates["size"], "mean", "tuned target")
    ]
    top = max((r for r in mine if r["rho"] is not None), key=lambda r: r["rho"], default=None)
    if top:
        gain = top.get("above_standard")
        beside = (
            (
                ", above eta_std's by "
                f"{span(gain, top['above_standard_low'], top['above_standard_high'])}"
            )
            if gain is not None
            else ""
        )
        parts.append(
            f"highest of the grid, picked afterwards: {top['rho']:.3g} at "
            f"{top['learning_rate']:.3g}{beside}"
        )
    null = next(
        (r for r in results["nulls"] if r["null"] == "bigram" and r["domain"] == "mean"), None
    )
    bigram = (
        f"; bigram ranking {span(null['rho'], null['rho_low'], null['rho_high'])}" if null else ""
    )
    return "rho with the tuned target " + ", ".join(parts) + bigram
