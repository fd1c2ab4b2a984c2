"""Which way of fitting forecasts real families best.

    STEPLADDER_DATA=DIR python benchmarks/colpret_methods.py [--json] [--figures]

Table colpret of arXiv 2410.11840. (a) its 28 families in the authors' mode and in ours; (b)
objective x weights x early cut on the 9 families that identify the law, the cut chosen by
back-testing inside the training models; (c) coverage of two kinds of 90 % interval. Five of the
nine are Pythia's, so the interval over families is too short. With three training sizes (t5-pile,
pythia-intervention) nothing can be judged inside; there the first candidate, least squares, stands,
so the difference there is of the cut alone.
--figures rewrites docs/colpret-*.svg. Errors are relative and are compared within a family only:
units differ between families.
"""

import argparse
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from stepladder.analysis.decide.backtest.backtest import backtest, backtests
from stepladder.analysis.decide.backtest.error_map import error_map
from stepladder.analysis.decide.backtest.rules import CANDIDATES, REFERENCE, Rules
from stepladder.analysis.figures.error_map import draw
from stepladder.analysis.figures.style import svg

DOCS = Path(__file__).resolve().parent.parent / "docs"
LEAST_SQUARES = Rules(cut=1e10)  # the authors' objective, weights and cut, at its best optimum
FIGURES = {
    "opt": ("OPT", "perplexity"),
    "pythia": ("pythia", "log2 perplexity"),
    "chinchilla": ("chinchilla", "nats"),
}


def load() -> pd.DataFrame:
    """family, model, N, D, loss."""
    root = os.environ.get("STEPLADDER_DATA")
    if not root:
        raise SystemExit(
            "STEPLADDER_DATA: not set; it names the folder that holds colpret/colpret_perf.parquet"
        )
    names = {
        "scaled_set": "family",
        "model_name": "model",
        "num_params": "N",
        "tokens_seen": "D",
        "perf": "loss",
    }
    table = pd.read_parquet(Path(root) / "colpret" / "colpret_perf.parquet").rename(columns=names)[
        [*names.values()]
    ]
    return table.dropna(subset=["family"]).astype({"family": str, "model": str})


def usable(curves: pd.DataFrame) -> list[str]:
    """Families with two sizes or more below the largest that were trained past the authors' cut:
    the paper's 28.
    """
    rows = curves[curves["D"] > LEAST_SQUARES.cut]
    return [
        f
        for f, t in rows.groupby("family")
        if t.loc[t["N"] < curves.loc[curves["family"] == f, "N"].max(), "N"].nunique() >= 2
    ]


def by_family(points: pd.DataFrame, rules: Rules) -> pd.DataFrame:
    return backtest(points, rules=rules).table().set_index("family")


def without_target(points: pd.DataFrame) -> pd.DataFrame:
    return points[points["N"] < points.groupby("family")["N"].transform("max")]


def families_table(curves: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """(a) One row a family: ARE in the authors' mode, in ours with the same cut, and of the three
    baselines.
    """
    points = curves[curves["family"].isin(names)]
    theirs, ours = by_family(points, REFERENCE), by_family(points, LEAST_SQUARES)
    columns = ours[["sizes", "n_train", "are", "best_seen", "most_compute", "power_law", "reason"]]
    return columns.assign(reference=theirs["are"]).loc[names]


def search(points: pd.DataFrame) -> pd.DataFrame:
    """Every objective x weights x share: ARE of the target, and `inner`, the ARE when the largest
    training size is hidden instead.
    """
    rows = []
    found, inner = (backtests(p, CANDIDATES) for p in (points, without_target(points)))
    for rules, outer, within in zip(CANDIDATES, found, inner):
        judged = {cell.family: cell.are for cell in within.cells}
        rows += [
            (
                c.family,
                rules.objective,
                rules.weights,
                rules.cut_share,
                c.are,
                judged.get(c.family, np.nan),
            )
            for c in outer.cells
        ]
    return pd.DataFrame(rows, columns=["family", "objective", "weights", "share", "are", "inner"])


def blind(table: pd.DataFrame) -> pd.DataFrame:
    """Of the rows of each family, the one with the lowest inner error; the first where none could
    be judged.
    """
    return table.loc[
        [
            t["inner"].idxmin() if t["inner"].notna().any() else t.index[0]
            for _, t in table.groupby("family")
        ]
    ].set_index("family")


def methods(table: pd.DataFrame, base: pd.Series, resamples: int = 10_000) -> pd.DataFrame:
    """(b) Mean ARE of each method over families, and its mean difference from least squares with a
    90 % bootstrap interval over families.
    """
    chosen = {
        f"{o}, {w}": blind(t)["are"]
        for (o, w), t in table.groupby(["objective", "weights"], sort=False)
    }
    named = pd.DataFrame(chosen)
    # Which of the 12 is itself a choice made with the answers in sight: leave a family out, choose
    # on the others, judge on it.
    named["objective and weights chosen on the other families"] = [
        row[named.drop(index=f).mean().idxmin()] for f, row in named.iterrows() if f in named.index
    ]
    named["all chosen inside the training models"] = blind(table)["are"]
    named.insert(0, "least squares, rows, 10B", base)
    rng = np.random.default_rng(0)
    picks = rng.integers(len(named), size=(resamples, len(named)))
    gain = named.sub(base, axis=0)
    low, high = np.quantile(gain.to_numpy()[picks].mean(1), (0.05, 0.95), axis=0)
    body = pd.DataFrame(
        {
            "mean": named.mean(),
            "difference": gain.mean(),
            "low": low,
            "high": high,
            "better": (gain < 0).sum(),
        }
    )
    return body.join(named.T)


def coverage(points: pd.DataFrame, rules: Rules, resamples: int = 200) -> pd.DataFrame:
    """(c) Does the interval hold the loss of the target's last row?

    ln(loss / forecast) and two 90 % intervals a family.

    models: refit on the models of a bootstrap sample (each once, samples with under 3 sizes left
    out), plus the scatter of the training rows. rolling: hide size k + 1 of the training sizes
    behind the k smallest, k = 3 ..; t quantile times the root mean square of those.
    """
    rng, rows = np.random.default_rng(0), []
    for family, mine in points.groupby("family", sort=False):
        mine = mine.drop(columns="family")
        (cell,) = backtest(mine, rules=rules).cells
        sets = {
            tuple(sorted(set(rng.choice(cell.models, len(cell.models))))) for _ in range(resamples)
        }
        refits = backtest(mine, sets=sorted(sets), rules=rules).table().dropna(subset=["last"])
        spread = refits["last"].to_numpy() + 1.25 * cell.train_are * rng.standard_normal(
            (100, len(refits))
        )  # mean |z| is 0.8
        low, high = np.quantile(spread, (0.05, 0.95))
        sizes = np.sort(mine["N"].unique())
        steps = [
            backtest(mine[mine["N"] <= n], rules=rules).cells[0].last for n in sizes[3:-1][-4:]
        ]  # the four largest are enough
        wide = (
            stats.t.ppf(0.95, len(steps)) * np.sqrt(np.mean(np.square(steps))) if steps else np.nan
        )
        rows.append(
            {
                "family": family,
                "miss": cell.last,
                "models_low": low,
                "models_high": high,
                "rolling": wide,
                "steps": len(steps),
                "models_covers": low <= 0 <= high,
                "rolling_covers": abs(cell.last) <= wide if steps else None,
            }
        )
    return pd.DataFrame(rows).set_index("family")


def figures(curves: pd.DataFrame) -> dict[str, dict]:
    """(d) docs/colpret-NAME.svg, and the cheapest cells of each map."""
    out = {}
    for name, (family, unit) in FIGURES.items():
        points = curves[curves["family"] == family].drop(columns="family")
        found = error_map(points, rules=LEAST_SQUARES)
        text = svg(
            draw(found, f"{family}: ARE of the forecast of {found.target}, % of {unit}"),
            f"error map of {family}",
        )
        (DOCS / f"colpret-{name}.svg").write_text(text)
        out[name] = {"bytes": len(text), "cheapest": found.cheapest.to_dict("records")}
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="two families, no search")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--figures", action="store_true", help="rewrite docs/colpret-*.svg")
    parser.add_argument("--skip-search", action="store_true", help="only (a), (c) and the figures")
    args = parser.parse_args()
    curves = load()
    if args.tiny:
        args.skip_search = True
        curves = curves[curves["family"].isin(["OPT", "pythia"])]
    table = families_table(curves, usable(curves))
    names = list(table.index[table["reason"] == ""])
    points = curves[curves["family"].isin(names)]
    parts = {"families": table}
    if not args.skip_search:
        parts["search"] = search(points)
        parts["methods"] = methods(parts["search"], table.loc[names, "are"])
    parts["coverage, least squares"] = coverage(points, LEAST_SQUARES)
    parts["coverage, Huber"] = coverage(
        points, Rules(objective="huber_log", weights="models", cut_share=0.03)
    )
    maps = figures(curves) if args.figures else {}
    if args.json:
        print(
            json.dumps(
                {k: json.loads(v.reset_index().to_json(orient="records")) for k, v in parts.items()}
                | {"maps": maps},
                indent=1,
            )
        )
        return
    are = 100 * table["reference"]
    print(
        f"{len(table)} families, authors' mode: mean {are.mean():.2f} %, median {are.median():.2f} "
        f"%, {(are < 4).mean():.0%} below 4 %, {(are < 20).mean():.0%} below 20 %\n"
    )
    with pd.option_context(
        "display.width",
        250,
        "display.max_columns",
        50,
        "display.max_rows",
        200,
        "display.float_format",
        "{:.4f}".format,
    ):
        for name, part in parts.items():
            if name != "search":
                print(f"{name}\n{part.to_string()}\n")
        for name, part in maps.items():
            print(
                f"docs/colpret-{name}.svg, {part['bytes']} bytes\n"
                f"{pd.DataFrame(part['cheapest']).to_string()}\n"
            )


if __name__ == "__main__":
    main()
