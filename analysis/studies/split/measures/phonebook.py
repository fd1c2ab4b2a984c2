"""The phonebook toy: after which split fraction are the most records recalled?"""

import numpy as np
import pandas as pd

from stepladder.analysis.studies.split.measures import Row
from stepladder.analysis.studies.split.measures.cells import Sample, main_arm, on_own

CLAIMED = (0.2, 0.4)
RECALL, LOSS = "recall", "loss"


def phonebook_rows(frame: pd.DataFrame, sample: Sample) -> list[Row]:
    """A row a size and total: the best fraction by recall, or by loss where no recall is given.

    near: fractions within one standard error of the best, from seeds and books together; the
    interval resamples these.
    """
    rows: list[Row] = []
    if not len(frame):
        return rows
    mine = on_own(frame, main_arm(frame))
    of = RECALL if mine[RECALL].notna().any() else LOSS
    sign = -1.0 if of == RECALL else 1.0
    mine = mine[mine[of].notna()]
    for _, curve in mine.groupby(["N", "T"]):
        table = curve.pivot_table(index=["seed", "domain"], columns="s", values=of)
        table = table.dropna()
        shares = table.columns.to_numpy(float)
        if len(shares) < 3 or not len(table):
            continue
        values = sign * table.to_numpy(float)
        mean = values.mean(0)
        best = int(mean.argmin())
        apart = values - values[:, [best]]
        count = len(values)
        known = count > 1
        error = apart.std(0, ddof=1) / np.sqrt(count) if known else np.zeros(len(shares))
        rng = np.random.default_rng([sample.seed, 5])
        pick = rng.integers(0, count, (sample.resamples, count))
        place = shares[values[pick].mean(1).argmin(1)]
        row: Row = {name: float(curve[name].iloc[0]) for name in ("N", "T")}
        row |= {"of": of, "pairs": count}
        row |= sample.estimate(float(shares[best]), place, known=known).row("s")
        row |= {"best": float(sign * mean[best]), "near": shares[apart.mean(0) <= error].tolist()}
        rows.append(row | {"shares": shares.tolist(), "means": (sign * mean).tolist()})
    return rows
