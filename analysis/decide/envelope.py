"""Chinchilla's Approach 1: the lower envelope of training curves (arXiv 2203.15556).

Power laws go through the runs that win along it.

On a log grid of C the run with the lowest loss there gives N* and D*. Points where the winner has
no smaller, or no larger, size to compete with are dropped and listed: the optimum may lie beyond
the sizes that were trained. A point in the middle of a decaying schedule is worse than a run that
ends there, which favours small models: give runs with a constant rate, or several horizons a size.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from stepladder.analysis.decide.power_law import PowerLaw, power_law
from stepladder.analysis.fit.levels import check_level, percent
from stepladder.analysis.tables.checks import positive_values, require_columns
from stepladder.configs.core.errors import UserError

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
    """Neighbouring points of the C grid with one winner."""

    low: float  # C, FLOPs
    high: float
    points: int
    run: str
    N: float
    refused: str  # why it was dropped; '' if kept


@dataclass(frozen=True)
class Envelope:
    """Kept points (C, N*, D*, loss, run), all stretches from small to large C, and the power laws.

    Intervals are over resampled runs. failed: share of the resamples whose envelope has too few
    sizes for a power law.
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

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return dataclasses.asdict(self) | {"source": "2203.15556"}

    def __str__(self) -> str:
        lines = [
            (
                "lower envelope of training curves (arXiv 2203.15556), "
                f"{percent(self.level)} intervals over runs"
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
    """The envelope of training curves, interpolated in ln loss over ln C and never extended.

    Args:
        curves: a row a checkpoint: run, C (FLOPs so far), N, D (tokens so far), loss.
        grid: points of C.
        level: of the intervals over resampled runs.
        draws: resamples.
        seed: of the resamples.

    Raises:
        UserError: for a missing column, a bad value, a run of several sizes, or fewer than three
            sizes that win between the edges.
    """
    check_level(level)
    found = _curves(curves, grid)
    winner, edge = _winners(found.loss, found.sizes)
    at = np.flatnonzero((winner >= 0) & (edge == 0))
    won = winner[at]
    _check_sizes(len(np.unique(found.sizes[won])), len(np.unique(found.sizes)))
    stars = {"N*": found.sizes[won], "D*": np.exp(found.tokens[won, at])}
    sampled = _resampled(found, draws, seed)
    good = np.isfinite(sampled[0]).any(1)
    failed = 1 - float(good.mean()) if draws else 0.0
    laws = []
    for (name, star), many in zip(stars.items(), sampled):
        law = power_law(found.c[at], star, names=("C", name))
        laws.append(_with_interval(law, found.c, many[good], level) if good.sum() > 1 else law)
    stretches = _stretches(found, winner, edge)
    return Envelope(
        C=_floats(found.c[at]),
        N_star=_floats(stars["N*"]),
        D_star=_floats(stars["D*"]),
        loss=_floats(np.exp(found.loss[won, at])),
        run=tuple(found.runs[i] for i in won),
        stretches=stretches,
        N=laws[0],
        D=laws[1],
        level=level,
        draws=draws,
        seed=seed,
        failed=failed,
        notes=tuple(_notes(failed, sorted(set(found.runs) - {s.run for s in stretches}))),
    )


def _floats(values: np.ndarray) -> tuple[float, ...]:
    return tuple(map(float, values))


def _check_sizes(winning: int, sizes: int) -> None:
    if winning < _SIZES:
        raise UserError(
            f"sizes={winning}: only that many of {sizes} sizes win between the smallest and the "
            f"largest; {_SIZES} are needed: train sizes closer together, or longer"
        )


def _notes(failed: float, lost: list[str]) -> list[str]:
    notes = []
    if failed > 0.05:
        notes.append(
            f"{failed:.0%} of the resamples leave fewer than {_SIZES} sizes on the envelope; the "
            "intervals are of the others"
        )
    if lost:
        more = " ..." if len(lost) > 10 else ""
        notes.append(f"never on the envelope: {', '.join(lost[:10])}{more}")
    return notes


@dataclass(frozen=True)
class _Curves:
    """Runs [R] on the grid of C [G]: ln loss and ln D [R, G], NaN outside of a run's own range."""

    runs: list[str]
    sizes: np.ndarray  # N [R]
    c: np.ndarray
    loss: np.ndarray
    tokens: np.ndarray


def _curves(table: pd.DataFrame, grid: int) -> _Curves:
    require_columns(table, _COLUMNS)
    if (missing := table["run"].isna()).any():
        raise UserError(f"column 'run': no name in row {missing.idxmax()}; name every run")
    values = positive_values(table, _COLUMNS[1:])
    log_c = np.linspace(np.log(values[:, 0].min()), np.log(values[:, 0].max()), grid)
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
            y = np.interp(log_c, x, np.log(group[column].to_numpy(float)))
            out.append(np.where(inside, y, np.nan))
        runs.append(str(name))
        sizes.append(float(group["N"].iloc[0]))
    return _Curves(runs, np.array(sizes), np.exp(log_c), np.array(loss), np.array(tokens))


def _resampled(found: _Curves, draws: int, seed: int) -> np.ndarray:
    """ln N* and ln D* [2, draws, G] of the envelopes of resampled runs.

    NaN where a resample has no optimum, which is everywhere when too few sizes win.
    """
    rng = np.random.default_rng(seed)
    sampled = np.full((2, draws, len(found.c)), np.nan)
    for k in range(draws):
        chosen = np.unique(rng.integers(0, len(found.runs), len(found.runs)))
        winner, edge = _winners(found.loss[chosen], found.sizes[chosen])
        at = np.flatnonzero((winner >= 0) & (edge == 0))
        won = chosen[winner[at]]
        if len(np.unique(found.sizes[won])) >= _SIZES:
            sampled[:, k, at] = np.log(found.sizes[won]), found.tokens[won, at]
    return sampled


def _winners(loss: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The run with the lowest loss at each point of the grid (-1: no run), and a key of _EDGES."""
    present = np.isfinite(loss)
    winner = np.where(present.any(0), np.argmin(np.where(present, loss, np.inf), axis=0), -1)
    n = sizes[winner]
    smallest = np.where(present, sizes[:, None], np.inf).min(0)
    largest = np.where(present, sizes[:, None], -np.inf).max(0)
    return winner, (n <= smallest) + 2 * (n >= largest)


def _stretches(found: _Curves, winner: np.ndarray, edge: np.ndarray) -> tuple[Stretch, ...]:
    starts = np.flatnonzero(np.diff(winner * 4 + edge, prepend=-99))
    ends = [*starts[1:] - 1, len(found.c) - 1]
    return tuple(
        Stretch(
            low=float(found.c[first]),
            high=float(found.c[last]),
            points=int(last - first + 1),
            run=found.runs[winner[first]],
            N=float(found.sizes[winner[first]]),
            refused=_EDGES[int(edge[first])],
        )
        for first, last in zip(starts, ends)
        if winner[first] >= 0
    )


def _with_interval(law: PowerLaw, c: np.ndarray, log_y: np.ndarray, level: float) -> PowerLaw:
    """The law of the observed envelope with the intervals of the resampled ones.

    Their points of the grid differ from its own.
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
