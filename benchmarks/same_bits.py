"""Do two commits compute the same? Runs each commit's own code on the same jobs and compares.

    python benchmarks/same_bits.py BEFORE AFTER
    python benchmarks/same_bits.py HEAD~1 HEAD --only='plan|run.demo' --keep=/tmp/same-bits

Each commit is checked out into a temporary git worktree, and its code runs out of that folder with
the packages of this interpreter. Only the command line and the files that it writes are used, so
modules may move between the two commits. The jobs (benchmarks/same_bits_jobs.py) plan every
shipped config, train small ladders, probe, fit, predict, recommend and report. Of a training run
every metric row but wall-clock ones, every array of every checkpoint, spec, lineage and token
store must be equal bit for bit. Numbers of an analysis must agree to a relative 1e-9
(--loose=REGEX allows the jobs it names 1e-6: for a solver whose starts moved). Sentences may be
reworded, which is counted; the numbers in them may not change.

The public tables are fitted too when STEPLADDER_DATA names their folder. With --keep=DIR the facts
of a commit are stored in DIR/<commit> and not computed again.
"""

import argparse
import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path

from same_bits_facts import EXACT, IGNORED, JobFailed, perform
from same_bits_jobs import Job, jobs

ROOT = Path(__file__).resolve().parent.parent
TIGHT, LOOSE = 1e-9, 1e-6  # relative differences allowed in the numbers of an analysis
FLOOR = 1e-7  # of the denominator of a relative difference: rounding errors near zero do not count
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
TIME = re.compile(r"\d{4}-\d\d-\d\dT[\d:]+Z")  # in a sentence: not compared
TINY = r"^(plan\.(base|demo|sweep)|data\.|examples\.fit)"  # the jobs of --tiny
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scipy", "pandas")


@dataclass
class Comparison:
    """What comparing two trees of facts found: leaves seen, the largest relative difference."""

    values: int = 0
    largest: float = 0.0
    where: str = ""  # of the largest difference
    different: list[str] = field(default_factory=list)
    reworded: list[str] = field(default_factory=list)

    def compare(self, before, after, tolerance: float, path: str = "") -> None:
        """Add the leaves of two JSON values. A tolerance of 0 means equal to the last bit."""
        if isinstance(before, dict) and isinstance(after, dict):
            for key in sorted((before.keys() | after.keys()) - IGNORED):
                if key not in before or key not in after:
                    side = "after" if key not in before else "before"
                    self.different.append(f"{path}/{key}: only {side}")
                else:
                    self.compare(before[key], after[key], tolerance, f"{path}/{key}")
        elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
            for i, (one, other) in enumerate(zip(before, after, strict=True)):
                self.compare(one, other, tolerance, f"{path}[{i}]")
        else:
            self._leaf(before, after, tolerance, path)

    def _leaf(self, before, after, tolerance: float, path: str) -> None:
        self.values += 1
        if type(before) is type(after) and before == after:
            return
        if tolerance and _is_number(before) and _is_number(after):
            self._difference(float(before), float(after), tolerance, path)
        elif tolerance and isinstance(before, str) and isinstance(after, str):
            self._sentence(TIME.sub("", before), TIME.sub("", after), tolerance, path)
        else:
            self.different.append(f"{path}: {_short(before)} | {_short(after)}")

    def _sentence(self, before: str, after: str, tolerance: float, path: str) -> None:
        """Words may change; the numbers between them may not, nor may a name without a space."""
        numbers = NUMBER.findall(before), NUMBER.findall(after)
        if before == after:
            return
        if len(numbers[0]) != len(numbers[1]) or " " not in before:
            self.different.append(f"{path}: {_short(before)} | {_short(after)}")
            return
        if NUMBER.sub("", before) != NUMBER.sub("", after):
            self.reworded.append(f"{path}: {_short(before)} | {_short(after)}")
        for one, other in zip(*numbers, strict=True):
            self._difference(float(one), float(other), tolerance, path)

    def _difference(self, before: float, after: float, tolerance: float, path: str) -> None:
        size = abs(before - after) / max(abs(before), abs(after), FLOOR)
        if before == after or (before != before and after != after):  # equal, or both NaN
            return
        if not size <= self.largest:
            self.largest, self.where = size, path
        if not size <= tolerance:
            self.different.append(f"{path}: {before!r} | {after!r}, relative {size:.2g}")


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _short(value) -> str:
    text = json.dumps(value)
    return text if len(text) <= 90 else f"{text[:87]}..."


@dataclass
class Side:
    """One commit: its code, the environment that runs it, and the facts stored of it."""

    commit: str
    code: Path  # a folder with the code in stepladder/
    work: Path  # jobs run in folders of this
    kept: Path  # facts of finished jobs

    @property
    def environment(self) -> dict[str, str]:
        """PYTHONPATH comes before site-packages, so an install of another checkout is not used."""
        mine = {
            "PYTHONPATH": str(self.code),
            "PYTHONDONTWRITEBYTECODE": "1",
            "JAX_PLATFORMS": "cpu",
        }
        mine["STEPLADDER_CACHE"] = os.environ.get("STEPLADDER_CACHE", str(self.work / "cache"))
        return {**os.environ, **mine}

    def check_out(self) -> None:
        """Make the worktree, unless it is there. Raises SystemExit when other code would run."""
        checkout = self.code / "stepladder"
        if checkout.exists():
            return
        _git("worktree", "add", "--detach", "--quiet", str(checkout), self.commit)
        names = ("configs", "model", "train", "analysis")
        code = "".join(f"import stepladder.{n}; print(stepladder.{n}.__path__[0]); " for n in names)
        found = subprocess.run(
            [sys.executable, "-c", code],
            env=self.environment,
            cwd=self.work,
            capture_output=True,
            text=True,
        )
        folders = [Path(line).resolve() for line in found.stdout.split()]
        if folders != [(checkout / name).resolve() for name in names]:
            raise SystemExit(f"{self.commit}: code of {folders} would run; {found.stderr}")

    def facts(self, job: Job) -> tuple[dict, float]:
        """What the job finds at this commit and the seconds it took, from `kept` or computed."""
        path = self.kept / f"{job.name.replace('/', '-')}.json"
        asked = hashlib.sha256(repr(asdict(job)).encode()).hexdigest()[:16]
        if path.exists():
            held = json.loads(path.read_text())
            if held["job"] == asked and held["environment"] == _environment():
                return held["facts"], held["seconds"]
        began = time.perf_counter()
        sandbox = self.work / job.name.replace("/", "-")
        try:
            facts = perform(job, sandbox, self.code / "stepladder", self.environment)
        except JobFailed as error:
            raise JobFailed(f"{self.commit}, {error}") from error
        seconds = round(time.perf_counter() - began, 1)
        body = {"job": asked, "environment": _environment(), "seconds": seconds, "facts": facts}
        self.kept.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(body, indent=0, sort_keys=True) + "\n")
        shutil.rmtree(sandbox)
        return facts, seconds


def _environment() -> dict:
    """What the numbers depend on beside the code: facts made under another one are not reused."""
    versions = {name: metadata.version(name) for name in PACKAGES}
    return versions | {"python": platform.python_version(), "machine": platform.machine()}


@contextlib.contextmanager
def _side(commit: str, label: str, keep: Path | None) -> Iterator[Side]:
    """A side whose worktree is removed in the end."""
    work = Path(tempfile.mkdtemp(prefix=f"same-bits-{label}-"))
    try:
        yield Side(commit, work / "code", work, (keep or work / "kept") / label)
    finally:
        checkout = work / "code" / "stepladder"
        if checkout.exists():
            _git("worktree", "remove", "--force", str(checkout))
        shutil.rmtree(work, ignore_errors=True)


def _git(*arguments: str) -> str:
    found = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    if found.returncode:
        raise SystemExit(f"git {' '.join(arguments)}: {found.stderr.strip()}")
    return found.stdout.strip()


def _one(job: Job, before: Side, after: Side, tolerance: float) -> dict:
    """Both sides of one job and their comparison, as the JSON that --json prints."""
    result = {"job": job.name, "compared": job.compared, "tolerance": tolerance}
    try:
        sides = [side.facts(job) for side in (before, after)]
    except JobFailed as error:
        return result | {"equal": False, "values": 0, "different": [str(error)], "seconds": []}
    found = Comparison()
    for part in sorted(sides[0][0].keys() | sides[1][0].keys()):
        one, other = sides[0][0].get(part), sides[1][0].get(part)
        found.compare(one, other, 0.0 if part in EXACT or job.exact else tolerance, part)
    return result | {
        "equal": not found.different,
        "values": found.values,
        "largest": found.largest,
        "where": found.where,
        "different": found.different,
        "reworded": found.reworded,
        "seconds": [seconds for _, seconds in sides],
    }


def _line(result: dict) -> str:
    """One line of a job, and up to five of its differences."""
    head = f"{result['job']:28} {'equal' if result['equal'] else 'DIFFERENT':9}"
    if not result["seconds"]:
        return f"{head} {result['different'][0]}"
    took = "/".join(f"{seconds:.0f}" for seconds in result["seconds"])
    words = f", {len(result['reworded'])} sentences reworded" if result["reworded"] else ""
    largest = f"largest difference {result['largest']:.2g}" + words
    lines = [f"{head} {result['values']:>7,} values, {largest}, {took} s: {result['compared']}"]
    more = len(result["different"]) - 5
    lines += [f"    {text}" for text in result["different"][:5]]
    return "\n".join(lines + ([f"    and {more} more"] if more > 0 else []))


def main() -> int:
    """0 when every job is equal, 1 when one differs or fails."""
    parser = argparse.ArgumentParser(description="Do two commits compute the same?")
    parser.add_argument("before", metavar="BEFORE", help="a commit")
    parser.add_argument("after", metavar="AFTER", help="another; the same one checks determinism")
    parser.add_argument(
        "--only", default="", metavar="REGEX", help="jobs whose name it is found in"
    )
    parser.add_argument("--tiny", action="store_true", help="only a few jobs of seconds")
    parser.add_argument(
        "--loose", metavar="REGEX", help=f"jobs whose numbers may differ by {LOOSE}"
    )
    parser.add_argument("--keep", type=Path, metavar="DIR", help="store facts in DIR/<commit>")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="jobs at a time (2)")
    parser.add_argument(
        "--before-only", action="store_true", help="only fill DIR/<BEFORE> of --keep"
    )
    parser.add_argument("--list", action="store_true", help="print the jobs and stop")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    chosen = [job for job in jobs() if re.search(args.only or TINY * args.tiny, job.name)]
    if args.list:
        print("\n".join(f"{job.name:28} {job.compared}" for job in chosen))
        return 0
    if not chosen:
        raise SystemExit(f"only={args.only!r}: no job has it in its name; --list shows them")
    commits = [
        _git("rev-parse", "--short=12", f"{c}^{{commit}}") for c in (args.before, args.after)
    ]
    again = commits[1] + ("-again" if commits[0] == commits[1] else "")
    keep = args.keep.absolute() if args.keep else None
    with _side(commits[0], commits[0], keep) as before, _side(commits[1], again, keep) as after:
        for side in (before, after):
            side.check_out()

        def work(job: Job) -> dict:
            tolerance = LOOSE if args.loose and re.search(args.loose, job.name) else TIGHT
            return _one(job, before, before if args.before_only else after, tolerance)

        results = []
        with ThreadPoolExecutor(args.jobs) as pool:
            for result in pool.map(work, chosen):
                results.append(result)
                if not args.json:
                    print(_line(result), flush=True)
    equal = sum(result["equal"] for result in results)
    if args.json:
        print(json.dumps({"before": commits[0], "after": commits[1], "jobs": results}, indent=1))
    else:
        print(f"{commits[0]} and {commits[1]}: {equal} of {len(results)} jobs equal")
    return 0 if equal == len(results) else 1


if __name__ == "__main__":
    sys.exit(main())
