"""How far a ladder's forecast will miss, by simulation from a law.

Every ladder and every simulated draw is a job of one batched fit.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np

from stepladder.analysis.decide.recommend.candidates import TARGET, Design
from stepladder.analysis.fit.bootstrap import Bootstrap
from stepladder.analysis.fit.prepare import RANK_TOLERANCE
from stepladder.analysis.fit.result import Fit
from stepladder.analysis.fit.solve import solve
from stepladder.analysis.laws import law_named
from stepladder.analysis.laws.law import Law, jacobian
from stepladder.analysis.tables.checks import distinct
from stepladder.configs.core.errors import UserError

NOISE = 0.005  # of log loss, where constants come without one
SHARED = 0.5  # of the noise's variance that a trunk and its branches have in common
PUBLISHED = {
    "chinchilla": (
        {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658},
        "2404.10102",
    )
}


@dataclass(frozen=True)
class Truth:
    """The world that is simulated: a law, its parameters and its noise.

    Parameters are in the units of the data; `noise` is the s.d. of log loss of one run.
    """

    law: Law
    params: Mapping[str, float]
    noise: float
    shared: float
    source: str
    # parameters [K]: the worlds of a bootstrap, when the law itself is uncertain
    refits: Mapping[str, np.ndarray] | None = None


def truth_of(
    source: Fit | Bootstrap | Mapping[str, float] | None = None,
    *,
    law: str = "chinchilla",
    noise: float | None = None,
    shared: float = SHARED,
) -> Truth:
    """The world that is simulated.

    Args:
        source: a fit (its residuals give the noise), a bootstrap (every draw has its own refit),
            constants by name, or None for the published ones.
        law: of the constants.
        noise: s.d. of log loss of one run.
        shared: the part of the noise's variance that a trunk and its branches have in common.

    Raises:
        UserError: for a law that is not of N and D alone, a missing constant, or a noise that is
            unknown or no number.
    """
    found = source.fit if isinstance(source, Bootstrap) else source
    name = found.law if isinstance(found, Fit) else law
    form = law_named(name)
    if sorted(form.inputs) != ["D", "N"] or form.output != "loss":
        raise UserError(
            f"law={name!r}: its inputs are {', '.join(form.inputs)}; a ladder needs a law of N and "
            "D alone, e.g. chinchilla"
        )
    refits = None
    if isinstance(source, Bootstrap):
        refits = {str(k): source.params[k].to_numpy(float) for k in source.params}
    if isinstance(found, Fit):
        params = dict(found.params)
        said = f"law {form.name} fitted to {found.points} points"
        said += ", and its refits" if refits else ""
        noise = _residual_sd(found) if noise is None else noise
    elif found is not None:
        params = {k: float(v) for k, v in found.items()}
        said = f"law {name} with the constants given"
    elif form.name in PUBLISHED:
        params, paper = PUBLISHED[form.name]
        said = f"law {name} with the constants of arXiv {paper}"
    else:
        raise UserError(
            f"law={name!r}: no constants stored for it; give a fit, a table or constants, or use "
            f"{', '.join(PUBLISHED)}"
        )
    noise = NOISE if noise is None else noise
    _check_truth(form, params, noise, shared)
    return Truth(form, params, float(noise), float(shared), said, refits)


def _check_truth(form: Law, params: Mapping[str, float], noise: float, shared: float) -> None:
    if set(params) != set(form.parameters):
        raise UserError(
            f"constants={sorted(params)}: law {form.name} has {', '.join(form.parameters)}; give "
            "each of them once"
        )
    for p in form.params:
        if not np.isfinite(params[p.name]) or (p.positive and params[p.name] <= 0):
            raise UserError(
                f"constants.{p.name}={params[p.name]}: must be a {'positive ' * p.positive}finite "
                "number"
            )
    if not 0 < noise < 1:
        raise UserError(
            f"noise={noise}: must lie between 0 and 1, e.g. 0.005 for 0.5 % of the loss"
        )
    if not 0 <= shared < 1:
        raise UserError(f"shared={shared}: must lie in [0, 1), e.g. 0.5")


def _residual_sd(fit: Fit) -> float:
    """The s.d. of the residuals of log loss, whatever the objective."""
    p = fit.problem
    if fit.points <= fit.rank:
        raise UserError(
            f"noise: unknown, the fit has as many parameters as points ({fit.points}); give noise, "
            "e.g. 0.005"
        )
    residual = np.log(p.law.function(np, np.array(fit.theta), p.x)) - np.log(p.y)
    return float(
        np.sqrt(np.average(residual**2, weights=p.w) * fit.points / (fit.points - fit.rank))
    )


@dataclass(frozen=True)
class _World:
    """The design in the solver's units: x [n, 2], and the target `at` [1, 2].

    theta [P] and many [K, P] are the parameters of the simulated worlds.
    """

    x: np.ndarray
    at: np.ndarray
    theta: np.ndarray
    many: np.ndarray


def _world(truth: Truth, design: Design) -> _World:
    law = truth.law
    columns = {"N": (design.N, design.target[0]), "D": (design.D, design.target[1])}
    raw = np.stack([columns[name][0] for name in law.inputs], 1)
    at = np.array([[columns[name][1] for name in law.inputs]])
    centre = law.centre(raw, np.ones(len(raw)))
    scale = float(
        np.median(
            law.function(np, law.theta(dict(truth.params)), law.to_solver_inputs(raw, np.zeros(2)))
        )
    )
    theta = law.to_solver_units(dict(truth.params), centre, scale)
    many = law.to_solver_units(dict(truth.refits), centre, scale) if truth.refits else theta[None]
    return _World(law.to_solver_inputs(raw, centre), law.to_solver_inputs(at, centre), theta, many)


def linear_errors(truth: Truth, design: Design, seeds: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """S.d. of ln(forecast / loss) of each ladder [C], the law linearised at the truth.

    Also why a ladder is refused ('' if it is not); its s.d. is then NaN. Takes milliseconds for
    thousands of ladders, and says which of them are worth simulating.
    """
    world, law, rho = _world(truth, design), truth.law, truth.shared
    slope = jacobian(law, world.theta, world.x) / law.function(np, world.theta, world.x)[:, None]
    pull = (
        jacobian(law, world.theta, world.at) / law.function(np, world.theta, world.at)[:, None]
    )[0]
    out, reasons = np.full(len(seeds), np.nan), []
    for c, row in enumerate(seeds):
        i = np.flatnonzero(row)
        w, j = row[i].astype(float), slope[i]
        singular = np.linalg.svd(j * np.sqrt(w)[:, None], compute_uv=False)
        reasons.append(_unfit(law, design, i, singular))
        if reasons[-1]:
            continue
        # of each point's noise in the forecast
        weight = w * (j @ np.linalg.solve((j * w[:, None]).T @ j, pull))
        same = design.trunk[i][:, None] == design.trunk[i][None, :]
        cover = (rho * same + (1 - rho) * np.eye(len(i))) / w
        out[c] = truth.noise * np.sqrt(
            max(weight @ cover @ weight + 1 - 2 * rho * weight @ (design.trunk[i] == TARGET), 0.0)
        )
    return out, reasons


def _unfit(law: Law, design: Design, i: np.ndarray, singular: np.ndarray) -> str:
    """Why the points i of a ladder cannot identify the law, or ''."""
    if len(i) <= len(law.params):
        return (
            f"no more than {len(law.params)} points, as many as law {law.name} has parameters, so "
            "nothing is left to judge the noise"
        )
    for a in law.axes:
        if distinct(getattr(design, a.name)[i]) < a.distinct:
            return f"fewer than {a.distinct} different {a.name}"
    if distinct(design.D[i] / design.N[i]) < 2:
        return "one ratio of D to N: the terms of N and of D cannot be told apart"
    return (
        ""
        if singular[-1] > RANK_TOLERANCE * singular[0]
        else f"law {law.name} is not identified (rank)"
    )


def simulated_errors(
    truth: Truth, design: Design, seeds: np.ndarray, *, draws: int, seed: int = 0
) -> np.ndarray:
    """|forecast / loss - 1| at the target, of each ladder in each simulated world: [C, draws].

    The loss is that of one new run, with its noise. Every fit is least squares on log loss from the
    true parameters, over all points with the weights of the ladder. All ladders meet the same
    noise, so their differences are less noisy than their errors. A fit without a finite objective
    has error inf.

    Args:
        truth: the world.
        design: the points of all ladders together.
        seeds: how many runs of each point a ladder trains: int [C, n].
        draws: simulated worlds.
        seed: of the noise.
    """
    world, law, rng = _world(truth, design), truth.law, np.random.default_rng(seed)
    noise, last = _noise(truth, design, int(seeds.max()), draws, rng)
    thetas = world.many[rng.integers(len(world.many), size=draws)]
    level = (
        np.array([law.function(np, t, world.x) for t in thetas])
        if truth.refits
        else law.function(np, world.theta, world.x)[None]
    )
    points = np.arange(len(design.N))

    def outputs(jobs: np.ndarray) -> np.ndarray:
        c, k = jobs // draws, jobs % draws
        shock = noise[np.maximum(seeds[c], 1) - 1, k[:, None], points]
        return level[k if truth.refits else 0] * np.exp(shock)

    start = np.tile(np.clip(thetas, law.lower, law.upper), (len(seeds), 1))
    found = solve(
        law, "squared_log", 1e-3, world.x, outputs, lambda jobs: seeds[jobs // draws], start
    )
    forecast = _at(law, found.theta, world.at)
    loss = np.tile(_at(law, thetas, world.at) * np.exp(last), len(seeds))
    errors = np.abs(forecast / loss - 1)
    return np.where(np.isfinite(found.value) & np.isfinite(errors), errors, np.inf).reshape(
        len(seeds), draws
    )


def _at(law: Law, theta: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Output of each theta [K, P] at one point [1, inputs]."""
    return law.formula_fn(np, SimpleNamespace(**law.values(np, theta)), *at[0])


def _noise(
    truth: Truth, design: Design, most: int, draws: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Noise of log loss of the points [most, draws, n] and of the target's own end [draws].

    The first axis is the noise of the mean of the first 1, 2, ... seeds.

    Least squares on the mean of some seeds, weighted by their number, is least squares on all of
    them: seeds need no points of their own.
    """
    trunks, index = np.unique(np.append(design.trunk, TARGET), return_inverse=True)
    a, b = np.sqrt(truth.shared) * truth.noise, np.sqrt(1 - truth.shared) * truth.noise
    trunk = a * rng.standard_normal((most, draws, len(trunks)))[:, :, index]
    every = trunk + b * rng.standard_normal(trunk.shape)
    mean = np.cumsum(every, axis=0) / np.arange(1, most + 1)[:, None, None]
    return mean[:, :, :-1], every[0, :, -1]
