"""Back-tests: hide a part of a family of learning curves and forecast it from the rest.

The words are those of arXiv 2410.11840. A *cell* is one forecast: a set of training models, a
fraction of their training, one error. All cells, of all families, are jobs of one batched fit: they
share their family's points and differ only in weights.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from stepladder.analysis.decide.backtest.fitting import FITTERS, LAW, Block, block_of, params_of
from stepladder.analysis.decide.backtest.plan import Plan, Sets, plan_of
from stepladder.analysis.decide.backtest.rules import CANDIDATES, DEFAULT, Rules, check
from stepladder.analysis.laws import LAWS
from stepladder.analysis.tables.checks import distinct


@dataclass(frozen=True)
class Cell:
    """One forecast.

    Errors are relative to the loss; every one is NaN where `reason` refuses the cell.
    """

    family: str
    target: str  # the hidden models
    models: tuple[str, ...]
    fraction: float
    sizes: int  # different N with a training row
    smallest: float  # N
    largest: float  # N
    n_train: int
    n_test: int
    flops: float  # sum over models of 6 N * last token used
    identified: bool
    reason: str  # why the cell cannot identify the parameters; empty if it can
    are: float  # mean over hidden rows of |loss - forecast| / loss
    error: float  # the same mean with its sign: positive when the forecast is too high
    train_are: float
    params: Mapping[str, float]
    # parameters on a bound of the solver's box (E and A together when borrowed)
    at_bound: tuple[str, ...]
    best_seen: float  # ARE of the baselines
    most_compute: float
    power_law: float  # L = A / C^alpha, two parameters, least squares in logs, C = 6 N D
    last: float  # of the forecast: ln(loss / forecast) at the last hidden row


@dataclass(frozen=True)
class Backtest:
    """The cells and the rules they were made under."""

    rules: Rules
    cells: tuple[Cell, ...]

    def table(self) -> pd.DataFrame:
        """One row a cell; `num_models` counts its models, the parameters are columns."""
        rows = [{**vars(c), "num_models": len(c.models), **c.params} for c in self.cells]
        return pd.DataFrame(rows, columns=_CELL_COLUMNS).drop(columns="params")


_CELL_COLUMNS = [*(f.name for f in dataclasses.fields(Cell)), "num_models", *LAWS[LAW].parameters]


def backtest(
    points: pd.DataFrame,
    *,
    sets: Sets = "all",
    fractions: Sequence[float] = (1.0,),
    rules: Rules = DEFAULT,
) -> Backtest:
    """Forecast the hidden part of every family from each set of training models.

    Definitions are those of arXiv 2410.11840.

    Args:
        points: rows of model (a run's id), N (parameters), D (tokens seen), loss and, for several
            families at once, family; losses of one family are in one unit.
        sets: a key of SETS, or sets of models, or these by family.
        fractions: of the training that is used.
        rules: every other choice.

    Raises:
        UserError: for a bad table or rule.
    """
    return backtests(points, [rules], sets=sets, fractions=fractions)[0]


def backtests(
    points: pd.DataFrame,
    many: Sequence[Rules],
    *,
    sets: Sets = "all",
    fractions: Sequence[float] = (1.0,),
) -> list[Backtest]:
    """`backtest` under many rules at once; raises UserError as it does.

    What shares a fitter and an objective is fitted in one batch.
    """
    for rules in many:
        check(points, rules)
    points = points.assign(model=points["model"].astype(str))
    families = (
        points.groupby("family", sort=False, observed=True)
        if "family" in points
        else [("", points)]
    )
    tables = [(str(name), rows.reset_index(drop=True)) for name, rows in families]
    plans = [
        [plan_of(name, rows, sets, fractions, rules) for name, rows in tables] for rules in many
    ]
    cells: list[list[Cell]] = [[] for _ in many]
    for key in dict.fromkeys(map(_fitted_alike, many)):
        alike = [i for i, rules in enumerate(many) if _fitted_alike(rules) == key]
        blocks = [
            block_of(family, np.concatenate([p.w for p in family]))
            for family in zip(*(plans[i] for i in alike))
        ]
        thetas = FITTERS[many[alike[0]].fitter](blocks, many[alike[0]])
        for f, (block, theta) in enumerate(zip(blocks, thetas)):
            ends = np.cumsum([len(plans[i][f].w) for i in alike])[:-1]
            for i, part in zip(alike, np.split(theta, ends)):
                cells[i] += _cells(plans[i][f], block, part, many[i])
    return [Backtest(rules, tuple(mine)) for rules, mine in zip(many, cells)]


def _fitted_alike(rules: Rules) -> tuple[object, ...]:
    return rules.fitter, rules.objective, rules.delta, rules.borrow


def choose(
    points: pd.DataFrame, candidates: Sequence[Rules] = CANDIDATES
) -> tuple[Rules, tuple[float, ...]]:
    """The rules with the least error (ARE) when the largest *training* size is hidden instead.

    Also the error of each; the target is never seen.

    Rules that cannot be judged, because two training sizes are left, have NaN; when none can be
    judged the first is returned.
    """
    inside = points[points["N"] < points["N"].max()]
    if inside["N"].nunique() < 2:
        return candidates[0], (float("nan"),) * len(candidates)
    errors = tuple(found.cells[0].are for found in backtests(inside, candidates))
    return (
        candidates[int(np.nanargmin(errors))] if np.isfinite(errors).any() else candidates[0]
    ), errors


def _cells(plan: Plan, b: Block, theta: np.ndarray, rules: Rules) -> list[Cell]:
    law, points = LAWS[LAW], plan.points
    n, d, loss = (points[c].to_numpy(float) for c in ("N", "D", "loss"))
    x = np.log(np.stack([n, d], 1)) - b.centre
    if rules.borrow:
        x[:, 0] = 0.0
    fitted = {int(i): k for k, i in enumerate(plan.fitted)}
    target = ", ".join(dict.fromkeys(points["model"][plan.hidden]))
    last, cells = np.argsort(d[plan.hidden], kind="stable")[-1], []
    for i, (models, fraction) in enumerate(plan.cells):
        used = plan.used[i]
        forecast, params, at_bound = np.full(len(n), np.nan), {}, ()
        if i in fitted:
            t = theta[fitted[i]]
            forecast = law.function(np, t, x) * b.scale + plan.known
            params, at_bound = _parameters(t, b, rules)
        miss = forecast / loss - 1
        hidden = miss[plan.hidden]
        cells.append(
            Cell(
                family=plan.family,
                target=target,
                models=models,
                fraction=fraction,
                sizes=distinct(n[used]),
                smallest=float(n[used].min(initial=np.inf)),
                largest=float(n[used].max(initial=0)),
                n_train=int(used.sum()),
                n_test=int(plan.hidden.sum()),
                flops=_flops(points["model"], n, d, used),
                identified=not plan.reasons[i],
                reason=plan.reasons[i],
                are=float(np.abs(hidden).mean()),
                error=float(hidden.mean()),
                train_are=float(np.abs(miss[used]).mean()) if used.any() else float("nan"),
                params=params,
                at_bound=at_bound,
                last=float(-np.log1p(hidden[last])),
                **_baselines(n * d, loss, used, plan.hidden),
            )
        )
    return cells


def _parameters(
    theta: np.ndarray, b: Block, rules: Rules
) -> tuple[dict[str, float], tuple[str, ...]]:
    """The parameters in the units of the data, and those on an end of their range."""
    law = LAWS[LAW]
    params = params_of(theta, b)
    near = np.minimum(theta - law.lower, law.upper - theta) < 1e-6
    at_bound = tuple(name for name, touches in zip(law.parameters, near) if touches)
    if rules.borrow:
        params |= {
            "E": float(b.scale * (np.exp(theta[0]) + np.exp(theta[1]))),
            "A": rules.borrow[0],
            "alpha": rules.borrow[1],
        }
    return params, at_bound


def _flops(model: pd.Series, n: np.ndarray, d: np.ndarray, used: np.ndarray) -> float:
    """6 N times the last token used, summed over models."""
    code, names = pd.factorize(model)
    cost = np.zeros(len(names))
    np.maximum.at(cost, code[used], 6 * n[used] * d[used])
    return float(cost.sum())


def _baselines(
    c: np.ndarray, loss: np.ndarray, used: np.ndarray, hidden: np.ndarray
) -> dict[str, float]:
    """ARE of three rules that need no law in N and D."""
    nan = float("nan")
    if not used.any():
        return {"best_seen": nan, "most_compute": nan, "power_law": nan}

    def are(forecast: np.ndarray | float) -> float:
        return float(np.abs(forecast / loss[hidden] - 1).mean())

    power = nan
    if len(np.unique(c[used])) > 1:
        slope, level = np.polyfit(np.log(c[used]), np.log(loss[used]), 1)
        power = are(np.exp(level + slope * np.log(c[hidden])))
    return {
        "best_seen": are(loss[used].min()),
        "most_compute": are(loss[used][np.argmax(c[used])]),
        "power_law": power,
    }
