"""Forecast a target's final loss from finished proxies.

What the interval contains: `level` of the simulated worlds of analysis/fit/simulate.py, that is the
error of the fitted parameters at the target plus the noise of the target's own run, both with the
noise level itself unknown (Student-like tails). Not in it: a law of the wrong shape.

For that there is a floor. The interval is never narrower than the error that the same procedure
makes when the largest proxy size is hidden and forecast from the others, times the target's
distance beyond the proxies over that size's distance beyond the rest (in log N, which is what
hiding a size hides; at least 1). A floor is no probability statement; `interval["binding"]` says
which of the two was wider.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from stepladder.analysis.decide.allocate import CLOSED
from stepladder.analysis.fit import simulate
from stepladder.analysis.fit.describe import describe
from stepladder.analysis.fit.levels import check_level, intervals, percent, percentile_interval
from stepladder.analysis.fit.prepare import Prepared, prepare
from stepladder.analysis.fit.result import Fit
from stepladder.analysis.fit.solve import solve
from stepladder.analysis.records.arithmetic import refuse_mixed
from stepladder.analysis.records.final_points import final_points
from stepladder.analysis.records.load import EXCLUDED, Runs
from stepladder.analysis.report.jsonable import plain
from stepladder.analysis.studies.extrapolation.baselines import baselines
from stepladder.analysis.studies.extrapolation.identify import identified
from stepladder.analysis.tables.checks import distinct, joined
from stepladder.configs.core.errors import UserError

DELTA = 1e-3
COLUMNS = ("run_id", "root", "size", "role", "step", "N", "D", "C", "loss", "loss_se", "seed")


@dataclass(frozen=True)
class Forecast:
    """A forecast with all it rests on; losses in nats per token.

    interval: what it is made of (standard deviations and floor in log loss).
    """

    target: dict[str, float]
    prediction: float
    low: float
    high: float
    level: float
    interval: dict[str, Any]
    fit: Fit
    # interval of each parameter at `level`, from the simulated ladders
    parameters: dict[str, tuple[float, float]]
    identified: tuple[str, ...]
    baselines: tuple[dict[str, Any], ...]
    backtest: tuple[dict[str, Any], ...]  # one entry a hidden size, the largest first
    points: tuple[dict[str, Any], ...]
    excluded: tuple[dict[str, Any], ...]
    n: str
    seed: int
    # what the law would buy for 6 N D of the target: N, D, loss, a, each (value, low, high)
    allocation: dict[str, Any]
    # prediction and interval of the parameters along D at the target's N, for the figure
    band: dict[str, list[Any]]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: NaN and infinity become None."""
        return plain(dataclasses.asdict(self) | {"fit": self.fit.to_dict()})

    def __str__(self) -> str:
        t = ", ".join(f"{k} = {v:.4g}" for k, v in self.target.items())
        lines = [
            (
                f"forecast at {t}: {self.prediction:.4f} [{self.low:.4f}, {self.high:.4f}] nats "
                f"per token ({percent(self.level)})"
            ),
            str(self.fit),
        ]
        lines += [f"  {b['name']:<22} {b['prediction']:.4f}" for b in self.baselines]
        lines += [f"  hidden size {b['size']}: error {b['are']:.2%}" for b in self.backtest]
        return "\n".join(lines + [f"  {sentence}" for sentence in self.identified])


def forecast(
    runs: Runs | pd.DataFrame,
    target: dict[str, float],
    seed: int = 0,
    level: float = 0.9,
    *,
    objective: str = "squared_log",
    resamples: int = 512,
    domain: str = "all",
) -> Forecast:
    """Forecast the loss of a target from the proxies.

    The fit is least squares in log loss: noise is small and even, where Huber wastes points.

    Args:
        runs: of `load`, or a table of final points: N, D, C, loss (optional: root, size, seed).
        target: {"N": parameters, "D": tokens, "C": training FLOPs}.
        level: of the intervals, from `resamples` simulated ladders.
        objective: what the fit minimises.
        domain: whose losses, "all" for all domains together.

    Raises:
        UserError: when the points cannot identify the law.
    """
    _check(target, level)
    points, excluded = _points(runs, domain)
    p = _prepared(points)
    fit, backtest = _fit_and_backtest(p, points, objective)
    rng = np.random.default_rng(seed)
    draws = _draws(p, fit, points, resamples, rng)
    errors, moved = simulate.errors_at(p, fit, draws, target, rng)
    prediction = float(fit.predict(N=target["N"], D=target["D"]))
    ends, made_of = _interval(prediction, errors, draws, _floor(points, target, backtest), level)
    natural = pd.DataFrame(p.to_data_units(draws.theta))
    spans = intervals({str(name): natural[name] for name in natural}, level)
    return Forecast(
        target={k: float(v) for k, v in target.items()},
        prediction=prediction,
        low=ends[0],
        high=ends[1],
        level=level,
        interval={
            "parameter_sd": float(np.std(moved)),
            **made_of,
            "clusters": int(points["root"].nunique()),
            "freedom": fit.points - fit.rank,
        },
        fit=fit,
        parameters=spans,
        identified=identified(fit, natural, spans, points, target, moved),
        baselines=tuple(baselines(points, target)),
        backtest=tuple(backtest),
        points=_rows(points[[c for c in COLUMNS if c in points]]),
        excluded=_rows(excluded),
        n=runs.n if isinstance(runs, Runs) else "N as given",
        seed=seed,
        allocation=_allocation(fit, natural, target, level),
        band=_band(p, fit, draws, points, target, level),
    )


def _check(target: Mapping[str, float], level: float) -> None:
    check_level(level)
    for name in ("N", "D", "C"):
        if not target.get(name, 0) > 0:
            raise UserError(
                f"target.{name}={target.get(name)}: must be a positive number; give N, D and C"
            )


def _prepared(points: pd.DataFrame) -> Prepared:
    p = prepare(points, "chinchilla")
    if len(points) <= len(p.law.parameters):
        raise UserError(
            f"points={len(points)}: as many as parameters, so the noise is unknown; add at least "
            "one more finished run"
        )
    return p


def _draws(
    p: Prepared, fit: Fit, points: pd.DataFrame, resamples: int, rng: np.random.Generator
) -> simulate.Resamples:
    """The refits of simulated ladders."""
    roots = points["root"].to_numpy(str)
    draws = simulate.simulate(p, fit, roots, resamples=resamples, rng=rng)
    if len(draws.theta) < resamples / 2:
        raise UserError(
            f"resamples={resamples}: {draws.dropped} refits have no finite objective, so there is "
            "no interval; add proxies of other sizes"
        )
    return draws


def _rows(table: pd.DataFrame) -> tuple[dict[str, Any], ...]:
    return tuple({str(k): v for k, v in row.items()} for row in table.to_dict("records"))


def _interval(
    prediction: float,
    errors: np.ndarray,
    draws: simulate.Resamples,
    floor: float | None,
    level: float,
) -> tuple[tuple[float, float], dict[str, Any]]:
    """The ends of the interval, and what it is made of; errors: in log loss, one a draw."""
    below, above = percentile_interval(errors, level)
    wider = floor is not None and (floor > above or floor > -below)
    made_of = {
        "noise_sd": float(np.sqrt(np.mean(draws.sd**2))),
        "shared_noise": float(draws.rho.mean()),
        "statistical": [float(prediction * np.exp(below)), float(prediction * np.exp(above))],
        "floor": floor,
        "binding": "back-test floor" if wider else "simulated ladders",
        "resamples": len(draws.theta),
        "dropped": draws.dropped,
        "unfinished": draws.unfinished,
    }
    below, above = min(below, -(floor or 0)), max(above, floor or 0)
    return (float(prediction * np.exp(below)), float(prediction * np.exp(above))), made_of


def _points(runs: Runs | pd.DataFrame, domain: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    if isinstance(runs, Runs):
        used, excluded = final_points(runs, domain=domain)
        refuse_mixed(used)
        return used, joined([runs.excluded, excluded])
    for name in ("N", "D", "C", "loss"):
        if name not in runs:
            raise UserError(
                f"column {name!r}: missing from the points; a forecast needs N, D, C and loss"
            )
    table = runs.reset_index(drop=True).copy()
    if "root" not in table:
        table["root"] = [f"point {i}" for i in range(len(table))]
    if "size" not in table:
        table["size"] = [f"{n:.3g}" for n in table["N"]]
    return table, pd.DataFrame(columns=list(EXCLUDED))


def _fit_and_backtest(
    p: Prepared, points: pd.DataFrame, objective: str
) -> tuple[Fit, list[dict[str, Any]]]:
    """The fit, and the fit with each size hidden in turn (where three remain).

    All starts of all of them are one program.
    """
    hidden = [
        n
        for n in sorted(points["N"].unique(), reverse=True)
        if _identifies(points[points["N"] != n], p)
    ]
    masks = [p.w] + [p.w * (points["N"] != n).to_numpy(float) for n in hidden]
    starts = [p.law.starts(p.x, p.y, w) for w in masks]
    owner = np.repeat(np.arange(len(masks)), [len(s) for s in starts])
    found = solve(p.law, objective, DELTA, p.x, p.y, np.array(masks)[owner], np.concatenate(starts))
    best = [
        int(np.flatnonzero(owner == k)[np.argmin(found.value[owner == k])])
        for k in range(len(masks))
    ]
    fit = describe(p, found.take(np.flatnonzero(owner == 0)), objective, DELTA)
    rows = []
    for k, n in enumerate(hidden, 1):
        out = (points["N"] == n).to_numpy()
        predicted = p.law.function(np, found.theta[best[k]], p.x)[out] * p.scale
        truth = points["loss"].to_numpy()[out]
        rest = points[~out]
        rows.append(
            {
                "size": str(points["size"][out].iloc[0]),
                "N": float(n),
                "largest": bool(n == points["N"].max()),
                "points": int(out.sum()),
                "D": [float(d) for d in points["D"][out]],
                "truth": [float(v) for v in truth],
                "prediction": [float(v) for v in predicted],
                "are": float(np.mean(np.abs(truth - predicted) / truth)),
                "bias": float(np.mean(np.log(truth / predicted))),
                "beyond": float(np.log(n / rest["N"].max())),
                "converged": bool(found.converged[best[k]]),
            }
        )
    return fit, rows


def _identifies(rest: pd.DataFrame, p: Prepared) -> bool:
    enough = all(distinct(rest[a.name]) >= a.distinct for a in p.law.axes)
    return enough and len(rest) >= len(p.law.parameters)


def _floor(
    points: pd.DataFrame, target: dict[str, float], backtest: list[dict[str, Any]]
) -> float | None:
    """Half width in log loss; None below four sizes, when the largest cannot be hidden."""
    largest = next((b for b in backtest if b["largest"]), None)
    if largest is None:
        return None
    beyond = max(0.0, float(np.log(target["N"] / points["N"].max())))
    return abs(largest["bias"]) * max(
        1.0, beyond / largest["beyond"] if largest["beyond"] > 0 else 1.0
    )


def _allocation(
    fit: Fit, natural: pd.DataFrame, target: dict[str, float], level: float
) -> dict[str, Any]:
    budget = 6 * target["N"] * target["D"]
    names = ("N", "D", "loss", "a")
    spans = intervals(dict(zip(names, CLOSED[fit.law](natural, budget))), level)
    values = dict(zip(names, CLOSED[fit.law](fit.params, budget)))
    return {"C": budget} | {k: (float(values[k]), *spans[k]) for k in names}


def _band(
    p: Prepared,
    fit: Fit,
    draws: simulate.Resamples,
    points: pd.DataFrame,
    target: dict[str, float],
    level: float,
) -> dict[str, list[Any]]:
    tokens = np.geomspace(points["D"].min() / 1.3, max(target["D"], points["D"].max()) * 1.3, 40)
    x = np.stack([np.full(40, np.log(target["N"]) - p.centre[0]), np.log(tokens) - p.centre[1]], 1)
    many = np.array([p.law.function(np, t, x) for t in draws.theta]) * p.scale
    low, high = percentile_interval(many, level, axis=0)
    middle = fit.predict(N=target["N"], D=tokens)
    return {
        "D": tokens.tolist(),
        "prediction": middle.tolist(),
        "low": low.tolist(),
        "high": high.tolist(),
    }
