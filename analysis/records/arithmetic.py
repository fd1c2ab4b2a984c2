"""In which arithmetic the runs of a record were computed, and that one fit holds one of them."""

import pandas as pd

from stepladder.analysis.records.rows import Row
from stepladder.configs.core.errors import UserError

COLUMN = "arithmetic"
# What float32 meant where records do not name their arithmetic yet: how the device by itself
# multiplies matrices of float32 (docs/benchmarks/hardware.md).
_UNNAMED = {("float32", "gpu"): "tensorfloat32", ("float32", "tpu"): "float32 in one bfloat16 pass"}


def arithmetic_of(spec: Row, lineage: Row) -> str:
    """The arithmetic of a run, a name of model/arithmetic.py where it has one."""
    dtype = str(spec["model"].get("compute_dtype", ""))
    if COLUMN in lineage:
        return str(lineage[COLUMN])
    platform = str((lineage.get("machine") or {}).get("platform", ""))
    return _UNNAMED.get((dtype, platform), dtype)


def refuse_mixed(table: pd.DataFrame) -> None:
    """Raise UserError for points that were computed in several arithmetics."""
    counts = table[COLUMN].value_counts() if COLUMN in table else pd.Series(dtype=int)
    if len(counts) > 1:
        found = ", ".join(f"{name} ({count})" for name, count in counts.items())
        raise UserError(
            f"arithmetic: the points are of several, {found}, which may differ by more than noise; "
            f"choose one with --where {COLUMN}={counts.index[0]!s}, fit each with --group "
            f"{COLUMN}, or ask for one fit of all with --mixed-arithmetic"
        )
