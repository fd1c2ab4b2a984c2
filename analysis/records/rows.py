"""The rows of one run's record, read line by line from the parts of its metrics.

Whatever cannot be used is listed with its reason.
"""

import json
import math
from typing import Any

from stepladder.configs.core import record

# types of the columns that are numbers in every row that has them
DTYPES: dict[str, type] = {
    "decayed": bool,
    "loss": float,
    "loss_se": float,
    "tokens_per_second": float,
    "mfu": float,
    "seconds": float,
    "steps": float,
}

Row = dict[str, Any]


def exclusion(run_id: str, reason: str, step: float | None = None, domain: str = "") -> Row:
    """A row of the table of exclusions."""
    return {
        "run_id": run_id,
        "step": math.nan if step is None else step,
        "domain": domain,
        "reason": reason,
    }


def metric_rows(folder: Any, run_id: str, excluded: list[Row]) -> list[Row]:
    """Rows of all metric parts in order of step, then the timing rows.

    Of a step written twice the last attempt stands and the earlier one goes to `excluded`.
    """
    parts = _parts(folder / record.METRICS, run_id, excluded)
    kept: dict[tuple[str, float, str], Row] = {}
    timing: list[Row] = []
    begins = parts[0][0][0] if parts else 0
    # A later attempt covers its steps (first, last] again from its own `first`: it comes later in
    # this order.
    for (first, last), path in parts:
        seen: set[tuple[str, float, str]] = set()
        for row in _lines(path, run_id, excluded):
            if row["kind"] == record.TIMING:
                timing.append(row)
                continue
            key = (row["kind"], row["step"], row.get("domain", ""))
            # The step a record begins at (0, or the parent's) belongs to its first part: no other
            # part could hold it.
            if not (first < row["step"] <= last or row["step"] == first == begins):
                why = f"part {path.name}: step outside of the part's range"
                excluded.append(exclusion(run_id, why, row["step"], key[2]))
                continue
            if key in kept:
                where = "twice in one part" if key in seen else "an earlier attempt"
                why = f"duplicate {row['kind']} row ({where}); the last one stands"
                excluded.append(exclusion(run_id, why, row["step"], key[2]))
            seen.add(key)
            kept[key] = row
    return [*sorted(kept.values(), key=lambda r: r["step"]), *timing]


def _parts(metrics: Any, run_id: str, excluded: list[Row]) -> list[tuple[tuple[int, int], Any]]:
    """The parts of a record, with their ranges of steps, by name."""
    if not metrics.exists():
        return []
    parts = []
    for path in sorted(metrics.iterdir(), key=lambda p: p.name):
        if not path.name.endswith(".jsonl"):
            continue
        try:
            parts.append((record.part_range(path.name), path))
        except ValueError:
            why = f"part {path.name}: the name is not first-last.jsonl"
            excluded.append(exclusion(run_id, why))
    return parts


def _lines(path: Any, run_id: str, excluded: list[Row]) -> list[Row]:
    """The rows of one part that can be read."""
    try:
        lines = path.read_text(errors="replace").split("\n")
    except OSError as error:
        excluded.append(exclusion(run_id, f"part {path.name}: {error}"))
        return []
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            rows.append(_checked(json.loads(line)))
        except (ValueError, TypeError) as error:
            # no newline after it: the part is being written at this moment, or its writer was
            # killed
            cut = number == len(lines)
            what = "cut short while being written" if cut else f"unreadable ({error})"
            excluded.append(exclusion(run_id, f"part {path.name} line {number}: {what}"))
    return rows


def _checked(row: Row) -> Row:
    """`row` itself. Raises ValueError or TypeError when it is no row of a record."""
    missing = [f for f in record.REQUIRED if f not in row]
    if missing:
        raise ValueError(f"without {', '.join(missing)}")
    numbers = ("step", "tokens", *DTYPES)
    wrong = [f for f in numbers if not isinstance(row.get(f), (int, float, type(None)))]
    if wrong or row["step"] is None or row["tokens"] is None:
        raise ValueError(f"{wrong[0] if wrong else 'step or tokens'} is not a number")
    if row["kind"] == record.EVAL and not {"domain", "loss", "decayed"} <= row.keys():
        raise ValueError("evaluation without domain, loss or decayed")
    return row
