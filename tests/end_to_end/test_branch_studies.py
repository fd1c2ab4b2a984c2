"""The tiny studies of branches, from config to page, by the commands of their docstrings."""

import json
import subprocess
import sys

import pytest


def command(root, *words):
    done = subprocess.run(
        [sys.executable, "-m", "stepladder.train", *map(str, words)],
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("study", ["overtraining", "split"])
def test_the_tiny_study_runs_is_probed_and_judged(study, root, tmp_path):
    config = f"--config={root}/configs/studies/{study}.py:tiny"
    work = f"--workdir={tmp_path}"
    command(root, "run", config, work, "--quiet")
    command(root, "probe", config, work)
    said = command(root, "report", work, f"--study={study}")
    results = json.loads((tmp_path / "report" / study / "results.json").read_text())
    assert (tmp_path / "report" / study / "index.html").is_file()
    assert results["verdict"] and all(line in said for line in results["verdict"])
    if study == "split":
        assert results["routers"], "the probes of routing are read"
    again = command(root, "probe", config, work)
    assert "0 made" in again, "nothing is measured twice"
