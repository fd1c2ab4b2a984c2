"""The studies that `stepladder report --study=NAME` knows: one entry a question, in one table."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from stepladder.analysis.document import document
from stepladder.analysis.forecast import plain
from stepladder.configs.errors import UserError, nearest
from stepladder.configs.files import write_atomic


@dataclass(frozen=True)
class Study:
    """One question asked of a set of records: `run(workdir, table, out)` writes <out>/index.html, results.json and figures/.

    Exactly one of workdir and table is a path, the other is None; `run` returns the page it wrote. results.json holds, beside the numbers,
    "verdict": the sentences that the command prints.
    """

    run: Callable[[Path | None, Path | None, Path], Path]
    question: str


def run_study(name: str, workdir: Path | None, table: Path | None, out: Path | None = None) -> Path:
    """Write a study's page (out: `<workdir>/report/<name>`, of a table `report/<name>`) and return its path.

    Raises UserError for an unknown study, and unless exactly one of `workdir` and `table` is given.
    """
    if name not in STUDIES:
        raise UserError(f"study={name!r}: unknown; {nearest(name, STUDIES)}")
    if (workdir is None) == (table is None):
        raise UserError(
            f"workdir={workdir}, table={table}: give one of them: --workdir=DIR for records, --table=FILE for a table of someone's runs"
        )
    return STUDIES[name].run(workdir, table, out or (workdir or Path()) / "report" / name)


def write_study(out: Path, title: str, body: str, results: Mapping, drawn: Mapping[str, str], verdict: list[str]) -> Path:
    """Write <out>/index.html (`body`: HTML of document.py's pieces), results.json with `verdict` first, and figures/NAME.svg of `drawn`.

    Numbers that are not finite become null. Raises UserError naming `out` when it cannot be written.
    """
    for name, svg in drawn.items():
        write_atomic(out / "figures" / f"{name}.svg", svg, sync=False, field="out")
    text = json.dumps(plain({"verdict": verdict, **results}), indent=1, allow_nan=False)
    write_atomic(out / "results.json", text + "\n", field="out")
    write_atomic(out / "index.html", document(title, body), field="out")
    return out / "index.html"


def _learning_rate(workdir: Path | None, table: Path | None, out: Path) -> Path:
    from stepladder.analysis import rate_study

    return rate_study.run(workdir, table, out)


STUDIES: dict[str, Study] = {
    "learning_rate": Study(_learning_rate, "which learning rate is best, how does it move with the scale, and what does a wrong one cost?"),
}
