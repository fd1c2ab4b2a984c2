"""The losses of one size and arm as an array, with the noise of a seed.

An arm is the set of runs of one size that share every setting but the learning rate: "main" is the
grid of learning rates, and "batch/4" the same with a quarter of the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from stepladder.analysis.studies.proxy_transfer.measures import Row
from stepladder.analysis.studies.proxy_transfer.measures.bootstrap_draws import Draws
from stepladder.analysis.studies.proxy_transfer.read_table import MEAN


@dataclass(frozen=True)
class Grid:
    """Losses of one size and arm.

    The axes are R recipes, E learning rates, V domains (the first is the mean) and S seeds.

    Attributes:
        N: parameters; D: tokens. Both, batch_size and steps are NaN when the table lacks them.
        losses: [R, E, V, S] in nats per token; NaN: no run, infinity: diverged.
        init: [V], loss at initialisation, or NaN.
        noise: [E, V], standard deviation of one run's loss over seeds, pooled over the recipes.
        freedom: [E, V], degrees of freedom of `noise`.
        noise_source: where `noise` comes from; "" when there is none.
    """

    role: str
    size: str
    arm: str
    weight_decay: float
    N: float
    D: float
    batch_size: float
    steps: float
    recipes: tuple[str, ...]
    rates: tuple[float, ...]
    domains: tuple[str, ...]
    seeds: tuple[str, ...]
    losses: np.ndarray
    init: np.ndarray
    noise: np.ndarray
    freedom: np.ndarray
    noise_source: str

    @property
    def key(self) -> str:
        """Name of the size in `Draws.seeds`."""
        return f"{self.role}/{self.size}"

    def mean(self, draws: Draws | None = None, domain: int = 0) -> np.ndarray:
        """Mean loss over the seeds [B, R, E] under the draws' seeds (B = 1 without draws).

        One diverged seed makes the mean infinite. A resample that drew none of the seeds a cell has
        falls back on all of them.
        """
        cell = self.losses[:, :, domain, :]
        counts = None if draws is None else draws.seeds.get(self.key)
        every = _average(cell, np.ones((1, cell.shape[0], cell.shape[2]), np.float32))
        if counts is None or cell.shape[2] == 1:
            return every
        drawn = _average(cell, counts)
        return np.where(np.isnan(drawn), every, drawn)

    def at(self, rate: float) -> int | None:
        """The index of a learning rate, or None."""
        return next((i for i, r in enumerate(self.rates) if same_rate(r, rate)), None)


def same_rate(one: float, two: float) -> bool:
    """Whether two learning rates are one, up to the rounding of a table."""
    return abs(one / two - 1) < 1e-4


def grids(frame: pd.DataFrame, recipes: Sequence[str], domains: Sequence[str]) -> list[Grid]:
    """A grid for every (role, size, arm, weight decay) of the checked table.

    Proxies come before the target, small before large, the main arm first.
    """
    out = []
    for (role, size), whole in frame.groupby(["role", "size"], sort=True):
        seeds = sorted(whole["seed"].unique())
        for (arm, _), rows in whole.groupby(["arm", "weight_decay"], sort=True, dropna=False):
            decay = float(rows["weight_decay"].iloc[0])
            cell = (str(role), str(size), str(arm), decay)
            out.append(_grid(rows, cell, tuple(recipes), tuple(domains), tuple(seeds)))
    return sorted(
        out,
        key=lambda g: (
            g.role == "target",
            np.nan_to_num(g.N),
            g.size,
            g.arm != "main",
            g.arm,
            np.nan_to_num(g.weight_decay),
        ),
    )


def domain_names(frame: pd.DataFrame) -> tuple[str, ...]:
    """The mean first, then the domains when there is more than one."""
    found = sorted(frame["domain"].unique())
    return (MEAN, *found) if len(found) > 1 else (MEAN,)


def _grid(
    rows: pd.DataFrame,
    cell: tuple[str, str, str, float],
    recipes: tuple[str, ...],
    domains: tuple[str, ...],
    seeds: tuple[str, ...],
) -> Grid:
    """The grid of one (role, size, arm, weight decay)."""
    rates = sorted(rows["learning_rate"].unique())
    real = domains[1:] or (rows["domain"].iloc[0],)
    shape = (len(recipes), len(rates), len(real), len(seeds))
    where = [
        pd.Index(axis).get_indexer(pd.Index(rows[name]))
        for axis, name in (
            (recipes, "recipe"),
            (rates, "learning_rate"),
            (real, "domain"),
            (seeds, "seed"),
        )
    ]
    losses, init = np.full(shape, np.nan), np.full(shape, np.nan)
    losses[tuple(where)], init[tuple(where)] = rows["loss"], rows["loss_init"]
    # The mean needs every domain: a run without one of them has no mean (and is listed as missing).
    mean = losses.mean(2, keepdims=True)
    losses = np.concatenate([mean, losses], 2) if len(domains) > 1 else mean
    start = _nanmean(init.swapaxes(0, 2).reshape(len(real), -1))
    start = np.concatenate([[start.mean()], start]) if len(domains) > 1 else start
    noise, freedom, source = _noise(losses, rows, domains)

    def usual(name: str) -> float:
        return float(rows[name].median()) if rows[name].notna().any() else np.nan

    return Grid(
        *cell,
        usual("N"),
        usual("D"),
        usual("batch_size"),
        usual("steps"),
        recipes,
        tuple(map(float, rates)),
        domains,
        seeds,
        losses,
        start,
        noise,
        freedom,
        source,
    )


def _noise(
    losses: np.ndarray, rows: pd.DataFrame, domains: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, str]:
    """Seed noise [E, V], its degrees of freedom [E, V], and where it comes from.

    It is pooled over the recipes at each rate. A rate without repeated seeds takes the pool of all
    rates; without any repeated seed, the evaluation's standard error stands in.
    """
    finite = np.where(np.isfinite(losses), losses, np.nan)
    count = np.isfinite(finite).sum(-1)
    middle = _nanmean(finite)[..., None]
    square = np.nansum((finite - middle) ** 2, -1).sum(0)  # [E, V]
    freedom = np.maximum(count - 1, 0).sum(0)
    if freedom.sum():
        pooled = np.sqrt(square.sum(0) / np.maximum(freedom.sum(0), 1))
        with np.errstate(invalid="ignore", divide="ignore"):
            noise = np.where(freedom > 0, np.sqrt(square / freedom), pooled)
        source = "repeated seeds" + (
            "" if (freedom > 0).all() else "; rates with one seed take the pool of the others"
        )
        return noise, np.where(freedom > 0, freedom, freedom.sum(0)), source
    se = rows.groupby("domain")["loss_se"].median()
    if not len(domains) or se.isna().all():
        return np.full(freedom.shape, np.nan), freedom, ""
    whole = float(np.sqrt((se**2).sum()) / len(se))
    level = np.array([whole] + [float(se.get(d, np.nan)) for d in domains[1:]])
    return (
        np.broadcast_to(level, freedom.shape).copy(),
        freedom,
        "evaluation standard error (no repeated seeds: a lower bound)",
    )


def _average(cell: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean over seeds [B, R, E] of cell [R, E, S] with counts [B, R, S]; NaN where no seed
    counts.
    """
    there, lost = ~np.isnan(cell), np.isposinf(cell)
    filled = np.where(np.isfinite(cell), cell, 0.0)
    total, number, worst = (
        np.matmul(filled_, counts.transpose(1, 2, 0).astype(float))
        for filled_ in (filled, there.astype(float), lost.astype(float))
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        # [R, E, B]
        value = np.where(worst > 0, np.inf, np.where(number > 0, total / number, np.nan))
    return np.moveaxis(value, -1, 0)


def _nanmean(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis without NaN; NaN where there is nothing, quietly."""
    there = np.isfinite(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(there, values, 0.0).sum(-1) / np.where(there.any(-1), there.sum(-1), np.nan)


def loss_rows(grids: Sequence[Grid]) -> list[Row]:
    """A row a (size, rate, recipe, domain): the mean loss over the seeds, their number, and the
    standard deviation of one run over seeds.
    """
    rows = []
    for g in grids:
        for v, domain in enumerate(g.domains):
            loss = g.mean(None, v)[0]
            for r, e in np.argwhere(~np.isnan(loss)):
                rows.append(
                    {
                        "size": g.size,
                        "role": g.role,
                        "N": g.N,
                        "learning_rate": g.rates[e],
                        "recipe": g.recipes[r],
                        "domain": domain,
                        "loss": loss[r, e],
                        "seeds": int((~np.isnan(g.losses[r, e, v])).sum()),
                        "seed_sd": g.noise[e, v],
                    }
                )
    return rows
