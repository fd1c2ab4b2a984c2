"""Back-tests: hide a part of a family of learning curves, forecast it from the rest, and say by
how much the forecast missed.

The words are those of arXiv 2410.11840. A *cell* is one forecast: a set of training models, a
fraction of their training, one error. All cells, of all families, are jobs of one batched fit: they
share their family's points and differ only in weights.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from stepladder.analysis.decide.backtest.rules import (
    CANDIDATES,
    DEFAULT,
    HIDE,
    SETS,
    WEIGHTS,
    Rules,
    check,
)
from stepladder.analysis.fit.exponent_grid import starts_from_grid
from stepladder.analysis.fit.objective import OBJECTIVES
from stepladder.analysis.fit.reference import reference_thetas
from stepladder.analysis.fit.solve import solve
from stepladder.analysis.laws import LAWS
from stepladder.analysis.tables.checks import distinct
from stepladder.configs.core.errors import UserError, nearest

LAW = "chinchilla"
Sets = str | Sequence[Sequence[str]] | Mapping[str, Sequence[Sequence[str]]]


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
    """Forecast the hidden part of every family from every set of models and fraction of their
    training.

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
    """`backtest` under many rules at once: what shares a fitter and an objective is fitted in one
    batch.
    """
    for rules in many:
        check(points, rules)
    families = (
        points.groupby("family", sort=False, observed=True)
        if "family" in points
        else [("", points)]
    )
    tables = [(str(name), rows.reset_index(drop=True)) for name, rows in families]
    plans = [[_plan(name, rows, sets, fractions, rules) for name, rows in tables] for rules in many]
    cells: list[list[Cell]] = [[] for _ in many]
    for key in dict.fromkeys(map(_fitted_alike, many)):
        alike = [i for i, rules in enumerate(many) if _fitted_alike(rules) == key]
        blocks = [
            _block(family, np.concatenate([p.w for p in family]))
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
    """The rules with the lowest ARE when the largest *training* size is hidden instead, and the ARE
    of each; the target is never seen.

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


@dataclass(frozen=True)
class _Block:
    """The fits of one family: x [n, 2] centred logs, y [n] loss / scale, w [K, n]."""

    x: np.ndarray
    y: np.ndarray
    w: np.ndarray
    centre: np.ndarray
    scale: float


@dataclass(frozen=True)
class _Plan:
    family: str
    points: pd.DataFrame
    hidden: np.ndarray  # [n]
    used: np.ndarray  # [K, n]
    cells: tuple[tuple[tuple[str, ...], float], ...]
    reasons: tuple[str, ...]
    fitted: np.ndarray  # [K'], indices of the cells that are fitted
    w: np.ndarray  # [K', n], their weights
    known: np.ndarray  # [n], the borrowed term A / N^alpha, or 0


def _plan(
    family: str, points: pd.DataFrame, sets: Sets, fractions: Sequence[float], rules: Rules
) -> _Plan:
    may_train, hidden = HIDE[rules.hide](points, rules)
    d, n, loss = (points[c].to_numpy(float) for c in ("D", "N", "loss"))
    usable = may_train & (d > max(rules.cut, rules.cut_share * d[may_train].max(initial=0.0)))
    groups = _groups(family, points, sets, may_train, usable, hidden)
    cells = tuple((group, float(p)) for group in groups for p in fractions)
    used = _used(points, usable, cells, rules)
    known = rules.borrow[0] / n ** rules.borrow[1] if rules.borrow else np.zeros(len(n))
    reasons = tuple(_reason(n[row], d[row], (loss - known)[row], rules) for row in used)
    report = rules.unidentified == "report"
    fitted = [i for i, why in enumerate(reasons) if used[i].any() and (report or not why)]
    code, _ = pd.factorize(points["model"])
    w = np.zeros((len(fitted), len(points)))
    for row, mine in zip(w, used[fitted]):
        models = code[mine]
        weight = WEIGHTS[rules.weights](d[mine], np.bincount(models)[models].astype(float))
        row[mine] = weight / weight.mean()
    return _Plan(family, points, hidden, used, cells, reasons, np.array(fitted, int), w, known)


def _groups(
    family: str,
    points: pd.DataFrame,
    sets: Sets,
    may_train: np.ndarray,
    usable: np.ndarray,
    hidden: np.ndarray,
) -> list[tuple[str, ...]]:
    """The training models of each set; a hidden model whose early rows may train is in every
    one.
    """
    model = points["model"]
    sizes = points[usable].groupby("model", sort=False)["N"].first().sort_values(kind="stable")
    always = tuple(model[usable & model.isin(model[hidden]).to_numpy()].unique())
    if isinstance(sets, str):
        groups = SETS[sets]([(str(m), float(n)) for m, n in sizes.items() if m not in always])
    else:
        chosen = sets[family] if isinstance(sets, Mapping) else sets
        groups = [tuple(group) for group in chosen]
    seen = set(model[may_train])
    for name in sorted({m for group in groups for m in group} - seen):
        raise UserError(
            f"sets={name!r}: no model of family {family!r} with that name may train; "
            f"{nearest(name, seen)}"
        )
    return [tuple(dict.fromkeys((*group, *always))) for group in groups]


def _used(
    points: pd.DataFrame,
    usable: np.ndarray,
    cells: Sequence[tuple[tuple[str, ...], float]],
    rules: Rules,
) -> np.ndarray:
    """Which rows train in which cell: bool [cells, n]."""
    d = points["D"].to_numpy(float)
    code, names = pd.factorize(points["model"])
    where = {name: i for i, name in enumerate(names)}
    end = np.zeros(len(names))  # the last usable token count of each model
    np.maximum.at(end, code[usable], d[usable])
    used = np.zeros((len(cells), len(points)), bool)
    for row, (group, fraction) in zip(used, cells):
        chosen = np.zeros(len(names), bool)
        chosen[[where[name] for name in group]] = True
        longest = np.full(len(names), end[chosen].max(initial=0.0))
        limit = fraction * (end if rules.pool == "own" else longest)[code]
        row[:] = usable & chosen[code] & (d < limit if rules.strict else d <= limit)
    return used


def _block(plans: Sequence[_Plan], w: np.ndarray) -> _Block:
    """The fits w [K, n] of the plans of one family, without the points that none of them uses."""
    points, keep = plans[0].points, w.any(0)
    logs = np.log(points[["N", "D"]].to_numpy(float))[keep]
    loss = points["loss"].to_numpy(float)[keep]
    centre = logs.mean(0) if keep.any() else np.zeros(2)
    scale = float(np.median(loss)) if keep.any() else 1.0
    return _Block(logs - centre, (loss - plans[0].known[keep]) / scale, w[:, keep], centre, scale)


def _reason(n: np.ndarray, d: np.ndarray, left: np.ndarray, rules: Rules) -> str:
    """Why these rows cannot identify the parameters, or nothing."""
    needs = (
        ("sizes", distinct(n), 1 if rules.borrow else 3, "E, A and alpha"),
        ("token counts", distinct(d), 3, "E, B and beta"),
        ("rows", len(d), 3 if rules.borrow else 5, "the parameters"),
    )
    if len(left) and left.min() <= 0:
        return "the borrowed A / N^alpha alone is above the loss"
    return "; ".join(
        f"{have} {what}: {which} need {least}" for what, have, least, which in needs if have < least
    )


def _descend(blocks: Sequence[_Block], rules: Rules) -> list[np.ndarray]:
    """theta [K, 5] of every block's jobs: the one place that knows the solver.

    Few shapes, so that few programs are compiled.
    """
    out, width = {}, 0
    for i in sorted(range(len(blocks)), key=lambda i: -len(blocks[i].y)):
        b = blocks[i]
        if not len(b.w):
            out[i] = np.zeros((0, 5))
            continue
        # a new shape is a new compilation: 2 s
        if width == 0 or (len(b.y) < width / 8 and width > 1024):
            width = len(b.y)
        pad = width - len(b.y)  # points of weight 0
        # the term of N is already subtracted: A' is one more constant
        logs = b.x * (0.0, 1.0) if rules.borrow else b.x
        x = np.pad(logs, ((0, pad), (0, 0)))
        y = np.pad(b.y, (0, pad), constant_values=1.0)
        w = np.pad(b.w, ((0, 0), (0, pad)))
        # In log loss an error of dL is one of dL / L.
        starts = starts_from_grid(logs, b.y, b.w if rules.objective == "squared" else b.w / b.y**2)
        jobs = np.repeat(w, starts.shape[1], 0)
        delta = OBJECTIVES[rules.objective].solver_delta(rules.delta)
        found = solve(
            LAWS[LAW], rules.objective, delta, x, y, jobs, starts.reshape(-1, starts.shape[-1])
        )
        value = np.where(np.isfinite(found.value), found.value, np.inf).reshape(starts.shape[:2])
        out[i] = found.theta.reshape(starts.shape)[np.arange(len(b.w)), value.argmin(1)]
    return [out[i] for i in range(len(blocks))]


def _as_the_authors(blocks: Sequence[_Block], rules: Rules) -> list[np.ndarray]:
    return [
        reference_thetas(b.x + b.centre, b.y * b.scale, b.w, b.centre, b.scale, rules.borrow)
        for b in blocks
    ]


FITTERS: dict[str, Callable[[Sequence[_Block], Rules], list[np.ndarray]]] = {
    "batched": _descend,  # the lowest of several minima, every cell in one program
    "reference": _as_the_authors,
}


def _cells(plan: _Plan, b: _Block, theta: np.ndarray, rules: Rules) -> list[Cell]:
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
    theta: np.ndarray, b: _Block, rules: Rules
) -> tuple[dict[str, float], tuple[str, ...]]:
    """The parameters in the units of the data, and those on an end of their range."""
    law = LAWS[LAW]
    params = {k: float(v) for k, v in law.to_data_units(theta, b.centre, b.scale).items()}
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
