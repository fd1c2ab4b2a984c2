"""Whether the tables in the documents are what their commands make today: `make check-docs`.

Prints what is stale and returns 1 then. It compiles nothing, and takes a minute.
"""

import sys
from pathlib import Path

import tpu_compiled

from stepladder.train.ladder import executables

ROOT = Path(__file__).resolve().parent.parent


def stale() -> list[str]:
    """One line for everything that is stale."""
    table = tpu_compiled.read_table()
    documents = [ROOT / "BENCHMARKS.md", *sorted((ROOT / "docs").rglob("*.md"))]
    lines = []
    if not any(tpu_compiled.markdown(table) in path.read_text() for path in documents):
        lines.append(
            "the table of TPU programs is in no document as it stands; paste what "
            "`python benchmarks/tpu_compiled.py --show` prints"
        )
    for name, rows in table["ladders"].items():
        loaded, machine = tpu_compiled.opened(name)
        now = executables.fingerprints(loaded.specs, machine)
        if {row["fingerprint"] for row in rows} != now:
            lines.append(
                f"programs of {name} have changed; run `python benchmarks/tpu_compiled.py {name}`"
            )
    return lines


if __name__ == "__main__":
    found = stale()
    print("\n".join(found) or "the tables are up to date")
    sys.exit(1 if found else 0)
