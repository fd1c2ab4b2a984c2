"""Reads what a run has recorded, for tests of every folder."""

import json
from pathlib import Path

from stepladder.configs.core.record import METRICS, TIMING


def rows(record: Path, *kinds: str) -> list[dict]:
    """The committed rows of the record in folder `record` (WORKDIR/runs/ID), in order.

    Those of `kinds`; without any, all but the rows of time, which differ from run to run.
    """
    found = [
        json.loads(line)
        for part in sorted((record / METRICS).glob("*.jsonl"))
        for line in part.read_text().splitlines()
    ]
    return [row for row in found if (row["kind"] in kinds if kinds else row["kind"] != TIMING)]
