"""The constants of configs/core/hyperparameters.py from our own sweep: `python
benchmarks/rule_sweep.py [WORKDIR
...] [--json]`.

With workdirs of configs/sweep.py it rewrites benchmarks/rule_sweep.csv (one line a run) first;
without, it reads the committed file.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import least_squares

from stepladder.analysis.records.load import load
from stepladder.configs.core import hyperparameters

TABLE = Path(__file__).parent / "rule_sweep.csv"
SEQ_LEN = 128
COLUMNS = (
    "size N D batch_size steps learning_rate weight_decay warmup_steps loss loss_se state".split()
)


def collect(workdirs: list[Path]) -> pd.DataFrame:
    """Final decayed losses of every run of the sweep; a diverged run stays, with no loss."""
    tables = []
    for workdir in workdirs:
        runs = load(workdir)
        final = runs.points[(runs.points["domain"] == "all") & runs.points["decayed"]].set_index(
            "run_id"
        )
        table = runs.runs.set_index("run_id")
        specs = {
            r: json.loads((workdir / "runs" / r / "spec.json").read_text()) for r in table.index
        }
        table["warmup_steps"] = [specs[r]["hyper"]["warmup_steps"] for r in table.index]
        table["weight_decay"] = [specs[r]["hyper"]["weight_decay"] for r in table.index]
        tables.append(
            table.assign(loss=final["loss"], loss_se=final["loss_se"]).reset_index()[COLUMNS]
        )
    return pd.concat(tables, ignore_index=True).drop_duplicates().sort_values(COLUMNS[:8])


def cells(table: pd.DataFrame) -> pd.DataFrame:
    """The runs of the rate grid, with the cell (size, D, batch) each belongs to; a cell is one
    learning-rate curve.
    """
    decay, warmup = table["weight_decay"] * table["steps"], table["warmup_steps"] / table["steps"]
    main = table[
        table["loss"].notna()
        & np.isclose(decay, 1.0, rtol=0.05)
        & np.isclose(warmup, 0.05, atol=0.012)
    ]
    main = main.assign(
        D=main["D"].round(-5),
        cell=main.groupby(["size", main["D"].round(-5), "batch_size"]).ngroup(),
    )
    return main[main.groupby("cell")["cell"].transform("size") >= 3]


def fit_rate(main: pd.DataFrame, near: float = 0.06) -> dict:
    """ln loss = offset of the cell + k (ln rate - ln rate*)^2 over all curves at once, ln rate*
    linear in ln N, ln D and ln batch.

    One curvature for all and runs within `near` of their cell's best: one curve alone has 4 or 5
    runs of one seed, and its vertex is noise. Standard errors from the Jacobian and the residuals.
    """
    best = main.groupby("cell")["loss"].transform("min")
    used = main[main["loss"] < best * (1 + near)]
    used = used.assign(cell=used["cell"].rank(method="dense").astype(int) - 1)
    x, y, cell = (
        np.log(used["learning_rate"].to_numpy()),
        np.log(used["loss"].to_numpy()),
        used["cell"].to_numpy(),
    )
    design = np.column_stack(
        [
            np.ones(len(x)),
            np.log(used["N"] / hyperparameters.N0),
            np.log(used["D"] / hyperparameters.D0),
            np.log(used["batch_size"] * SEQ_LEN / hyperparameters.BATCH),
        ]
    )

    def residual(p):
        return p[5 + cell] + p[4] ** 2 * (x - design @ p[:4]) ** 2 - y

    start = np.concatenate(
        [
            [np.log(hyperparameters.RATE), 0, 0, 0, 0.1],
            np.log(used.groupby("cell")["loss"].min().to_numpy()),
        ]
    )
    found = least_squares(residual, start)
    freedom = len(x) - len(start)
    sd = float(np.sqrt(2 * found.cost / freedom))
    se = sd * np.sqrt(np.diag(np.linalg.inv(found.jac.T @ found.jac)))
    names = ("RATE_N", "RATE_D", "RATE_BATCH")
    rate = float(np.exp(found.x[0]))
    return (
        {"RATE": (rate, rate * se[0])}
        | {n: (float(v), float(e)) for n, v, e in zip(names, found.x[1:4], se[1:4])}
        | {
            "curvature": (float(found.x[4] ** 2), float(2 * found.x[4] * se[4])),
            "residual_sd": sd,
            "runs": len(x),
            "curves": int(cell.max() + 1),
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workdirs", nargs="*", type=Path)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--tiny", action="store_true", help="the same: the fit takes a second")
    args = parser.parse_args()
    if args.workdirs:
        collect(args.workdirs).to_csv(TABLE, index=False, float_format="%.6g")
    table = pd.read_csv(TABLE)
    main_grid = cells(table)
    rate = fit_rate(main_grid)
    if args.json:
        print(json.dumps(rate))
        return
    print("final loss, nats/token, by learning rate (DECAY 1, WARMUP 5 %)")
    print(
        main_grid.pivot_table(
            index=["N", "D", "batch_size"], columns="learning_rate", values="loss"
        )
        .round(3)
        .to_string(na_rep="-")
    )
    print(
        "\nrate:",
        {k: f"{v[0]:.4g} +- {v[1]:.2g}" if isinstance(v, tuple) else v for k, v in rate.items()},
    )
    side = table[np.isclose(table["D"], 1e6, rtol=0.01)]
    side = side.assign(
        DECAY=(side["weight_decay"] * side["steps"]).round(2),
        WARMUP=(side["warmup_steps"] / side["steps"]).round(2),
    )
    print("\nfinal loss by weight decay and warm-up (D = 1M tokens, batch 16, rate 0.01)")
    print(
        side.pivot_table(index=["DECAY", "WARMUP"], columns="N", values="loss").round(4).to_string()
    )


if __name__ == "__main__":
    main()
