"""All that a card has to show, in one call: what it reaches, its tests, ten kills of a run and ten
of a pack, and the comparison with torch.compile.

    # about twelve minutes on an H100; everything said is in FOLDER too
    python benchmarks/on_a_card.py FOLDER
    # the same calls in small, anywhere: about five minutes on two cores
    python benchmarks/on_a_card.py FOLDER --tiny

Each part is a command of its own that is printed first; one that fails does not hold the others up.
The exit status is 1 when one of them failed.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTEST = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider"]
KILLS = "tests/end_to_end/test_kills.py::test_killed_ten_times_and_resumed"


def parts(folder: Path, tiny: bool) -> dict[str, list[str]]:
    """Name -> command, the most important first: a lent card is not lent for long."""
    small = ["--tiny"] if tiny else []
    kinds = ("single",) if tiny else ("single", "pack")
    benchmark = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--json", *small]
    bench = [sys.executable, "-m", "stepladder.train", "bench", f"--out={folder}", *small]
    return {
        "tests": [*PYTEST, "-m", "gpu", "tests/gpu"],
        "bench": bench if tiny else [*bench, "--large"],
        "kills": [*PYTEST, "-m", "slow", *(f"{KILLS}[{kind}-0]" for kind in kinds)],
        "torch": benchmark,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--only", action="append", default=[], choices=parts(Path(), True), help="may be repeated"
    )
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    folder = args.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for name, command in parts(folder, args.tiny).items():
        if args.only and name not in args.only:
            continue
        print(f"--- {name}: {' '.join(command)}", flush=True)
        began = time.monotonic()
        # the parts, and the processes that they start, share the card
        env = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        with (folder / f"{name}.log").open("w") as log:
            done = subprocess.run(
                command, cwd=ROOT, env=env, stdout=log, stderr=subprocess.STDOUT, check=False
            )
        print("\n".join((folder / f"{name}.log").read_text().splitlines()[-40:]))
        found.append(
            {"part": name, "exit": done.returncode, "seconds": round(time.monotonic() - began, 1)}
        )
        print(f"--- {name}: exit status {done.returncode} after {found[-1]['seconds']} s")
    (folder / "parts.json").write_text(json.dumps(found, indent=1) + "\n")
    return 1 if any(part["exit"] for part in found) else 0


if __name__ == "__main__":
    sys.exit(main())
