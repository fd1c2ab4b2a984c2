"""The constants of configs/rule.py from our own sweep: `python benchmarks/rule_sweep.py [WORKDIR ...] [--json]`.

With workdirs of configs/sweep.py it rewrites benchmarks/rule_sweep.csv (one line a run) first; without, it reads the committed file.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd

from stepladder.analysis.load import load
from stepladder.configs import rule

TABLE = Path(__file__).parent / "rule_sweep.csv"
COLUMNS = ["size", "N", "D", "batch_size", "steps", "learning_rate", "weight_decay", "warmup_steps", "loss", "loss_se", "state"]


def collect(workdirs: list[Path]) -> pd.DataFrame:
    """Final decayed losses of every run of the sweep; a diverged run stays, with no loss."""
    tables = []
    for workdir in workdirs:
        runs = load(workdir)
        final = runs.points[(runs.points["domain"] == "all") & runs.points["decayed"]].set_index("run_id")
        table = runs.runs.set_index("run_id")
        specs = {r: json.loads((workdir / "runs" / r / "spec.json").read_text()) for r in table.index}
        table["warmup_steps"] = [specs[r]["hyper"]["warmup_steps"] for r in table.index]
        table["weight_decay"] = [specs[r]["hyper"]["weight_decay"] for r in table.index]
        tables.append(table.assign(loss=final["loss"], loss_se=final["loss_se"]).reset_index()[COLUMNS])
    return pd.concat(tables, ignore_index=True).drop_duplicates().sort_values(COLUMNS[:8])


def optimum(rates: np.ndarray, losses: np.ndarray) -> float | None:
    """Rate at the vertex of a parabola in log rate through the best three; None at the edge of the grid."""
    order = np.argsort(rates)
    x, y = np.log(rates[order]), losses[order]
    best = int(np.argmin(y))
    if best in (0, len(y) - 1):
        return None
    a, b, _ = np.polyfit(x[best - 1 : best + 2], y[best - 1 : best + 2], 2)
    return float(np.exp(-b / (2 * a)))


def fit(table: pd.DataFrame) -> dict:
    """Best batch and rate of every (size, D), and the power laws through them, with standard errors."""
    table = table[table["loss"].notna()]
    decay = table["weight_decay"] * table["steps"]
    main = table[np.isclose(decay, 1.0, rtol=0.05) & np.isclose(table["warmup_steps"] / table["steps"], 0.05, atol=0.012)]
    cells = []
    for (size, n, d, batch), group in main.groupby(["size", "N", main["D"].round(-5), "batch_size"]):
        best = optimum(group["learning_rate"].to_numpy(), group["loss"].to_numpy())
        cells.append({"size": size, "N": n, "D": d, "batch": batch, "rates": len(group), "best_loss": group["loss"].min(),
                      "best_rate": group.loc[group["loss"].idxmin(), "learning_rate"], "optimum": best})  # fmt: skip
    cells = pd.DataFrame(cells)
    top = cells.loc[cells.groupby(["size", "D"])["best_loss"].idxmin()]
    return {"cells": cells, "best": top, "batch": _power(top["D"], top["batch"] * 128, {"D": rule.D0}),
            "rate": _power_nd(top.assign(rate=top["optimum"].fillna(top["best_rate"])))}  # fmt: skip


def _power(x: pd.Series, y: pd.Series, pivot: dict) -> dict:
    design = np.column_stack([np.ones(len(x)), np.log(x / pivot["D"])])
    return _least_squares(design, np.log(y), ("BATCH", "BATCH_D"))


def _power_nd(top: pd.DataFrame) -> dict:
    design = np.column_stack([np.ones(len(top)), np.log(top["N"] / rule.N0), np.log(top["D"] / rule.D0)])
    return _least_squares(design, np.log(top["rate"]), ("RATE", "RATE_N", "RATE_D"))


def _least_squares(design: np.ndarray, y: pd.Series, names: tuple[str, ...]) -> dict:
    beta, *_ = np.linalg.lstsq(design, y, rcond=None)
    freedom = len(y) - design.shape[1]
    sd = np.sqrt(((y - design @ beta) ** 2).sum() / freedom) if freedom > 0 else np.nan
    se = sd * np.sqrt(np.diag(np.linalg.inv(design.T @ design)))
    values = [np.exp(beta[0]), *beta[1:]]
    errors = [values[0] * se[0], *se[1:]]
    return {n: (float(v), float(e)) for n, v, e in zip(names, values, errors)} | {"residual_sd": float(sd), "points": len(y)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workdirs", nargs="*", type=Path)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.workdirs:
        collect(args.workdirs).to_csv(TABLE, index=False, float_format="%.6g")
    table = pd.read_csv(TABLE)
    found = fit(table)
    if args.json:
        print(json.dumps({k: v if isinstance(v, dict) else v.to_dict("records") for k, v in found.items()}))
        return
    print(found["cells"].to_string(index=False, float_format="%.4g"))
    for name in ("batch", "rate"):
        print(name, {k: f"{v[0]:.4g} +- {v[1]:.2g}" if isinstance(v, tuple) else v for k, v in found[name].items()})
    side = table[~table.index.isin(found["cells"].index)]
    varied = side[np.isclose(side["D"], 1e6, rtol=0.01)].assign(
        DECAY=lambda t: t["weight_decay"] * t["steps"], WARMUP=lambda t: t["warmup_steps"] / t["steps"]
    )
    if len(varied):
        print(varied.pivot_table(index=["DECAY", "WARMUP"], columns="size", values="loss").round(4).to_string())


if __name__ == "__main__":
    main()
