"""Does a recommended ladder keep its promise on real families?

`STEPLADDER_DATA=DIR python benchmarks/recommend_check.py [--json]`.

Table colpret of arXiv 2410.11840, the families whose smaller models identify the law. Of each, the
law and its noise are fitted to the models below the largest, which stays unseen: its last
checkpoint is the target. Promised is the 90th percentile of the error in worlds simulated from that
law for the very points; realised is the error of a fit to their real losses. Two questions:
(a) the recommended ladder, every size of it replaced by the nearest model there is, every horizon
by that model's nearest checkpoint; (b) every ladder there is (windows of 3 to 6 consecutive sizes x
checkpoints x 30 % of the target or not): how many keep their promise (90 % should, if the law
held), does the promise rank them, and what of the cheapest that is promised to be within the wanted
error.
A family is one target, so its rows in (b) are not independent. What cannot be judged is printed:
seeds (one run a model), cooldowns (the checkpoints are undecayed), sets that collapse onto too few
models.
"""

import argparse
import json
from types import SimpleNamespace

import colpret_methods
import numpy as np
import pandas as pd

from stepladder.analysis.decide.recommend.candidates import CHINCHILLA, TARGET, Candidate, Design
from stepladder.analysis.decide.recommend.recommend import recommend
from stepladder.analysis.decide.recommend.simulate import (
    Truth,
    linear_errors,
    simulated_errors,
    truth_of,
)
from stepladder.analysis.fit.fit import fit
from stepladder.analysis.fit.prepare import prepare
from stepladder.analysis.fit.solve import solve
from stepladder.configs.core.errors import UserError

CUT = 1e10  # tokens: the authors' early cut
FAR = 4.0  # a stand-in farther than this factor in N or D makes another ladder of it
FRACTIONS = ((1.0,), (0.5, 1.0), (0.25, 0.5, 1.0), (0.1, 0.3, 1.0))  # (b): of each model's training
OWN = (0.0, 0.3)  # of the target's
MOST_WINDOWS = 20  # of each width: chinchilla has 42 sizes


def load() -> pd.DataFrame:
    """family, model, N, D, loss: rows past the cut."""
    table = colpret_methods.load().dropna()
    return (
        table[table["D"] > CUT]
        .drop_duplicates(["family", "model", "N", "D"])
        .reset_index(drop=True)
    )


def nearest(rows: pd.DataFrame, column: str, value: float) -> int:
    """Index of the row whose `column` is nearest to `value` in logs."""
    return int(np.abs(np.log(rows[column] / value)).idxmin())


def stand_ins(ladder: Candidate, rows: pd.DataFrame, target: pd.Series) -> tuple[list[int], float]:
    """The nearest available rows of a ladder, and the factor in N or D by which the farthest of
    them is off.
    """
    below, kept, off = rows[rows["N"] < target["N"]], {}, [1.0]
    wanted = [(below, n, h * CHINCHILLA * n) for n in ladder.sizes for h in ladder.horizons]
    if ladder.share:
        wanted.append(
            (rows[rows["model"] == target["model"]], target["N"], ladder.share * target["D"])
        )
    for frame, n, d in wanted:
        i = nearest(frame[frame["model"] == frame.loc[nearest(frame, "N", n), "model"]], "D", d)
        kept[i] = True
        off += [rows["N"][i] / n, n / rows["N"][i], rows["D"][i] / d, d / rows["D"][i]]
    return [i for i in kept if i != target.name], float(max(off))


def available(rows: pd.DataFrame, target: pd.Series) -> list[list[int]]:
    """(b): rows of every ladder there is."""
    below = rows[rows["N"] < target["N"]]
    models = below.groupby("model")["N"].first().sort_values(kind="stable").index
    own = nearest(rows[rows["model"] == target["model"]], "D", OWN[-1] * target["D"])
    out = {}
    for width in range(3, 7):
        first = np.arange(max(len(models) - width + 1, 0))
        for i in first[:: -(-len(first) // MOST_WINDOWS) or 1]:
            for fractions in FRACTIONS:
                mine = [below[below["model"] == m] for m in models[i : i + width]]
                picked = {nearest(one, "D", f * one["D"].max()) for one in mine for f in fractions}
                out |= {
                    tuple(sorted(picked)): True,
                    tuple(sorted(picked | {own} - {target.name})): True,
                }
    return [list(k) for k in out]


def judge(
    ladders: list[list[int]], rows: pd.DataFrame, target: pd.Series, truth: Truth, draws: int
) -> pd.DataFrame:
    """One row a ladder: models, points, flops, promised, realised, reason (why it cannot identify
    the law, or nothing).
    """
    used = rows.loc[sorted({i for mine in ladders for i in mine})]
    weights = np.array([np.isin(used.index, mine) for mine in ladders]).astype(int)
    trunk = np.where(used["model"] == target["model"], TARGET, pd.factorize(used["model"])[0])
    design = Design(
        used["N"].to_numpy(float),
        used["D"].to_numpy(float),
        trunk,
        (float(target["N"]), float(target["D"])),
    )
    reasons = linear_errors(truth, design, weights)[1]
    body = pd.DataFrame(
        {"points": weights.sum(1), "reason": reasons, "promised": np.nan, "realised": np.nan}
    )
    body["models"] = [rows.loc[mine, "model"].nunique() for mine in ladders]
    body["flops"] = [
        float((6 * rows.loc[mine].groupby("model")[["N", "D"]].max().prod(axis=1)).sum())
        for mine in ladders
    ]
    good = np.flatnonzero(body["reason"] == "")
    if len(good):
        body.loc[good, "promised"] = np.quantile(
            simulated_errors(truth, design, weights[good], draws=draws), 0.9, axis=1
        )
        body.loc[good, "realised"] = np.abs(
            forecasts(used, weights[good], target) / target["loss"] - 1
        )
    return body


def forecasts(used: pd.DataFrame, weights: np.ndarray, target: pd.Series) -> np.ndarray:
    """Loss of the target from fits to real losses, one a row of weights [C, n]; least squares on
    log loss, the best of 12 starts.
    """
    p = prepare(used, unidentified="report")
    starts = p.law.starts(p.x, p.y, p.w)[:12]
    found = solve(
        p.law,
        "squared_log",
        1e-3,
        p.x,
        p.y,
        np.repeat(weights, len(starts), 0),
        np.tile(starts, (len(weights), 1)),
    )
    value = np.where(np.isfinite(found.value), found.value, np.inf).reshape(len(weights), -1)
    theta = found.theta.reshape(*value.shape, -1)[np.arange(len(value)), value.argmin(1)]
    at = p.law.to_solver_inputs(target[["N", "D"]].to_numpy(float)[None], np.array(p.centre))[0]
    return p.scale * p.law.formula_fn(np, SimpleNamespace(**p.law.values(np, theta)), *at)


def family(rows: pd.DataFrame, wanted: float, share: float, draws: int) -> tuple[dict, dict]:
    """Of one family: (a) the recommended ladder, (b) all there are."""
    target = rows.loc[rows[rows["N"] == rows["N"].max()]["D"].idxmax()]
    law = fit(rows[rows["N"] < target["N"]], objective="squared_log")
    truth, cost = truth_of(law), 6 * float(target["N"] * target["D"])
    found = recommend(
        share * cost, (float(target["N"]), float(target["D"])), wanted, law, draws=draws
    )
    picked, off = stand_ins(found.best.ladder, rows, target)
    (one,) = judge([picked], rows, target, truth, draws).to_dict("records")
    line = {
        "noise": truth.noise,
        "reached": found.reached,
        "cost": found.best.share_of_target,
        "p90": found.best.p90,
        "models": one["models"],
        "points": one["points"],
        "off": off,
        "promised": one["promised"],
        "realised": one["realised"],
        "kept": one["realised"] <= one["promised"] if not one["reason"] else None,
        "reason": one["reason"] or ("" if off <= FAR else f"stand-ins are up to {off:.1f}x off"),
        "ladder": str(found.best.ladder),
    }
    every = judge(available(rows, target), rows, target, truth, draws)
    fair = every[every["reason"] == ""]
    cheapest = fair[fair["promised"] <= wanted].sort_values("flops").head(1)
    summary = {
        "ladders": len(every),
        "refused": len(every) - len(fair),
        "kept": (fair["realised"] <= fair["promised"]).mean(),
        "promised": fair["promised"].median(),
        "realised": fair["realised"].median(),
        "rank_correlation": fair["promised"].rank().corr(fair["realised"].rank()),
        **{
            f"cheapest_{k}": cheapest[k].iloc[0] if len(cheapest) else np.nan
            for k in ("promised", "realised")
        },
        "cheapest_cost": cheapest["flops"].iloc[0] / cost if len(cheapest) else np.nan,
    }
    return line, summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--wanted", type=float, default=0.04, help="error (0.04)")
    parser.add_argument(
        "--share", type=float, default=0.5, help="budget over the target's compute (0.5)"
    )
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--tiny", action="store_true", help="one family, 50 draws")
    args = parser.parse_args()
    lines, every, left = {}, {}, {}
    families = list(load().groupby("family", sort=True))
    if args.tiny:
        families = [(name, rows) for name, rows in families if name == "pythia"]
        args.draws = 50
    for name, rows in families:
        try:
            lines[name], every[name] = family(
                rows.drop(columns="family").reset_index(drop=True),
                args.wanted,
                args.share,
                args.draws,
            )
        except UserError as error:
            left[name] = str(error)
    table, sets = pd.DataFrame(lines).T, pd.DataFrame(every).T
    if args.json:
        print(
            json.dumps(
                {
                    "recommended": json.loads(table.to_json(orient="index")),
                    "available": json.loads(sets.to_json(orient="index")),
                    "not_judged": left,
                },
                indent=1,
            )
        )
        return
    print(
        f"(a) recommended for {args.wanted:.0%} within {args.share:.0%} of the target's compute; "
        "p90 of the ladder itself, promised and realised with its stand-ins"
    )
    with pd.option_context(
        "display.width",
        250,
        "display.max_columns",
        50,
        "display.max_colwidth",
        120,
        "display.float_format",
        "{:.4f}".format,
    ):
        print(f"{table.drop(columns='ladder').to_string()}\n")
        for name, line in lines.items():
            print(f"  {name}: {line['ladder']}")
        fair = table[table["reason"] == ""]
        print(
            f"kept: {int(fair['kept'].sum())} of the {len(fair)} that can be judged\n\n(b) every "
            f"ladder there is\n{sets.to_string()}"
        )
        print(f"kept, mean over families: {sets['kept'].mean():.2f}\n")
    print(
        f"not judged, {len(left)} families: the law is not identified by their smaller models, or "
        "no ladder fits"
    )
    for reason in sorted(set(left.values())):
        print(f"  {', '.join(n for n, r in left.items() if r == reason)}: {reason}")
    print("  anywhere: repeated seeds (one run a model), cooldowns (the checkpoints are undecayed)")


if __name__ == "__main__":
    main()
