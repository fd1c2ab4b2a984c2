"""Ladders that could be trained for a target, and what each costs.

They are the candidates that a recommendation chooses from.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

# The choices. Sizes stand on one grid of half octaves below the target, so that candidates share
# points and a simulation of all is small.
SIZES = (3, 4, 5, 6)
OCTAVES = tuple(range(1, 11))  # the largest proxy is target / 2^octaves
SPACINGS = (1, 2, 4)  # half octaves between sizes: factors of 1.41, 2 and 4
HORIZONS = (
    (1.0,),
    (1.0, 4.0),
    (0.5, 1.0, 2.0),
    (0.5, 2.0, 8.0),
    (1.0, 2.0, 4.0),
    (1.0, 2.0, 4.0, 8.0),
    (2.0, 8.0, 32.0),
)
SEEDS = (1, 2)
SHARES = (0.0, 0.1, 0.3)  # of the target's own training
CHINCHILLA = 20  # tokens a parameter: the unit of HORIZONS
DECAY = 0.2  # of a branch's tokens are spent after it has left the trunk (arXiv 2405.18392)
TARGET = -1  # the trunk of the target itself


@dataclass(frozen=True)
class Candidate:
    """One ladder: every size is trained to every horizon, `seeds` times.

    Horizons are multiples of 20 tokens a parameter; a size and seed has one trunk.
    """

    target: tuple[float, float]  # N, D
    sizes: tuple[float, ...]  # N, from the largest
    horizons: tuple[float, ...]
    seeds: int
    share: float  # of the target's training, ending in a decayed branch of its trunk

    def runs(self) -> pd.DataFrame:
        """One row a run: N, D, start, seeds, flops (of all its seeds), what.

        `start` is the D at which a cooldown leaves its trunk.

        The longest horizon is the trunk, which ends decayed. A shorter one pays for its decay
        alone. The target's branch pays for the trunk up to its start too, although that part is not
        lost when the target is trained to its end.
        """
        rows = []
        for n, h in itertools.product(self.sizes, sorted(self.horizons, reverse=True)):
            d, trunk = h * CHINCHILLA * n, h == max(self.horizons)
            start = 0.0 if trunk else (1 - DECAY) * d
            flops = 6 * n * (d - start) * self.seeds
            rows.append((n, d, start, self.seeds, flops, "trunk" if trunk else "cooldown"))
        if self.share:
            n, d = self.target[0], self.share * self.target[1]
            rows.append((n, d, 0.0, 1, 6 * n * d, f"target's trunk to {self.share:.0%}, decayed"))
        return pd.DataFrame(rows, columns=["N", "D", "start", "seeds", "flops", "what"])

    @property
    def flops(self) -> float:
        """FLOPs of the whole ladder, the sum over `runs`."""
        unit = 6 * CHINCHILLA * sum(n * n for n in self.sizes) * self.seeds
        last = max(self.horizons)
        return (
            unit * (last + DECAY * (sum(self.horizons) - last))
            + self.share * 6 * self.target[0] * self.target[1]
        )

    def __str__(self) -> str:
        sizes = ", ".join(f"{n:.3g}" for n in self.sizes)
        horizons = ", ".join(f"{h * CHINCHILLA:g}" for h in self.horizons)
        extra = f", and {self.share:.0%} of the target's training" if self.share else ""
        return (
            f"{len(self.sizes)} sizes ({sizes}) at {horizons} tokens a parameter, {self.seeds} "
            f"seed{'s' * (self.seeds > 1)}{extra}"
        )


def candidates(
    target: tuple[float, float], *, smallest: float, shares: Sequence[float] = SHARES
) -> list[Candidate]:
    """Every combination of the choices that can be trained, cheapest first.

    Its sizes all have `smallest` parameters or more, and it costs less than the target.
    """
    n, d = target
    out = []
    for octaves, count, spacing in itertools.product(OCTAVES, SIZES, SPACINGS):
        sizes = tuple(n * 2.0 ** (-octaves - spacing * i / 2) for i in range(count))
        if sizes[-1] < smallest * (1 - 1e-9):
            continue
        out += [
            Candidate((n, d), sizes, *rest) for rest in itertools.product(HORIZONS, SEEDS, shares)
        ]
    return sorted((c for c in out if c.flops < 6 * n * d), key=lambda c: c.flops)


@dataclass(frozen=True)
class Design:
    """The points [n] of all candidates together."""

    N: np.ndarray
    D: np.ndarray
    trunk: np.ndarray  # a number; points of one trunk share a part of their noise
    target: tuple[float, float]  # N, D


def design_of(many: Sequence[Candidate]) -> tuple[Design, np.ndarray]:
    """The union of the candidates' points, and the seeds of each that a candidate trains.

    The seeds are int [candidates, n].
    """
    column: dict[tuple[float, float], int] = {}
    trunk: dict[float, int] = {}
    trunks, rows = [], []
    for c in many:
        mine = {(n, h * CHINCHILLA * n): c.seeds for n in c.sizes for h in c.horizons}
        for n, _ in mine:
            trunk.setdefault(n, len(trunk))
        if c.share:
            mine[c.target[0], c.share * c.target[1]] = 1
        for key in mine:
            if key not in column:
                column[key] = len(column)
                trunks.append(trunk.get(key[0], TARGET))
        rows.append({column[key]: seeds for key, seeds in mine.items()})
    seeds = np.zeros((len(rows), len(column)), int)
    for row, mine in zip(seeds, rows):
        row[list(mine)] = list(mine.values())
    n, d = np.array(list(column)).T
    return Design(n, d, np.array(trunks), many[0].target), seeds
