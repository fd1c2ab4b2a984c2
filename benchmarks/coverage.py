"""How often 90 % prediction intervals hold, law by law: `python benchmarks/coverage.py [--laws
chinchilla,gadre] [--trials 200] [--json]`.

Per trial: a table drawn from the law with 1 % noise, one fit, one interval at each of several new
runs, which have noise of their own: some inside of the points, some with every input beyond them by
up to a factor of 2 (a share stays a share). Coverage is the part of new runs inside of their
interval; its standard error comes from the spread between trials, whose new runs share one fit. An
interval takes its law to hold, and here it does: this says whether the statistics are right, not
whether a law is.
"""

import argparse
import json
import sys
import time
import warnings
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from stepladder.analysis.fit.fit import fit
from stepladder.analysis.fit.interval import prediction_interval
from stepladder.analysis.laws import LAWS
from stepladder.analysis.laws.law import Law, halton
from stepladder.configs.core.errors import UserError

LEVEL, LEAST, MOST = 0.9, 0.85, 0.95
# of centred inputs
RANGE = {"log": (-2.0, 2.0), "raw": (0.3, 1.2), "linear": (0.15, 3.0), "share": (0.05, 0.95)}
# A mixture law is the same code for every number of domains: one number each.
NAMES = [n for n in LAWS if not (n.startswith(("shukor", "ye")) and not n.endswith("3"))]


@dataclass
class Row:
    """`inside`, `beyond`: coverage; `width` the median interval over that of the noise alone, which
    no interval can be narrower than.
    """

    law: str
    parameters: int
    points: int
    trials: int
    inside: float
    inside_se: float
    beyond: float
    beyond_se: float
    inside_width: float
    beyond_width: float
    refused: int  # trials without an interval
    unidentified: int  # trials whose fit says so
    at_bound: int
    seconds: float

    @property
    def said(self) -> str:
        """What is off, by more than 2 standard errors."""
        said = []
        for where in ("inside", "beyond"):
            value, se = getattr(self, where), getattr(self, f"{where}_se")
            if value + 2 * se < LEAST:
                said.append(f"too short {where}")
            elif value - 2 * se > MOST:
                said.append(f"too long {where}")
        return ", ".join(said)


def truth(law: Law) -> np.ndarray:
    """theta, in centred units, inside of the ranges that starts are drawn from."""
    u = halton(7, len(law.params))[6] * 0.6 + 0.1
    return law.theta(
        {
            p.name: p.start[0] * (p.start[1] / p.start[0]) ** v
            if p.positive
            else p.start[0] + (p.start[1] - p.start[0]) * v
            for p, v in zip(law.params, u)
        }
    )


def runs(
    law: Law, count: int, noise: float, rng: np.random.Generator, beyond: bool = False
) -> pd.DataFrame:
    """New runs of the law at true parameters."""
    x = np.empty((count, len(law.axes)))
    for i, axis in enumerate(law.axes):
        low, high = (18.0, 24.0) if law.name == "farseer" and axis.name == "D" else RANGE[axis.kind]
        if beyond and axis.kind != "share":
            low, high = high, high * 2 if axis.kind == "linear" else high + np.log(2)
        x[:, i] = rng.uniform(low, high, count)
    mixture = [
        i for i, axis in enumerate(law.axes) if axis.kind == "share" and axis.name.startswith("h")
    ]
    if mixture:
        x[:, mixture] = rng.dirichlet(np.ones(len(mixture)), count)
    y = law.function(np, truth(law), x) * np.exp(noise * rng.standard_normal(count))
    raw = [
        np.exp(x[:, i]) if axis.kind in ("log", "raw") else x[:, i]
        for i, axis in enumerate(law.axes)
    ]
    return pd.DataFrame(dict(zip(law.inputs, raw))).assign(**{law.output: y})


def measure(law: Law, options: argparse.Namespace) -> Row:
    """Coverage of one law."""
    begin = time.perf_counter()
    count = options.points or max(40, 6 * len(law.params))
    held: dict[str, list[float]] = {"inside": [], "beyond": []}
    width: dict[str, list[float]] = {"inside": [], "beyond": []}
    refused = unidentified = at_bound = 0
    alone = 2 * 1.6449 * options.noise
    for trial in range(options.trials):
        rng = np.random.default_rng([options.seed, trial])
        table = runs(law, count, options.noise, rng)
        new = {
            where: runs(law, options.new, options.noise, rng, beyond=where == "beyond")
            for where in held
        }
        try:
            found = fit(table, law.name, objective=options.objective, unidentified="report")
            every = prediction_interval(
                found, pd.concat(new.values()), level=LEVEL, resamples=options.resamples, seed=trial
            )
        except UserError as error:
            refused += 1
            print(f"{law.name}, trial {trial}: {error}", file=sys.stderr)
            continue
        unidentified += bool(found.unidentified)
        at_bound += bool(found.at_bound)
        for i, (where, table) in enumerate(new.items()):
            part = every[i * options.new : (i + 1) * options.new]
            held[where].append(
                float(np.mean([a.low <= y <= a.high for a, y in zip(part, table[law.output])]))
            )
            width[where] += [np.log(a.high / a.low) / alone for a in part]
    done = options.trials - refused
    if not done:
        nan = float("nan")
        return Row(
            law.name,
            len(law.params),
            count,
            0,
            *[nan] * 6,
            refused,
            0,
            0,
            time.perf_counter() - begin,
        )
    se = {
        where: float(np.std(v, ddof=1) / np.sqrt(done)) if done > 1 else float("nan")
        for where, v in held.items()
    }
    return Row(
        law.name,
        len(law.params),
        count,
        done,
        float(np.mean(held["inside"])),
        se["inside"],
        float(np.mean(held["beyond"])),
        se["beyond"],
        float(np.median(width["inside"])),
        float(np.median(width["beyond"])),
        refused,
        unidentified,
        at_bound,
        time.perf_counter() - begin,
    )


def text(row: Row) -> str:
    """A line of the table in Markdown."""
    notes = [row.said] if row.said else []
    notes += [
        f"{n} {name}"
        for name, n in (
            ("refused", row.refused),
            ("unidentified", row.unidentified),
            ("at a bound", row.at_bound),
        )
        if n
    ]
    return (
        f"| {row.law} | {row.parameters} | {row.points} | {row.trials} | {row.inside:.1%} ± "
        f"{row.inside_se:.1%} | {row.beyond:.1%} ± {row.beyond_se:.1%} | {row.inside_width:.2f} | "
        f"{row.beyond_width:.2f} | {'; '.join(notes)} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--laws",
        default="",
        help="names, comma-separated; empty: all, mixtures with 3 domains only",
    )
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument(
        "--new", type=int, default=8, help="new runs inside, and as many beyond, per trial"
    )
    parser.add_argument("--points", type=int, default=0, help="0: 6 per parameter, 40 at least")
    parser.add_argument("--noise", type=float, default=0.01)
    parser.add_argument("--objective", default="huber_log")
    parser.add_argument("--resamples", type=int, default=400, help="the library's default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tiny", action="store_true", help="two trials of one law")
    parser.add_argument("--json", action="store_true", help="one JSON line per law")
    options = parser.parse_args()
    if options.tiny:
        options.laws, options.trials, options.resamples = options.laws or "chinchilla", 2, 20
    names = [n for n in options.laws.split(",") if n] or NAMES
    unknown = [n for n in names if n not in LAWS]
    if unknown:
        parser.error(f"--laws={unknown[0]}: unknown; one of {', '.join(LAWS)}")
    # far starts overflow; the solver leaves them out
    warnings.filterwarnings("ignore", category=RuntimeWarning)
    if not options.json:
        print(
            f"{options.objective}, noise {options.noise:.2%}, {LEVEL:.0%} intervals of "
            f"{options.resamples} simulated tables\n"
        )
        print(
            "| law | parameters | points | trials | coverage inside | coverage beyond | width "
            "inside | width beyond | said |"
        )
        print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for name in names:
        row = measure(LAWS[name], options)
        print(
            json.dumps(asdict(row) | {"said": row.said}) if options.json else text(row), flush=True
        )


if __name__ == "__main__":
    main()
