"""The study's page: sections from the results, in the order a decision needs them."""

from html import escape

from stepladder.analysis.report.html_pieces import figure, hero, left_out, missing, table
from stepladder.analysis.studies.proxy_transfer.text import at_rate, headline, span
from stepladder.analysis.tables.numbers import human

TUNED_TARGET = "tuned target"


def body(results: dict, drawn: dict[str, str]) -> str:
    """HTML of the whole page.

    `results`: Result.to_dict() with source and command; drawn: figure name -> inline SVG.
    """
    return "".join(section(results, drawn) for section in _SECTIONS)


def _head(results: dict, drawn: dict) -> str:
    tiles = []
    for rates in results["rates"][:2]:
        for name, said in (("eta_std", "standard"), ("eta_tiny", "tiny")):
            row = at_rate(results, rates["size"], rates[name])
            if row and row["rho"] is not None:
                tiles.append(
                    (
                        f"{row['rho']:.2f}",
                        (
                            f"rho of {rates['size']} at the {said} rate {rates[name]:.3g}, "
                            f"{row['rho_low']:.2f} to {row['rho_high']:.2f}"
                        ),
                    )
                )
    warned = "".join(f"<p><b>Warning</b>: {escape(w)}.</p>" for w in results["warnings"])
    what = (
        f"{len(results['recipes'])} recipes, target {results['target']['size']} tuned for each of "
        "them. rho is Spearman's rank correlation of the proxy's losses at one learning rate with "
        f"the tuned target's; intervals are {results['settings']['level']:.0%}, "
        f"{results['settings']['interval']}, {results['settings']['resamples']} resamples. "
        "Protocol after arXiv 2512.24503; thresholds and formulas that it does not publish are "
        "ours."
    )
    return (
        f'<h1>Do small runs pick the right data?</h1><p class="sub">{escape(results["source"])}</p>'
        f"{hero(headline(results), tiles)}<p>{escape(what)}</p>"
        f"{warned}{missing(results['absent'])}"
    )


def _claims(results: dict, drawn: dict) -> str:
    rows = [
        [
            f"({v['id']}) {v['claim']}",
            v["size"] or "all",
            v["verdict"],
            span(v["number"], v["low"], v["high"], v["measure"]),
            v["threshold"],
            v["why"],
        ]
        for v in results["verdicts"]
    ]
    overall = [[f"({c['id']}) {c['claim']}", c["verdict"]] for c in results["claims"]]
    return (
        f"<h2>Five claims, and what these runs say</h2>{table(['claim', 'verdict'], overall)}"
        "<details open><summary>by proxy, with numbers and thresholds</summary>"
        f"{table(['claim', 'proxy', 'verdict', 'number [interval]', 'threshold', 'why'], rows)}"
        "</details>"
        '<p class="note">Not seen: the claim fails at the estimate. Not settled: it holds there, '
        "but not over the interval, or a guard below "
        "says that the numbers are no evidence.</p>"
    )


def _ranking(results: dict, drawn: dict) -> str:
    rows = [
        [
            r["size"],
            f"{r['learning_rate']:.3g}",
            _span(r, "rho"),
            _fisher(r),
            _span(r, "above_standard"),
            _span(r, "bigram_rho"),
            _span(r, "above_bigram"),
            _span(r, "accuracy"),
            f"{r['recipes']} of {r['of']}",
            _marks(results, r),
        ]
        for r in results["agreement"]
        if r["domain"] == "mean" and r["against"] == TUNED_TARGET
    ]
    head = [
        "proxy",
        "learning rate#",
        "rho#",
        "Fisher z",
        "above the standard rate#",
        "bigram rho#",
        "above bigram#",
        "decision accuracy#",
        "recipes#",
        "",
    ]
    per = [
        [
            r["size"],
            f"{r['learning_rate']:.3g}",
            r["domain"],
            _span(r, "rho"),
            _span(r, "accuracy"),
            _span(r, "unigram_rho"),
            _span(r, "bigram_rho"),
            f"{r['recipes']} of {r['of']}",
        ]
        for r in results["agreement"]
        if r["domain"] != "mean" and r["against"] == TUNED_TARGET
    ]
    more = (
        table(
            [
                "proxy",
                "learning rate#",
                "domain",
                "rho#",
                "decision accuracy#",
                "unigram rho#",
                "bigram rho#",
                "recipes#",
            ],
            per,
        )
        if per
        else ""
    )
    folded = (
        f"<details><summary>by domain, {len(per)} rows</summary>{more}</details>" if per else ""
    )
    rates = [
        [
            r["size"],
            human(r["N"]) if r["N"] else "",
            *(
                f"{r[k]:.3g}" if r[k] else "none near"
                for k in ("eta_std", "eta_std/3", "eta_std/10", "eta_std/30", "eta_tiny")
            ),
            r["note"],
        ]
        for r in results["rates"]
    ]
    lines = "".join(figure(drawn, name) for name in sorted(drawn) if name.startswith("domains_"))
    return (
        f"<h2>Ranking at one learning rate against the tuned target</h2>{figure(drawn, 'rho')}"
        f"{figure(drawn, 'accuracy')}{table(head, rows)}{folded}{lines}"
        "<h3>Standard and reduced rates</h3>"
        f"{table(['proxy', 'N#', 'standard#', '/3#', '/10#', '/30#', 'tiny#', ''], rates)}"
        '<p class="note">Standard: as given, else the highest rate of the arms, else that of the '
        "least mean loss over the recipes. A reduction is the nearest rate of the grid within a "
        "factor of 2.</p>"
        f"<h3>From the proxies to the target</h3>{figure(drawn, 'slopes')}"
    )


def _findings(results: dict, drawn: dict) -> str:
    rows = [
        [
            r["against"],
            r["size"],
            f"{r['learning_rate']:.3g}",
            _span(r, "rho"),
            _span(r, "accuracy"),
            f"{r['recipes']} of {r['of']}",
        ]
        for r in results["agreement"]
        if r["domain"] == "mean" and r["against"] != TUNED_TARGET
    ]
    return (
        "<h2>Within the proxy, and across scale at one rate</h2>"
        "<p>Finding I compares with the same proxy tuned per recipe, Finding II with the "
        "target at the same rate.</p>"
    ) + table(
        ["against", "proxy", "learning rate#", "rho#", "decision accuracy#", "recipes#"], rows
    )


def _regret(results: dict, drawn: dict) -> str:
    rows = [
        [
            r["size"],
            f"{r['learning_rate']:.3g}",
            str(r["k"]),
            r["reading"],
            _span(r, "regret", 4),
            f"{r['recipes']} of {r['of']}",
        ]
        for r in results["regret"]
    ]
    head = ["proxy", "learning rate#", "k#", "reading", "regret, nats per token#", "recipes#"]
    return (
        f"<h2>What a wrong choice costs</h2>{figure(drawn, 'regret')}"
        f"<details><summary>all {len(rows)}</summary>{table(head, rows)}</details>"
        '<p class="note">Reading best: the best of the k kept minus the best of all. Reading mean: '
        "the mean of the k kept minus that of the true best k. "
        "Equal proxy losses are broken against us.</p>"
    )


def _losses(results: dict, drawn: dict) -> str:
    rows = [
        [
            r["recipe"],
            r["domain"],
            _span(r, "loss", 4),
            _number(r["learning_rate"]),
            _number(r["weight_decay"]),
            _span(r, "refined", 4),
            _number(r["refined_rate"]),
            r["edge"] and f"{r['edge']} edge",
        ]
        for r in results["tuned"]
    ]
    main, more = ([r for r in rows if (r[1] == "mean") == whole] for whole in (True, False))
    head = [
        "recipe",
        "domain",
        "tuned loss#",
        "at rate#",
        "weight decay#",
        "parabola's least#",
        "at rate#",
        "",
    ]
    return (
        (
            f"<h2>Losses, and the target tuned for each recipe</h2>{figure(drawn, 'losses')}"
            f"{table(head, main)}"
        )
        + (f"<details><summary>by domain</summary>{table(head, more)}</details>" if more else "")
        + (
            '<p class="note">The parabola goes through the 3 lowest points in log learning rate; '
            "it is left out where it is not convex or leaves them.</p>"
        )
    )


def _flips(results: dict, drawn: dict) -> str:
    rows = [
        [
            r["size"],
            f"{r['rate_low']:.3g} to {r['rate_high']:.3g}",
            f"{r['flips']} of {r['pairs']}",
            _span(r, "flip_rate"),
            str(r["sign_changes"]),
            f"{r['by_chance']:.2g}",
        ]
        for r in results["flip_rates"]
        if r["domain"] == "mean"
    ]
    events = [
        [
            r["size"],
            r["first"],
            r["second"],
            f"{r['rate_low']:.3g} to {r['rate_high']:.3g}",
            _sigmas(r, "low"),
            _sigmas(r, "high"),
        ]
        for r in results["flips"]
    ]
    listed = table(
        ["size", "first", "second", "rates", "gap at the lower#", "gap at the higher#"], events
    )
    head = ["size", "rates", "flips#", "share#", "sign changes, noise or not#", "by noise alone#"]
    return (
        f"<h2>Pairs that flip between neighbouring learning rates</h2>{figure(drawn, 'flip_rates')}"
        f"{table(head, rows)}"
        f"<details><summary>all {len(events)} flips</summary>{listed}</details>"
        f"{figure(drawn, 'flip_matrix')}"
    )


def _arms(results: dict, drawn: dict) -> str:
    if not results["arms"]:
        return ""
    rows = [
        [
            r["size"],
            r["arm"],
            f"{r['learning_rate']:.3g}",
            _span(r, "rho"),
            _number(r["main_rho"]),
            _span(r, "change"),
            _number(r["steps_ratio"]),
            _number(r["tokens_ratio"]),
            {True: "equal tokens", False: "", None: ""}[r["equal_tokens"]],
        ]
        for r in results["arms"]
    ]
    spans = [
        [
            r["size"],
            r["family"],
            _number(r["learning_rate"]) or "over rates",
            ", ".join(r["settings"]),
            _span(r, "range"),
        ]
        for r in results["ranges"]
    ]
    more = [
        [r["size"], r["arm"], *(_span(r, k) for k in ("tiny_rho", "standard_rho", "gain"))]
        for r in results["more_steps"]
    ]
    equal = ""
    if more:
        at_rates = ["rho at the tiny rate#", "at the standard rate#", "difference#"]
        equal = (
            "<h3>G3: the tiny against the standard rate at equal tokens, with more steps</h3>"
            f"{table(['proxy', 'arm', *at_rates], more)}"
        )
    rho = ["learning rate#", "rho#", "main arm#", "change#"]
    head = ["proxy", "arm", *rho, "steps, times main#", "tokens, times main#", ""]
    return (
        f"<h2>Batch size, weight decay, tokens and steps</h2>{figure(drawn, 'arms')}"
        f"{table(head, rows)}{equal}<h3>Range of rho</h3>"
        f"{table(['proxy', 'family', 'at rate#', 'settings', 'range of rho#'], spans)}"
        '<p class="note">A range over noisy numbers is above zero by itself: compare ranges of '
        "about as many settings.</p>"
    )


def _gradients(results: dict, drawn: dict) -> str:
    if not (results["alignment"] or results["sharpness"]):
        return ""
    lined = [
        [
            r["size"],
            f"{r['fraction']:.1%}",
            r["along"],
            *(
                _span(r, k)
                for k in (
                    "tuned_target_rho",
                    "tuned_target_accuracy",
                    "lowest_rate_rho",
                    "target_alignment_rho",
                )
            ),
        ]
        for r in results["alignment"]
    ]
    crossed = [
        [
            r["size"],
            f"{r['fraction']:.1%}",
            r["along"],
            f"{r['both']} of {r['pairs']}",
            _span(r, "sensitivity"),
            _span(r, "specificity"),
            _span(r, "rank"),
            _span(r, "ratio"),
        ]
        for r in results["crossovers"]
    ]
    sharp = [
        [
            r["size"],
            r["run_id"],
            f"{r['fraction']:.1%}",
            _span(r, "lambda_max"),
            f"{r['one_over']:.3g}",
            f"{r['eta_tiny_low']:.2g} to {r['eta_tiny_high']:.2g}",
            r["bound_by"],
        ]
        for r in results["sharpness"]
    ]
    start = ["size", "of training#", "along"]
    ranked = [
        "rho with tuned target#",
        "accuracy#",
        "rho with the lowest rate#",
        "rho with target alignment#",
    ]
    compared = ["sensitivity#", "specificity#", "rank agreement#", "observed / predicted#"]
    curved = ["lambda_max#", "1 / lambda_max#", "tiny rate#", "bound by"]
    return (
        "<h2>What the gradients alone say</h2><p>Alignment a = &lt;grad l_val, grad l_i&gt; ranks "
        "the recipes without training. The crossover rate of a pair is 2 (a_A - a_B) / (c_A - "
        "c_B), for one step along the gradient or, nearer to Adam, along its sign. The runs take "
        "many steps, so ranks matter and the ratio only says how far off the scale is.</p>"
        f"{table([*start, *ranked], lined)}"
        f"<h3>Predicted and observed crossovers</h3>{figure(drawn, 'crossovers')}"
        f"{table([*start, 'pairs with both#', *compared], crossed)}"
        "<h3>Top eigenvalue of the validation loss</h3>"
        f"{table(['size', 'run', 'of training#', *curved], sharp)}"
    )


def _guards(results: dict, drawn: dict) -> str:
    trained = [
        [
            r["size"],
            f"{r['learning_rate']:.3g}",
            _span(r, "drop"),
            "" if r["share"] is None else f"{r['share']:.1%}",
            _number(r["sigmas"]),
            _yes(r["trained"], "trained", "DID NOT TRAIN"),
            str(r["diverged"] or ""),
        ]
        for r in results["trained"]
    ]
    grams = [
        [
            r["size"],
            r["null"],
            r["domain"],
            _span(r, "gap", 4),
            f"{r['recipes_below']} of {r['recipes']}",
            _yes(r["counts"], "counts", "DOES NOT COUNT"),
        ]
        for r in results["ngrams"]
    ]
    noise = [
        [
            r["size"],
            f"{r['learning_rate']:.3g}",
            r["domain"],
            _span(r, "snr"),
            _number(r["by_noise"]),
            _yes(r["passes"], "passes", "NOISE"),
        ]
        for r in results["snr"]
    ]
    whole, by_domain = ([r for r in noise if (r[2] == "mean") == m] for m in (True, False))
    head = ["size", "learning rate#", "domain", "spread / seed SD#", "of equal recipes#", ""]
    source = sorted({r["noise_source"] or "unknown: no repeated seeds" for r in results["snr"]})
    return (
        "<h2>Guards</h2><h3>G1: did the runs train at all</h3>"
        + table(
            [
                "size",
                "learning rate#",
                "drop from the start#",
                "of it#",
                "in SDs of a gap#",
                "",
                "diverged#",
            ],
            trained,
        )
        + f"<h3>G2: precision</h3><p>{escape(results['precision']['said'])}.</p>"
        + "<h3>G5: is the model better than counting</h3>"
        + (
            table(
                ["size", "baseline", "domain", "best loss minus baseline#", "recipes below#", ""],
                grams,
            )
            if grams
            else "<p>No n-gram baseline was given.</p>"
        )
        + (
            "<h3>G6: is the spread of the recipes more than noise</h3>"
            f"<p>Noise: {escape('; '.join(source))}.</p>{table(head, whole)}"
        )
        + (
            f"<details><summary>by domain</summary>{table(head, by_domain)}</details>"
            if by_domain
            else ""
        )
        + (
            '<p class="note">G3 (more steps) stands among the arms, G4 is every interval on this '
            "page; Fisher's z is printed beside rho for reference.</p>"
        )
    )


def _out(results: dict, drawn: dict) -> str:
    gone = [
        {
            "run_id": r["run_id"] or _cell(r),
            "step": None,
            "domain": r["domain"],
            "reason": r["reason"],
        }
        for r in [*results["excluded"], *results["diverged"]]
    ]
    holes = [
        {"run_id": _cell(r), "step": None, "domain": "mean", "reason": r["reason"]}
        for r in results["missing_cells"]
    ]
    notes = "".join(f"<li>{escape(n)}</li>" for n in results["notes"])
    return (
        f"<h2>Left out, and why</h2>{left_out(gone)}<h3>Cells without a loss</h3>{left_out(holes)}"
        + (f"<h3>Decided about the table</h3><ul>{notes}</ul>" if notes else "")
    )


def _again(results: dict, drawn: dict) -> str:
    return (
        f"<h2>To make this page again</h2><pre>{escape(results['command'])}</pre>"
        "<p class='note'>Every number on it stands in <code>results.json</code> beside it.</p>"
    )


def _cell(row: dict) -> str:
    return (
        f"{row['recipe']} {row['size']} {row['arm']} at {row['learning_rate'] or float('nan'):.3g}"
    )


def _span(row: dict, name: str, digits: int = 3) -> str:
    """value [low, high], or nothing."""
    value, low, high = (row.get(k) for k in (name, f"{name}_low", f"{name}_high"))
    if value is None:
        return ""
    form = f".{digits}f" if abs(value) < 1000 else ".3g"
    return f"{value:{form}}" + (
        f" [{low:{form}}, {high:{form}}]" if low is not None and high is not None else ""
    )


def _fisher(row: dict) -> str:
    return (
        "" if row["fisher_low"] is None else f"{row['fisher_low']:.2f} to {row['fisher_high']:.2f}"
    )


def _marks(results: dict, row: dict) -> str:
    """What a reader must know before believing this rho."""

    def same(r):
        return (
            r["size"] == row["size"]
            and r["role"] == "proxy"
            and abs(r["learning_rate"] / row["learning_rate"] - 1) < 1e-4
        )

    said = ["did not train" for r in results["trained"] if same(r) and r["trained"] is False]
    said += [
        "spread is noise"
        for r in results["snr"]
        if same(r) and r["domain"] == "mean" and r["passes"] is False
    ]
    said += [
        "size does not beat bigrams"
        for r in results["ngrams"]
        if (r["size"], r["role"], r["null"], r["domain"])
        == (row["size"], "proxy", "bigram", "mean")
        and r["counts"] is False
    ]
    said += [f"without {', '.join(row['missing'])}"] if row["missing"] else []
    said += [f"diverged, so last: {', '.join(row['diverged'])}"] if row["diverged"] else []
    return "; ".join([*said, row["note"]] if row["note"] else said)


def _sigmas(row: dict, end: str) -> str:
    gap, size = row[f"gap_{end}"], row[f"sigmas_{end}"]
    return (
        "diverged" if gap is None else f"{gap:+.4f}" + ("" if size is None else f" ({size:.1f} SD)")
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _yes(value: bool | None, yes: str, no: str) -> str:
    return {True: yes, False: no, None: "not known"}[value]


_SECTIONS = (
    _head,
    _claims,
    _ranking,
    _regret,
    _findings,
    _losses,
    _flips,
    _arms,
    _gradients,
    _guards,
    _out,
    _again,
)
