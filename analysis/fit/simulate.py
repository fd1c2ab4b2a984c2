"""Simulated ladders: the fitted law plus noise like the residuals', refitted all at once.

Why rows or runs are not resampled: with about 20 points at 5 sizes, a resample that leaves out a
size loses E, A or alpha. The residuals of a size that has one run are mostly absorbed by the fit
(leverage near one), so that reusing them, even with flipped signs, makes intervals too short.

Instead the noise of log loss is u(trunk) + e(point): a part shared by a trunk and its branches
(same initialisation, same order of data) and a part of the point's own. The shared fraction rho has
the restricted likelihood of the linearised fit on a grid. Each simulated ladder draws its rho from
that likelihood, and its variance from the scaled inverse chi-square distribution with points - rank
degrees of freedom. Not knowing the noise is then part of the interval (the small-sample inflation
of Student's t), and nothing is assumed about rho when the points do not tell.
"""

from dataclasses import dataclass

import numpy as np

from stepladder.analysis.fit.objective import objective_named
from stepladder.analysis.fit.prepare import Prepared
from stepladder.analysis.fit.result import Fit
from stepladder.analysis.fit.solve import solve
from stepladder.analysis.laws.law import jacobian

RHO = np.arange(10) / 10


@dataclass(frozen=True)
class Resamples:
    """K refits: theta [K, P]; sd [K] and rho [K] of the simulated noise of log loss.

    dropped: how many had no finite objective and are left out.
    unfinished: how many were stopped at the iteration limit. Where E drifts to 0 the objective is
    flat: every step still lowers it a little, and the prediction has long settled. Leaving these
    out would cut off the worlds in which E is small.
    """

    theta: np.ndarray
    sd: np.ndarray
    rho: np.ndarray
    dropped: int
    unfinished: int


def simulate(
    p: Prepared, fit: Fit, clusters: np.ndarray, *, resamples: int, rng: np.random.Generator
) -> Resamples:
    """Draw `resamples` ladders from the fitted law and its noise, refit each from the optimum.

    `clusters` [n] names each point's trunk.
    """
    theta = np.array(fit.theta)
    prediction = p.law.function(np, theta, p.x)
    residual = np.log(prediction) - np.log(p.y)
    # a hidden point says nothing about the noise
    seen, slope = p.w > 0, jacobian(p.law, theta, p.x)[:, p.free] / prediction[:, None]
    sd, rho = _noise(
        residual[seen], slope[seen], fit.rank, np.asarray(clusters)[seen], resamples, rng
    )
    names, index = np.unique(clusters, return_inverse=True)
    shared = rng.standard_normal((resamples, len(names)))[:, index]
    own = rng.standard_normal((resamples, len(index)))
    noise = sd[:, None] * (np.sqrt(rho)[:, None] * shared + np.sqrt(1 - rho)[:, None] * own)
    found = solve(
        p.law,
        fit.objective,
        objective_named(fit.objective).solver_delta(fit.delta),
        p.x,
        prediction * np.exp(noise),
        p.w,
        np.tile(theta, (resamples, 1)),
        free=p.free,
    )
    good = np.isfinite(found.value)
    return Resamples(
        found.theta[good],
        sd[good],
        rho[good],
        int((~good).sum()),
        int((good & ~found.converged).sum()),
    )


def errors_at(
    p: Prepared, fit: Fit, draws: Resamples, target: dict[str, float], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """ln(truth / forecast) at the target [K] in the simulated worlds.

    Also the part [K] of it that comes from the parameters alone.

    In such a world the truth is the fitted law plus the noise of one more run, and the forecast is
    the refit.
    """
    inputs = {name: target[name] for name in p.law.inputs}
    moved = np.log(p.predict(draws.theta, **inputs)) - np.log(fit.predict(**inputs))
    return draws.sd * rng.standard_normal(len(moved)) - moved, moved


def _noise(
    residual: np.ndarray,
    slope: np.ndarray,
    rank: int,
    clusters: np.ndarray,
    resamples: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Draws of (sd, rho) [K] of the noise of log loss.

    They come from the restricted likelihood of residual = slope @ theta + u(cluster) + e.
    """
    n = len(residual)
    freedom = n - rank
    if freedom < 1:
        raise ValueError("no degree of freedom left for the noise")
    basis = np.linalg.svd(slope, full_matrices=False)[0][:, :rank]
    same = (clusters[:, None] == clusters[None, :]).astype(float)
    level, spread = [], []
    for rho in RHO:
        cover = (1 - rho) * np.eye(n) + rho * same
        inverse = np.linalg.inv(cover)
        inner = basis.T @ inverse @ basis
        project = inverse - inverse @ basis @ np.linalg.solve(inner, basis.T @ inverse)
        square = max(float(residual @ project @ residual), 1e-300)
        spread.append(square)
        level.append(
            -0.5
            * (np.linalg.slogdet(cover)[1] + np.linalg.slogdet(inner)[1] + freedom * np.log(square))
        )
    chance = np.exp(np.array(level) - max(level))
    pick = rng.choice(len(RHO), size=resamples, p=chance / chance.sum())
    return np.sqrt(np.array(spread)[pick] / rng.chisquare(freedom, resamples)), RHO[pick]
