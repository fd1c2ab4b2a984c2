"""A workdir that an older commit made is read, reported and resumed as that commit did.

tests/fixtures/workdir_72a7412/README.md says how it was made. Its expected.json holds what the code
of that commit said of it; that code writes the file again (`python` and the path of this file).
"""

import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

try:
    from stepladder.analysis.records.load import load
except ImportError:  # the commit that writes expected.json
    from stepladder.analysis.load import load

FIXTURE = Path(__file__).resolve().parent.parent / "fixtures" / "workdir_72a7412"
WORKDIR = "workdir"
TRUNK, LEFT, LAST = "proxy-w8d1h8-6403ea71", 18, 32  # the run whose checkpoints are kept, and steps
BRANCH = "proxy-w8d1h8-to24-45c82ac2"  # leaves the trunk at LEFT
POINT = ("run_id", "root", "role", "state", "step", "domain", "N", "D", "C", "loss", "loss_se")
# Numbers of results.json that stand in the records or follow from them directly, beside its fits.
STORED = ("states", "runs", "forecasts", "law", "proxies", "excluded", "missing", "n")
REFITTED = "law_undecayed"
CHANGING = ("created", "created_utc", "written_utc", "generated_utc", "workdir")


def command(folder: Path, *words: str) -> str:
    """Run `stepladder` in `folder`; what it printed. Fails the test unless it exits with 0."""
    done = subprocess.run(
        [sys.executable, "-m", "stepladder.train", *words],
        cwd=folder,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def run(folder: Path) -> str:
    return command(folder, "run", "--config=ladder.py", f"--workdir={WORKDIR}", "--quiet")


def copied(to: Path) -> Path:
    """A copy of the fixture. A token store knows its sources by their times, which git drops."""
    folder = Path(shutil.copytree(FIXTURE, to / "copy"))
    for stamp in folder.glob(f"{WORKDIR}/data/*/sources.json"):
        for _, path, _, mtime in json.loads(stamp.read_text())["files"]:
            os.utime(folder / path, ns=(mtime, mtime))
    return folder


def observed(folder: Path) -> dict:
    """What the code says of a copy of the fixture: the body of expected.json."""
    runs = load(folder / WORKDIR)
    command(folder, "report", f"--workdir={WORKDIR}", "--out=report")
    results = json.loads((folder / "report" / "results.json").read_text())
    return {
        "points": json.loads(json.dumps(runs.points[list(POINT)].to_dict("records"))),
        "excluded": sorted(runs.excluded["run_id"]),
        "status": statuses(folder),
        "results": {name: results[name] for name in (*STORED, REFITTED)},
        "eval": {str(step): losses(folder, step) for step in (LEFT, LAST)},
    }


def statuses(folder: Path) -> dict[str, list[str]]:
    """Run id -> state and step/steps, as `status` prints them."""
    lines = command(folder, "status", f"--workdir={WORKDIR}").splitlines()
    return {w[0]: [w[1], w[3]] for w in map(str.split, lines) if len(w) > 3 and "/" in w[3]}


def losses(folder: Path, step: int) -> dict[str, float]:
    """Domain -> loss, as `eval` prints them."""
    printed = command(folder, "eval", f"{WORKDIR}/runs/{TRUNK}@{step}")
    words = [line.split() for line in printed.splitlines()]
    return {w[0]: float(w[2]) for w in words if len(w) > 2 and w[1] == "loss"}


def rows(folder: Path, run_id: str) -> list[dict]:
    """Metric rows without wall-clock ones, in order of their parts."""
    parts = sorted((folder / WORKDIR / "runs" / run_id / "metrics").glob("*.jsonl"))
    found = [json.loads(line) for part in parts for line in part.read_text().splitlines()]
    return [row for row in found if row["kind"] != "timing"]


def assert_near(found, expected, tolerance: float, path: str = "") -> None:
    """Equal JSON: numbers to a relative tolerance, names exactly, sentences not at all."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), path
        for key in expected:
            if key not in CHANGING:
                assert_near(found[key], expected[key], tolerance, f"{path}/{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), path
        for i, pair in enumerate(zip(found, expected, strict=True)):
            assert_near(*pair, tolerance, f"{path}[{i}]")
    elif isinstance(expected, str):
        assert isinstance(found, str) and (found == expected or " " in expected), path
    elif isinstance(expected, float) and isinstance(found, (int, float)):
        assert math.isclose(found, expected, rel_tol=tolerance, abs_tol=1e-12), path
    else:
        assert found == expected, path


@pytest.fixture(scope="module")
def expected() -> dict:
    return json.loads((FIXTURE / "expected.json").read_text())


@pytest.fixture(scope="module")
def now(tmp_path_factory) -> dict:
    return observed(copied(tmp_path_factory.mktemp("old")))


def test_an_old_workdir_loads(now, expected):
    assert len(expected["points"]) > 10
    assert_near(now["points"], expected["points"], 1e-12)
    assert now["excluded"] == expected["excluded"]


def test_status_of_an_old_workdir(now, expected):
    assert now["status"] == expected["status"]
    assert sorted({state for state, _ in now["status"].values()}) == ["diverged", "done"]


def test_report_of_an_old_workdir(now, expected):
    """The forecast is stored and its truth read; one law is fitted anew, and as well as before."""
    results, before = now["results"], expected["results"]
    for name in STORED:
        assert_near(results[name], before[name], 1e-9, name)
    entry, refit = results["forecasts"][0], (results[REFITTED], before[REFITTED])
    assert entry["truth"] == pytest.approx(entry["prediction"], rel=0.5)
    assert refit[0]["value"] == pytest.approx(refit[1]["value"], rel=1e-9)
    assert refit[0]["points"] == refit[1]["points"]


def test_eval_of_an_old_checkpoint(now, expected):
    """Six decimals are printed; another processor may round the last one differently."""
    for step, losses_before in expected["eval"].items():
        assert now["eval"][step] == pytest.approx(losses_before, abs=2e-6)


def test_repeating_the_command_leaves_an_old_workdir_untouched(tmp_path):
    folder = copied(tmp_path)

    def files() -> dict[str, tuple[str, int]]:
        inside = (p for p in (folder / WORKDIR).rglob("*") if p.is_file())
        return {
            str(p): (hashlib.sha256(p.read_bytes()).hexdigest(), p.stat().st_mtime_ns)
            for p in inside
        }

    before = files()
    assert "12 done, 1 diverged" in run(folder)
    assert files() == before


def test_an_old_run_resumes_and_branches(tmp_path):
    """Without its last checkpoint the trunk goes on from the one before; a branch starts anew.

    The rows are those of the fixture to the bit on one machine; on another processor, nearly.
    """
    folder = copied(tmp_path)
    before = {run_id: rows(folder, run_id) for run_id in (TRUNK, BRANCH)}
    trunk = folder / WORKDIR / "runs" / TRUNK
    shutil.rmtree(trunk / "checkpoints" / str(LAST))
    (trunk / "status.json").unlink()
    shutil.rmtree(folder / WORKDIR / "runs" / BRANCH)
    assert "12 done, 1 diverged" in run(folder)
    for run_id, rows_before in before.items():
        assert_near(rows(folder, run_id), rows_before, 1e-4, run_id)
    assert sorted(p.name for p in (trunk / "checkpoints").iterdir()) == [str(LEFT), str(LAST)]


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as temporary:
        body = json.dumps(observed(copied(Path(temporary))), separators=(",", ":"))
    (FIXTURE / "expected.json").write_text(body + "\n")
