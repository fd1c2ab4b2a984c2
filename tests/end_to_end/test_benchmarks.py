"""Every benchmark runs: each takes --tiny and ends well. What it measures is never asserted."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import published_rows

ROOT = Path(__file__).resolve().parents[2]
# Files that a benchmark reads or imports, and the check of the documents.
PARTS = set(
    (
        "case_arguments check_docs chinchilla_points rung24 same_bits_facts same_bits_jobs "
        "scipy_huber step_breakdown torch_step"
    ).split()
)
BENCHMARKS = sorted(p.stem for p in (ROOT / "benchmarks").glob("*.py") if p.stem not in PARTS)
PUBLIC = {  # benchmark -> the public table that it reads
    "colpret_methods": "colpret",
    "fit_vs_scipy": "chinchilla",
    "recommend_check": "colpret",
    "scipy_fit": "chinchilla",
}
SIZES, TOKENS = (1e7, 1e8, 1e9), (1e9, 1e10, 1e11)
POINTS = "N,D,loss\n" + "\n".join(
    f"{n},{d},{1.7 + 400 / n**0.34 + 410 / d**0.28}" for n in SIZES for d in TOKENS
)


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHMARKS)
def test_tiny(name, tmp_path):
    if name in PUBLIC:
        published_rows.path(PUBLIC[name])
    points = tmp_path / "points.csv"
    points.write_text(POINTS)
    words = {
        "demo_seeds": [str(tmp_path / "demo")],
        "fit_once": [str(points)],
        "on_a_card": [str(tmp_path / "card"), "--only=bench", "--only=torch"],
        "same_bits": ["HEAD", "HEAD"],
    }.get(name, [])
    before = {path: path.read_bytes() for path in committed()}
    command = [sys.executable, ROOT / "benchmarks" / f"{name}.py", *words, "--tiny"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip(), "it prints what it measured"
    assert {path: path.read_bytes() for path in committed()} == before, "it writes no result"


def committed() -> list[Path]:
    """Results and figures in the repository."""
    found = [*(ROOT / "docs").rglob("*.svg"), *(ROOT / "benchmarks").glob("*.[cj]s*")]
    return sorted(found)
