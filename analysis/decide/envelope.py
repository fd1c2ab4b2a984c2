"""Chinchilla's Approach 1: the lower envelope of training curves over compute, and power laws
through its winners (arXiv 2203.15556).

On a log grid of C the run with the lowest loss there gives N* and D*. Points where the winner has
no smaller, or no larger, size to compete with are dropped and listed: the optimum may lie beyond
the sizes that were trained. A point in the middle of a decaying schedule is worse than a run that
ends there, which favours small models: give runs with a constant rate, or several horizons a size.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
import pandas as pd

from stepladder.analysis.decide.power_law import PowerLaw, power_law
from stepladder.configs.core.errors import UserError, nearest

_SIZES = 3  # fewest sizes that must each win somewhere between the edges
_COLUMNS = ("run", "C", "N", "D", "loss")
_EDGES = {
    0: "",
    1: "the smallest size at this C wins: train smaller models",
    2: "the largest size at this C wins: train larger models",
    3: "only one size reaches this C: nothing to compare",
}


@dataclass(frozen=True)
class Stretch:
    """Neighbouring points of the C grid with one winner: C from low to high (FLOPs), points, run,
    N, and why it was dropped ('' if kept).
    """

    low: float
    high: float
    points: int
    run: str
    N: float
    refused: str


@dataclass(frozen=True)
class Envelope:
    """Kept points (C, N*, D*, loss, run), all stretches from small to large C, and the power laws;
    intervals are over resampled runs.

    failed: share of the resamples whose envelope has too few sizes for a power law.
    """

    C: tuple[float, ...]
    N_star: tuple[float, ...]
    D_star: tuple[float, ...]
    loss: tuple[float, ...]
    run: tuple[str, ...]
    stretches: tuple[Stretch, ...]
    N: PowerLaw
    D: PowerLaw
    level: float
    draws: int
    seed: int
    failed: float
    notes: tuple[str, ...]

    def to_frame(self) -> pd.DataFrame:
        """One row a kept point of the C grid."""
        return pd.DataFrame(
            {"C": self.C, "N": self.N_star, "D": self.D_star, "loss": self.loss, "run": self.run}
        )

    def to_dict(self) -> dict:
        """JSON-able."""
        return dataclasses.asdict(self) | {"source": "2203.15556"}

    def __str__(self) -> str:
        lines = [
            (
                f"lower envelope of training curves (arXiv 2203.15556), {self.level:.0%} intervals "
                "over runs"
            )
        ]
        for s in self.stretches:
            lines.append(
                f"  C {s.low:.4g} to {s.high:.4g}  {s.points:>4} points  N {s.N:.4g}  "
                f"{s.refused or s.run}"
            )
        return "\n".join(
            [*lines, f"  {self.N}", f"  {self.D}"] + [f"  note: {note}" for note in self.notes]
        )


def envelope(
    curves: pd.DataFrame, *, grid: int = 1500, level: float = 0.9, draws: int = 300, seed: int = 0
) -> Envelope:
    """The envelope of a table with columns run, C (FLOPs so far), N, D (tokens so far), loss: one
    row a checkpoint.

    Curves are interpolated in ln loss over ln C and never extended. Raises UserError for a missing
    column, a bad value, a run of several sizes, or fewer than three sizes that win between the
    edges.
    """
    runs, sizes, c, loss, tokens = _curves(curves, grid)
    winner, edge = _winners(loss, sizes)
    kept = (winner >= 0) & (edge == 0)
    stretches = _stretches(c, winner, edge, runs, sizes)
    winning = np.unique(sizes[winner[kept]])
    if len(winning) < _SIZES:
        raise UserError(
            f"sizes={len(winning)}: only that many of {len(np.unique(sizes))} sizes win between "
            f"the smallest and the largest; {_SIZES} are needed: train sizes closer together, or "
            "longer"
        )
    at = np.flatnonzero(kept)
    n_star, d_star = sizes[winner[at]], np.exp(tokens[winner[at], at])
    rng = np.random.default_rng(seed)
    sampled = np.full((2, draws, len(c)), np.nan)
    for k in range(draws):
        chosen = np.unique(rng.integers(0, len(runs), len(runs)))
        won, side = _winners(loss[chosen], sizes[chosen])
        points = np.flatnonzero((won >= 0) & (side == 0))
        won = chosen[won[points]]
        if len(np.unique(sizes[won])) >= _SIZES:
            sampled[:, k, points] = np.log(sizes[won]), tokens[won, points]
    good = np.isfinite(sampled[0]).any(1)
    failed = 1 - float(good.mean()) if draws else 0.0
    laws = []
    for k, (name, star) in enumerate((("N*", n_star), ("D*", d_star))):
        law = power_law(c[at], star, names=("C", name))
        laws.append(_with_interval(law, c, sampled[k, good], level) if good.sum() > 1 else law)
    notes = [
        (
            f"{failed:.0%} of the resamples leave fewer than {_SIZES} sizes on the envelope; the "
            "intervals are of the others"
        )
    ] * (failed > 0.05)
    lost = sorted(set(runs) - {s.run for s in stretches})
    notes += (
        [f"never on the envelope: {', '.join(lost[:10])}{' ...' if len(lost) > 10 else ''}"]
        if lost
        else []
    )
    return Envelope(
        tuple(map(float, c[at])),
        tuple(map(float, n_star)),
        tuple(map(float, d_star)),
        tuple(map(float, np.exp(loss[winner[at], at]))),
        tuple(runs[i] for i in winner[at]),
        stretches,
        *laws,
        level,
        draws,
        seed,
        failed,
        tuple(notes),
    )


def _curves(
    table: pd.DataFrame, grid: int
) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Names [R], N [R], C grid [G], ln loss [R, G] and ln D [R, G], NaN outside of a run's own
    range of C.
    """
    for name in _COLUMNS:
        if name not in table:
            raise UserError(
                f"column {name!r}: missing from the table; {nearest(name, map(str, table.columns))}"
            )
    values = table[list(_COLUMNS[1:])].to_numpy(float)
    bad = ~(np.isfinite(values) & (values > 0))
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise UserError(
            f"column {_COLUMNS[column + 1]!r}={values[row, column]}: not a positive finite number "
            f"(row {table.index[row]}); mend it"
        )
    ends = np.log([values[:, 0].min(), values[:, 0].max()])
    log_c = np.linspace(*ends, grid)
    runs, sizes, loss, tokens = [], [], [], []
    for name, group in table.groupby("run", sort=True):
        group = group.sort_values("C")
        if group["N"].nunique() > 1:
            raise UserError(
                f"run={name}: {group['N'].nunique()} different N; give every size its own name in "
                "column 'run'"
            )
        x = np.log(group["C"].to_numpy(float))
        inside = (log_c >= x[0] - 1e-12) & (log_c <= x[-1] + 1e-12)
        for out, column in ((loss, "loss"), (tokens, "D")):
            out.append(
                np.where(inside, np.interp(log_c, x, np.log(group[column].to_numpy(float))), np.nan)
            )
        runs.append(str(name))
        sizes.append(float(group["N"].iloc[0]))
    return runs, np.array(sizes), np.exp(log_c), np.array(loss), np.array(tokens)


def _winners(loss: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per point of the grid the run with the lowest loss (-1: no run), and a key of _EDGES."""
    present = np.isfinite(loss)
    winner = np.where(present.any(0), np.argmin(np.where(present, loss, np.inf), axis=0), -1)
    n = sizes[winner]
    smallest = np.where(present, sizes[:, None], np.inf).min(0)
    largest = np.where(present, sizes[:, None], -np.inf).max(0)
    return winner, (n <= smallest) + 2 * (n >= largest)


def _stretches(
    c: np.ndarray, winner: np.ndarray, edge: np.ndarray, runs: list[str], sizes: np.ndarray
) -> tuple[Stretch, ...]:
    starts = np.flatnonzero(np.diff(winner * 4 + edge, prepend=-99))
    out = []
    for first, last in zip(starts, [*starts[1:] - 1, len(c) - 1]):
        i = winner[first]
        if i >= 0:
            out.append(
                Stretch(
                    float(c[first]),
                    float(c[last]),
                    int(last - first + 1),
                    runs[i],
                    float(sizes[i]),
                    _EDGES[int(edge[first])],
                )
            )
    return tuple(out)


def _with_interval(law: PowerLaw, c: np.ndarray, log_y: np.ndarray, level: float) -> PowerLaw:
    """The law of the observed envelope with the intervals of the resampled ones, whose points of
    the grid differ from its own.
    """
    where = np.isfinite(log_y).any(0)
    spread = power_law(
        c[where],
        np.exp(np.nanmean(log_y[:, where], axis=0)),
        draws=np.exp(log_y[:, where]),
        level=level,
    )
    return dataclasses.replace(
        law,
        exponent_interval=spread.exponent_interval,
        coefficient_interval=spread.coefficient_interval,
    )
