"""Every command of the README: parsed and its config loaded in the fast suite, run from the first
to the last in the slow one.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from stepladder.configs.core.load import load
from stepladder.train.cli import parser

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", TEXT, flags=re.S)
LINES = [
    line.split("    #")[0].strip()
    for block in BLOCKS
    for line in block.splitlines()
    if line.strip()
]
ELSEWHERE = [
    line
    for block in re.findall(r"```sh\n(.*?)```", TEXT, flags=re.S)
    for line in block.splitlines()
]  # on hardware, or for minutes
ENVIRONMENT = re.compile(r"^((export |unset )?(STEPLADDER_\w+(=\S+)? ?)+)")
COMMANDS = [
    line
    for line in (ENVIRONMENT.sub("", line).removesuffix(" &") for line in LINES + ELSEWHERE)
    if line.startswith("stepladder ")
]


def test_every_line_is_known():
    for line in LINES + ELSEWHERE:
        left = ENVIRONMENT.sub("", line)
        assert left.startswith(("stepladder ", "RUN=")) or left in (
            "",
            "wait",
            "make demo",
            "make test",
        ), line
    assert len(COMMANDS) >= 8


@pytest.mark.parametrize("line", COMMANDS)
def test_command_parses_and_its_config_loads(line):
    words = shlex.split(line)[1:]
    args = parser.parse(words)
    if hasattr(args, "config"):
        assert load(str(ROOT / args.config), args.overrides).specs


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#]+)\)", TEXT))))
def test_links_exist(link):
    assert (ROOT / link).exists()


@pytest.mark.slow
def test_commands_run_in_order(tmp_path):
    """All bash blocks, with the tiny demo for the demo, in an empty folder; then the notebook's
    three lines.
    """
    for folder in ("configs", "analysis"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    (tmp_path / "texts").mkdir()
    subprocess.run([sys.executable, "-c", SAMPLE], cwd=tmp_path, check=True)
    script = "\n".join(line for line in LINES if not line.startswith("make")).replace(
        ":cpu", ":tiny"
    )
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    studies = (
        "transfer/report/proxy_transfer",
        "widths/report/learning_rate",
        "sweep-report",
        "transfer-report",
        "overtraining-report",
        "split-report",
    )
    for made in (
        "demo/report/index.html",
        "weights.npz",
        "store/manifest.json",
        *(f"{study}/index.html" for study in studies),
    ):
        assert (tmp_path / made).exists()
    ladder, table = re.findall(r"```python\n(.*?)```", TEXT, flags=re.S)
    done = subprocess.run(
        [sys.executable, "-c", ladder], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    done = subprocess.run(
        [sys.executable, "-c", table], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]


SAMPLE = """
import json, random
import numpy as np, pandas as pd
import zstandard
n, d = (v.ravel() for v in np.meshgrid([1e8, 3e8, 1e9, 3e9], [2e9, 1e10, 5e10]))
noise = np.exp(0.004 * np.random.default_rng(0).standard_normal(len(n)))
loss = (1.8 + 480 / n**0.348 + 2000 / d**0.366) * noise
pd.DataFrame({"params": n, "tokens": d, "val_loss": loss}).to_csv("runs.csv", index=False)
z = np.log(np.array([1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2]))
best = {n: np.log(4e-3 * (n / 1e8) ** -0.3) for n in (1e8, 2e8)}
sweep = [
    {"params": n, "tokens": 2e9, "lr": np.exp(x), "val_loss": 3 + 0.05 * (x - best[n]) ** 2}
    for n in best
    for x in z
]
pd.DataFrame(sweep).to_csv("sweep.csv", index=False)
changed = [
    {"N": 1e6, "D": 2e7 * 4**i, "seed": s, "arm": "separate", "change": "noise:init",
     "strength": g, "draw": k, "base_loss": 4 - 0.3 * i,
     "loss": 4 - 0.3 * i + (1 + 0.01 * s + 0.02 * k) * g**2 * 3**i}
    for i in range(4) for s in range(2) for g in (0.05, 0.1, 0.2) for k in range(2)
]
pd.DataFrame(changed).to_csv("changed.csv", index=False)
experts = [
    {"N": n, "D": s * t, "D2": (1 - s) * t, "domain": k, "own": k if s < 1 else "",
     "loss": 2 + 9 / (s * t + 1e5) ** 0.2 + 3 / ((1 - s) * t + 1e4) ** 0.2}
    for n in (1e5, 3e5) for t in (1e6, 4e6) for s in (0, 0.4, 0.8, 1) for k in ("law", "web")
]
pd.DataFrame(experts).to_csv("experts.csv", index=False)
rng = random.Random(0)
letters = "abcdefghijklmnopqrstuvwxyz"
words = ["".join(rng.choice(letters) for _ in range(rng.randint(3, 8))) for _ in range(3000)]
docs = [json.dumps({"text": " ".join(rng.choice(words) for _ in range(300))}) for _ in range(60)]
open("texts/a.jsonl.zst", "wb").write(zstandard.compress(("\\n".join(docs) + "\\n").encode()))
"""
