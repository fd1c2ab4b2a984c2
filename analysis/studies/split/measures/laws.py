"""The candidate laws H0 to H6, fitted to cells: per domain, and pooled over domains.

The laws are ours, not the form of any paper. The pooled fit is one to the mean over domains: where
domains share their exponents (and offsets) and differ in their coefficients, the mean obeys the
same law with the mean coefficients.

The noise of a pooled fit is simulated: the fitted law plus noise like its residuals, refitted.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from stepladder.analysis.fit.describe import describe
from stepladder.analysis.fit.fit import fit_prepared
from stepladder.analysis.fit.objective import OBJECTIVES, objective_named
from stepladder.analysis.fit.prepare import prepare
from stepladder.analysis.fit.result import Fit
from stepladder.analysis.fit.simulate import simulate
from stepladder.analysis.fit.solve import Solution, solve
from stepladder.analysis.laws import LAWS as ALL_LAWS
from stepladder.analysis.studies.split.measures import Row
from stepladder.analysis.studies.split.measures.cells import Cells, Sample
from stepladder.configs.core.errors import UserError

POOLED = "mean over domains"
DELTA = 1e-3  # Huber's, in log loss
_SPREAD = 24  # new starts of a refit, beside the minima of the whole fit
_MINIMA = 8

Inputs = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Candidate:
    """A law of the protocol.

    inputs: (N, D, D2, K) -> the law's inputs. needs: which tokens must be above 0.
    """

    law: str
    inputs: Callable[[np.ndarray, np.ndarray, np.ndarray, float], Inputs]
    needs: tuple[str, ...] = ()

    @property
    def formula(self) -> str:
        """As text."""
        return ALL_LAWS[self.law].formula

    @property
    def note(self) -> str:
        """What is known of it."""
        return ALL_LAWS[self.law].note

    def defined(self, d: np.ndarray, d2: np.ndarray) -> np.ndarray:
        """Where the law has a value."""
        value = np.ones(np.broadcast(d, d2).shape, bool)
        for name, tokens in (("D", d), ("D2", d2)):
            if name in self.needs:
                value &= np.real(tokens) > 0
        return value


def _tokens(n: np.ndarray, d: np.ndarray, d2: np.ndarray, k: float) -> Inputs:
    return {"N": n, "D": d, "D2": d2}


def _average_weights(n: np.ndarray, d: np.ndarray, d2: np.ndarray, k: float) -> Inputs:
    """h1, the share of all tokens that was of the own domain, the general stage being even."""
    own = (d / k + d2) / (d + d2)
    return {"N": n, "D": d + d2, "h1": own, "h2": 1 - own}


LAWS = {
    "H0": Candidate("split_total", _tokens),
    "H1": Candidate("split_separate", _tokens),
    "H2": Candidate("split_effective", _tokens),
    "H2b": Candidate("split_transfer", _tokens, needs=("D",)),
    "H3": Candidate("split_log_exponent", _tokens, needs=("D", "D2")),
    "H4": Candidate("split_share", _tokens),
    "H5": Candidate("split_product", _tokens, needs=("D", "D2")),
    "H6": Candidate("shukor_additive_2", _average_weights),
}


@dataclass(frozen=True)
class Fitted:
    """A law fitted to the cells where it is defined.

    rows: these cells; experts: K.
    """

    code: str
    of: str  # POOLED or a domain
    fit: Fit
    rows: np.ndarray
    experts: float

    @property
    def candidate(self) -> Candidate:
        """The law's row of LAWS."""
        return LAWS[self.code]

    @property
    def theta(self) -> np.ndarray:
        """Parameters in the solver's units [P]."""
        return np.array(self.fit.theta)

    def loss(
        self, n: np.ndarray, d: np.ndarray, d2: np.ndarray, theta: np.ndarray | None = None
    ) -> np.ndarray:
        """Predictions [m], or [B, m] of theta [B, P]; NaN where the law is not defined.

        d and d2 may be complex, for derivatives.
        """
        theta = self.theta if theta is None else theta
        problem = self.fit.problem
        n, d, d2 = np.broadcast_arrays(np.asarray(n, float), np.asarray(d), np.asarray(d2))
        with np.errstate(all="ignore"):
            inputs = self.candidate.inputs(n, d, d2, self.experts)
            raw = np.stack([inputs[name] for name in problem.law.inputs], 1)
            x = problem.law.to_solver_inputs(raw, np.array(problem.centre))
            at = theta[:, None, :] if theta.ndim == 2 else theta
            value = problem.scale * problem.law.function(np, at, x)
        return np.where(self.candidate.defined(d, d2), value, np.nan)

    def predict(self, cells: Cells, theta: np.ndarray | None = None) -> np.ndarray:
        """Predictions of all cells."""
        n, d, d2 = (cells.frame[k].to_numpy(float) for k in ("N", "D", "D2"))
        return self.loss(n, d, d2, theta)


@dataclass(frozen=True)
class LawFits:
    """pooled: by code; domains: by code and domain; draws: simulated refits theta [B, P] by code.

    missing: fits that were not possible, with the reason.
    """

    pooled: Mapping[str, Fitted]
    domains: Mapping[tuple[str, str], Fitted]
    draws: Mapping[str, np.ndarray] = field(repr=False)
    missing: list[str]


def fit_laws(cells: Cells, sample: Sample, codes: Sequence[str], refits: int) -> LawFits:
    """Fit every law to the mean over domains and to each domain."""
    missing: list[str] = []
    pooled, domains, draws = {}, {}, {}
    for code in codes:
        whole = _fitted(code, cells, missing)
        if whole is None:
            continue
        pooled[code] = whole
        drawn = _simulated(whole, cells, sample, refits, missing)
        if drawn is not None:
            draws[code] = drawn
        if len(cells.domains) > 1:
            domains |= {(code, one.of): one for one in _of_domains(whole, cells)}
    return LawFits(pooled, domains, draws, missing)


def _fitted(code: str, cells: Cells, missing: list[str]) -> Fitted | None:
    candidate, law = LAWS[code], ALL_LAWS[LAWS[code].law]
    n, d, d2 = (cells.frame[k].to_numpy(float) for k in ("N", "D", "D2"))
    rows = np.flatnonzero(candidate.defined(d, d2))
    sizes = len(np.unique(n[rows]))
    try:
        if len(rows) <= len(law.params):
            raise UserError(
                f"{len(rows)} cells for {len(law.params)} parameters; add totals or fractions"
            )
        table = pd.DataFrame({**candidate.inputs(n[rows], d[rows], d2[rows], cells.experts)})
        # One or two sizes leave E, A and alpha open, which no split depends on.
        open_size = "report" if sizes < 3 else "refuse"
        problem = prepare(table.assign(loss=cells.loss[rows]), law.name, unidentified=open_size)
        return Fitted(code, POOLED, fit_prepared(problem, delta=DELTA), rows, cells.experts)
    except UserError as error:
        missing.append(f"{code}: {error}")
        return None


def _simulated(
    whole: Fitted, cells: Cells, sample: Sample, refits: int, missing: list[str]
) -> np.ndarray | None:
    """Refits of simulated tables; the cells of a size share a trunk, so they share luck."""
    if len(whole.rows) <= whole.fit.rank:
        missing.append(f"{whole.code}: no spare cell, so no interval")
        return None
    trunk = cells.frame["N"].to_numpy(float)[whole.rows]
    rng = np.random.default_rng([sample.seed, 3])
    found = simulate(whole.fit.problem, whole.fit, trunk, resamples=refits, rng=rng)
    if found.dropped:
        missing.append(f"{whole.code}: {found.dropped} of {refits} simulated refits failed")
    return found.theta if len(found.theta) else None


def refit(whole: Fitted, hidden: np.ndarray) -> np.ndarray:
    """Parameters [folds, P] of the law fitted without the hidden cells; bool [folds, cells]."""
    p = whole.fit.problem
    seen = (~hidden[:, whole.rows]).astype(float)
    found = _batch(whole, np.tile(p.y, (len(seen), 1)), seen)
    best = [part.theta[part.value.argmin()] for part in found]
    finite = [bool(np.isfinite(part.value).any()) for part in found]
    return np.where(np.array(finite)[:, None], np.array(best), np.nan)


def _of_domains(whole: Fitted, cells: Cells) -> list[Fitted]:
    """The law fitted to each domain."""
    p, goal = whole.fit.problem, whole.fit.objective
    y = cells.by_domain[:, whole.rows] / p.scale
    found = _batch(whole, y, np.ones(y.shape))
    return [
        replace(whole, of=domain, fit=describe(replace(p, y=losses), part, goal, DELTA))
        for domain, losses, part in zip(cells.domains, y, found)
    ]


def _batch(whole: Fitted, y: np.ndarray, w: np.ndarray) -> list[Solution]:
    """Problems like the whole fit's, with losses and weights [k, n] of their own, in one batch.

    Every problem starts from the minima of the whole fit and from new points.
    """
    p = whole.fit.problem
    known = np.array(whole.fit.thetas or [whole.fit.theta])[:_MINIMA]
    fresh = replace(p.law, n_starts=_SPREAD).starts(p.x, p.y, w.max(0))
    starts = np.concatenate([known, fresh])
    job = np.repeat(np.arange(len(y)), len(starts))
    delta = objective_named(whole.fit.objective).solver_delta(DELTA)
    start = np.tile(starts, (len(y), 1))
    found = solve(p.law, whole.fit.objective, delta, p.x, y[job], w[job], start, free=p.free)
    return [found.take(np.flatnonzero(job == k)) for k in range(len(y))]


def law_rows(fits: LawFits, cells: Cells, sample: Sample) -> list[Row]:
    """How well every fit agrees with the cells it saw; intervals resample curves of one N and T."""
    curve = cells.frame.groupby(["N", "T"]).ngroup().to_numpy()
    rows: list[Row] = []
    for one in [*fits.pooled.values(), *fits.domains.values()]:
        losses = (cells.loss if one.of == POOLED else cells.by_domain[cells.domains.index(one.of)])[
            one.rows
        ]
        guess = one.predict(cells)[one.rows]
        row: Row = {"law": one.code, "of": one.of, "cells": len(one.rows)}
        row |= {"parameters": len(one.fit.params), "residual_sd": one.fit.residual_sd}
        for name, parts in agreement(guess, losses).items():
            row |= resampled(parts, curve[one.rows], sample, name)
        rows.append(row)
    return rows


Parts = tuple[Callable[[np.ndarray], np.ndarray], np.ndarray]


def agreement(guess: np.ndarray, truth: np.ndarray) -> dict[str, Parts]:
    """R^2, mean relative error, and mean Huber loss of the logs, as functions of sums over cells.

    Each is (sums [..., k] -> value, terms a cell [n, k]): resampling only adds terms again.
    """
    miss, log = guess - truth, np.log(guess / truth)
    huber = OBJECTIVES["huber_log"].cost(np, log, DELTA, 0.5)
    one = np.ones(len(truth))

    def r2(sums: np.ndarray) -> np.ndarray:
        count, squares, y, yy = np.moveaxis(sums, -1, 0)
        total = yy - y**2 / count
        return 1 - squares / np.where(total > 0, total, np.nan)

    def mean(sums: np.ndarray) -> np.ndarray:
        return sums[..., 1] / sums[..., 0]

    centred = truth - truth.mean()
    return {
        "r2": (r2, np.stack([one, miss**2, centred, centred**2], 1)),
        "mre": (mean, np.stack([one, np.abs(miss) / truth], 1)),
        "huber": (mean, np.stack([one, huber], 1)),
        "rmse": (lambda sums: np.sqrt(mean(sums)), np.stack([one, miss**2], 1)),
    }


def resampled(parts: Parts, group: np.ndarray, sample: Sample, name: str) -> Row:
    """A number with its interval from resampled groups of cells (cells, with fewer than four)."""
    value, draws = redrawn(parts, group, sample)
    return sample.estimate(value, draws).row(name)


def redrawn(parts: Parts, group: np.ndarray, sample: Sample) -> tuple[float, np.ndarray]:
    """The number, and its values over resampled groups [B]; equal groups, equal resamples."""
    make, terms = parts
    names, index = np.unique(group, return_inverse=True)
    if len(names) < 4:
        index = np.arange(len(terms))
    sums = np.zeros((index.max() + 1, terms.shape[1]))
    np.add.at(sums, index, terms)
    rng = np.random.default_rng([sample.seed, 4])
    even = np.full(len(sums), 1 / len(sums))
    weights = rng.multinomial(len(sums), even, sample.resamples)
    with np.errstate(all="ignore"):
        return float(make(sums.sum(0))), np.asarray(make(weights @ sums), float)


def best_law(fits: LawFits) -> Fitted | None:
    """The pooled law with the smallest residuals."""
    good = [f for f in fits.pooled.values() if math.isfinite(f.fit.residual_sd)]
    return min(good, key=lambda f: f.fit.residual_sd, default=None)


def params_rows(fits: LawFits, sample: Sample) -> list[Row]:
    """A row a parameter of the pooled fits, with the percentiles of the simulated refits."""
    rows: list[Row] = []
    for code, one in fits.pooled.items():
        drawn = fits.draws.get(code)
        again = one.fit.problem.to_data_units(drawn) if drawn is not None else {}
        for name, value in one.fit.params.items():
            spread = np.atleast_1d(np.asarray(again.get(name, np.nan), float))
            row: Row = {"law": code, "parameter": name}
            rows.append(row | sample.estimate(float(value), spread).row("value"))
    return rows
