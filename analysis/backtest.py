"""Back-tests: hide a part of a family of learning curves, forecast it from the rest, and say by how much the forecast missed.

The words are those of arXiv 2410.11840. A *cell* is one forecast: a set of training models, a fraction of their training, one error.
All cells, of all families, are jobs of one batched fit: they share their family's points and differ only in weights.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from stepladder.analysis.exponent_grid import starts_from_grid
from stepladder.analysis.law import LAWS
from stepladder.analysis.reference import reference_thetas
from stepladder.analysis.solve import OBJECTIVES, solve
from stepladder.configs.errors import UserError, nearest

COLUMNS = ("model", "N", "D", "loss")
LAW = "chinchilla"


@dataclass(frozen=True)
class Rules:
    """Every choice that moves a back-test's number. The defaults are the authors', except that no early part is cut (their cut is 1e10)."""

    hide: str = "target_end"  # a key of HIDE
    test_from: float = 0.7  # hidden rows are those with tokens >= this share of the hidden run's last
    known: float = 0.3  # hide="own_end": the target's rows with tokens < this share of its last are seen
    cut: float = 0.0  # tokens; training rows with tokens <= cut are dropped, hidden rows never
    cut_share: float = 0.0  # the same, with tokens <= this share of the longest training run: needs no idea of a family's scale
    strict: bool = True  # training rows with tokens < p T; False: tokens <= p T (strict and p = 1 drop the rows at T)
    pool: str = "selected"  # T is the last token count over the "selected" models together, or of each model on its "own"
    weights: str = "rows"  # a key of WEIGHTS
    objective: str = "squared"  # a key of solve.OBJECTIVES
    delta: float = 1e-3  # Huber's threshold in log loss
    borrow: tuple[float, float] | None = None  # (A, alpha) of another family, in the units of N and the loss; fits E, B and beta only
    fitter: str = "batched"  # a key of FITTERS
    unidentified: str = "refuse"  # "report": fit cells that cannot identify the parameters too, and say why they cannot


DEFAULT = Rules()
# Ours, for `choose`: Huber on log loss, every model with equal weight, an early cut chosen inside the training models. Mean ARE over the nine
# public families that identify the law, beside the authors' least squares: benchmarks/colpret_methods.py.
CANDIDATES = tuple(Rules(objective="huber_log", weights="models", cut_share=s) for s in (0.03, 0.0, 0.01, 0.1, 0.2, 0.3, 0.5))
REFERENCE = Rules(cut=1e10, fitter="reference", unidentified="report")  # what arXiv 2410.11840 does


@dataclass(frozen=True)
class Cell:
    """One forecast. Errors are relative to the loss; every one is NaN where `reason` refuses the cell."""

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
    at_bound: tuple[str, ...]  # parameters on a bound of the solver's box (E and A together when borrowed)
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


# --- what is hidden: (points, rules) -> (rows that may train, hidden rows), two masks


def _target_end(points: pd.DataFrame, rules: Rules) -> tuple[np.ndarray, np.ndarray]:
    largest = (points["N"] == points["N"].max()).to_numpy()
    return ~largest, _end(points, largest, rules)


def _longest(points: pd.DataFrame, rules: Rules) -> tuple[np.ndarray, np.ndarray]:
    last = points.groupby("model")["D"].transform("max")
    longest = (last >= 0.999 * last.max()).to_numpy()
    return ~longest, _end(points, longest, rules)


def _own_end(points: pd.DataFrame, rules: Rules) -> tuple[np.ndarray, np.ndarray]:
    largest = (points["N"] == points["N"].max()).to_numpy()
    early = (points["D"] < rules.known * points["D"][largest].max()).to_numpy()
    return ~largest | early, _end(points, largest, rules)


def _end(points: pd.DataFrame, hidden: np.ndarray, rules: Rules) -> np.ndarray:
    return hidden & (points["D"] >= rules.test_from * points["D"][hidden].max()).to_numpy()


HIDE: dict[str, Callable] = {
    "target_end": _target_end,  # the largest size is unseen; forecast its last 30 %
    "longest": _longest,  # the runs with the most tokens are unseen; forecast their last 30 %
    "own_end": _own_end,  # the beginning of the target is seen too, in every cell; forecast its last 30 %
}

# --- which models train: (model, N) from the smallest to the largest -> sets of models


def _windows(width: int) -> Callable:
    def choose(models: Sequence[tuple[str, float]]) -> list[tuple[str, ...]]:
        sizes = sorted({n for _, n in models})
        return [tuple(m for m, n in models if n in sizes[i : i + width]) for i in range(len(sizes) - width + 1)]

    return choose


SETS: dict[str, Callable] = {
    "all": lambda models: [tuple(m for m, _ in models)],
    "smallest": lambda models: [tuple(m for m, _ in models[:k]) for k in range(2, len(models) + 1)],
    "window3": _windows(3),
    "window4": _windows(4),
    "one": lambda models: [(m,) for m, _ in models],
}

# --- weight of a training row: (tokens, number of training rows of its model) -> weight; scaled to mean 1 in every cell

WEIGHTS: dict[str, Callable] = {
    "rows": lambda d, count: np.ones_like(d),
    "models": lambda d, count: 1 / count,
    "tokens": lambda d, count: d,
    "tokens_models": lambda d, count: d / count,
}


def backtest(
    points: pd.DataFrame, *, sets: str | Sequence[Sequence[str]] = "all", fractions: Sequence[float] = (1.0,), rules: Rules = DEFAULT
) -> Backtest:
    """Forecast the hidden part of every family from every set of models and fraction of their training.

    points: rows of model (a run's id), N (parameters), D (tokens seen), loss and, for several families at once, family; one unit of loss a
    family. sets: a key of SETS, or sets of models. Definitions: arXiv 2410.11840. Raises UserError for a bad table or rule.
    """
    _check(points, rules)
    families = points.groupby("family", sort=False, observed=True) if "family" in points else [("", points)]
    plans = [_plan(str(name), rows.reset_index(drop=True), sets, fractions, rules) for name, rows in families]
    thetas = FITTERS[rules.fitter]([p.block for p in plans], rules)
    return Backtest(rules, tuple(cell for plan, theta in zip(plans, thetas) for cell in _cells(plan, theta, rules)))


def choose(points: pd.DataFrame, candidates: Sequence[Rules] = CANDIDATES) -> tuple[Rules, tuple[float, ...]]:
    """The rules with the lowest ARE when the largest *training* size is hidden instead, and the ARE of each; the target is never seen.

    Rules that cannot be judged, because two training sizes are left, have NaN; when none can be judged the first is returned.
    """
    inside = points[points["N"] < points["N"].max()]
    if inside["N"].nunique() < 2:
        return candidates[0], (float("nan"),) * len(candidates)
    errors = tuple(backtest(inside, rules=rules).cells[0].are for rules in candidates)
    return (candidates[int(np.nanargmin(errors))] if np.isfinite(errors).any() else candidates[0]), errors


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
    block: _Block  # of the K' cells that are fitted
    fitted: np.ndarray  # [K'], their indices
    known: np.ndarray  # [n], the borrowed term A / N^alpha, or 0


def _plan(family: str, points: pd.DataFrame, sets: str | Sequence[Sequence[str]], fractions: Sequence[float], rules: Rules) -> _Plan:
    usable, hidden = HIDE[rules.hide](points, rules)
    seen = points[usable]
    usable = usable & (points["D"] > max(rules.cut, rules.cut_share * points["D"][usable].max())).to_numpy()
    sizes = points[usable].groupby("model", sort=False)["N"].first().sort_values(kind="stable")
    always = tuple(points.loc[usable & points["model"].isin(points["model"][hidden]).to_numpy(), "model"].unique())
    if isinstance(sets, str):
        groups = SETS[sets]([(m, n) for m, n in sizes.items() if m not in always])
    else:
        groups = [tuple(group) for group in sets]
    for name in sorted({m for group in groups for m in group} - set(seen["model"])):
        raise UserError(f"sets={name!r}: no model of family {family!r} with that name may train; {nearest(name, set(seen['model']))}")
    cells = tuple((tuple(dict.fromkeys((*group, *always))), float(p)) for group in groups for p in fractions)
    code, names = pd.factorize(points["model"])
    where = {name: i for i, name in enumerate(names)}
    d, n = points["D"].to_numpy(float), points["N"].to_numpy(float)
    end = np.zeros(len(names))  # of what each model may show
    np.maximum.at(end, code[usable], d[usable])
    used = np.zeros((len(cells), len(points)), bool)
    for row, (group, p) in zip(used, cells):
        chosen = np.zeros(len(names), bool)
        chosen[[where[name] for name in group]] = True
        limit = p * (end if rules.pool == "own" else np.full(len(names), end[chosen].max(initial=0.0)))[code]
        row[:] = usable & chosen[code] & (d < limit if rules.strict else d <= limit)
    loss = points["loss"].to_numpy(float)
    known = rules.borrow[0] / n ** rules.borrow[1] if rules.borrow else np.zeros(len(n))
    reasons = tuple(_reason(n[row], d[row], (loss - known)[row], rules) for row in used)
    fitted = np.array([i for i, reason in enumerate(reasons) if used[i].any() and (not reason or rules.unidentified == "report")], int)
    w = np.zeros(used.shape)
    for i in fitted:
        mine = code[used[i]]
        weight = WEIGHTS[rules.weights](d[used[i]], np.bincount(mine)[mine].astype(float))
        w[i, used[i]] = weight / weight.mean()
    return _Plan(family, points, hidden, used, cells, reasons, _block(n, d, loss, known, w[fitted]), fitted, known)


def _block(n: np.ndarray, d: np.ndarray, loss: np.ndarray, known: np.ndarray, w: np.ndarray) -> _Block:
    keep = w.any(0)
    logs = np.log(np.stack([n, d], 1))[keep]
    centre = logs.mean(0) if keep.any() else np.zeros(2)
    scale = float(np.median(loss[keep])) if keep.any() else 1.0
    return _Block(logs - centre, (loss - known)[keep] / scale, w[:, keep], centre, scale)


def _reason(n: np.ndarray, d: np.ndarray, left: np.ndarray, rules: Rules) -> str:
    """Why these rows cannot identify the parameters, or nothing."""
    needs = (("sizes", _different(n), 1 if rules.borrow else 3, "E, A and alpha"),
             ("token counts", _different(d), 3, "E, B and beta"),
             ("rows", len(d), 3 if rules.borrow else 5, "the parameters"))  # fmt: skip
    if len(left) and left.min() <= 0:
        return "the borrowed A / N^alpha alone is above the loss"
    return "; ".join(f"{have} {what}: {which} need {least}" for what, have, least, which in needs if have < least)


def _different(values: np.ndarray) -> int:
    return len(np.unique(np.round(np.log(values), 6)))


def _descend(blocks: Sequence[_Block], rules: Rules) -> list[np.ndarray]:
    """theta [K, 5] of every block's jobs: the one place that knows the solver. Few shapes, so that few programs are compiled."""
    out, width = {}, 0
    for i in sorted(range(len(blocks)), key=lambda i: -len(blocks[i].y)):
        b = blocks[i]
        if not len(b.w):
            out[i] = np.zeros((0, 5))
            continue
        if len(b.y) < width / 4 or width == 0:
            width = len(b.y)
        pad = width - len(b.y)  # points of weight 0
        logs = b.x * (0.0, 1.0) if rules.borrow else b.x  # the term of N is already subtracted: A' is one more constant
        x, y, w = np.pad(logs, ((0, pad), (0, 0))), np.pad(b.y, (0, pad), constant_values=1.0), np.pad(b.w, ((0, 0), (0, pad)))
        # In log loss an error of dL is one of dL / L.
        starts = starts_from_grid(logs, b.y, b.w if rules.objective == "squared" else b.w / b.y**2)
        jobs = np.repeat(w, starts.shape[1], 0)
        delta = rules.delta if rules.objective == "huber_log" else 1e-3  # a squared objective has no threshold, only a scale
        found = solve(LAW, rules.objective, delta, x, np.tile(y, (len(jobs), 1)), jobs, starts.reshape(-1, starts.shape[-1]))
        value = np.where(np.isfinite(found.value), found.value, np.inf).reshape(starts.shape[:2])
        out[i] = found.theta.reshape(starts.shape)[np.arange(len(b.w)), value.argmin(1)]
    return [out[i] for i in range(len(blocks))]


FITTERS: dict[str, Callable] = {
    "batched": _descend,  # the lowest of several minima, every cell in one program
    "reference": lambda blocks, rules: [
        reference_thetas(b.x + b.centre, b.y * b.scale, b.w, b.centre, b.scale, rules.borrow) for b in blocks
    ],
}


def _cells(plan: _Plan, theta: np.ndarray, rules: Rules) -> list[Cell]:
    law, b, points = LAWS[LAW], plan.block, plan.points
    n, d, loss = (points[c].to_numpy(float) for c in ("N", "D", "loss"))
    x = np.log(np.stack([n, d], 1)) - b.centre
    if rules.borrow:
        x[:, 0] = 0.0
    code, names = pd.factorize(points["model"])
    fitted = {int(i): k for k, i in enumerate(plan.fitted)}
    target = ", ".join(dict.fromkeys(points["model"][plan.hidden]))
    order, cells = np.argsort(d[plan.hidden], kind="stable"), []
    for i, (models, fraction) in enumerate(plan.cells):
        used = plan.used[i]
        forecast, params, at_bound = np.full(len(n), np.nan), {}, ()
        if i in fitted:
            t = theta[fitted[i]]
            forecast = law.function(np, t, x) * b.scale + plan.known
            params = law.natural(t, b.centre, b.scale)
            near = np.minimum(t - np.array(law.lower), np.array(law.upper) - t) < 1e-6
            at_bound = tuple(name for name, touches in zip(law.parameters, near) if touches)
            if rules.borrow:
                params |= {"E": float(b.scale * (np.exp(t[0]) + np.exp(t[1]))), "A": rules.borrow[0], "alpha": rules.borrow[1]}
        miss = forecast / loss - 1
        cost = np.zeros(len(names))
        np.maximum.at(cost, code[used], 6 * n[used] * d[used])
        cells.append(Cell(
            family=plan.family, target=target, models=models, fraction=fraction, sizes=_different(n[used]),
            smallest=float(n[used].min(initial=np.inf)), largest=float(n[used].max(initial=0)), n_train=int(used.sum()),
            n_test=int(plan.hidden.sum()), flops=float(cost.sum()), identified=not plan.reasons[i], reason=plan.reasons[i],
            are=float(np.abs(miss[plan.hidden]).mean()), error=float(miss[plan.hidden].mean()),
            train_are=float(np.abs(miss[used]).mean()) if used.any() else float("nan"), params=params, at_bound=at_bound,
            last=float(-np.log1p(miss[plan.hidden][order[-1]])), **_baselines(n * d, loss, used, plan.hidden),
        ))  # fmt: skip
    return cells


def _baselines(c: np.ndarray, loss: np.ndarray, used: np.ndarray, hidden: np.ndarray) -> dict[str, float]:
    """ARE of three rules that need no law in N and D."""
    nan = float("nan")
    if not used.any():
        return {"best_seen": nan, "most_compute": nan, "power_law": nan}
    are = lambda forecast: float(np.abs(forecast / loss[hidden] - 1).mean())  # noqa: E731
    power = nan
    if len(np.unique(c[used])) > 1:
        slope, level = np.polyfit(np.log(c[used]), np.log(loss[used]), 1)
        power = are(np.exp(level + slope * np.log(c[hidden])))
    return {"best_seen": are(loss[used].min()), "most_compute": are(loss[used][np.argmax(c[used])]), "power_law": power}


def _check(points: pd.DataFrame, rules: Rules) -> None:
    tables = {"hide": HIDE, "weights": WEIGHTS, "objective": OBJECTIVES, "fitter": FITTERS, "pool": ("selected", "own"),
              "unidentified": ("refuse", "report")}  # fmt: skip
    for field, table in tables.items():
        if (value := getattr(rules, field)) not in table:
            raise UserError(f"{field}={value!r}: unknown; {nearest(value, table)}")
    if not 0 < rules.known <= rules.test_from <= 1:
        raise UserError(f"known={rules.known}, test_from={rules.test_from}: need 0 < known <= test_from <= 1, or hidden rows would be seen")
    if rules.fitter == "reference" and (rules.objective, rules.weights) != ("squared", "rows"):
        raise UserError(f"fitter='reference': fits 'squared' and 'rows', not {rules.objective!r} and {rules.weights!r}; use 'batched'")
    if rules.borrow and rules.objective != "squared":
        raise UserError(f"objective={rules.objective!r}: borrowed parameters are subtracted in loss units; use objective='squared'")
    for name in COLUMNS:
        if name not in points:
            raise UserError(f"column {name!r}: missing from the table; {nearest(name, map(str, points.columns))}")
    bad = ~(np.isfinite(points[["N", "D", "loss"]].astype(float)) & (points[["N", "D", "loss"]] > 0)).all(axis=1).to_numpy()
    if bad.any():
        raise UserError(f"row {points.index[bad.argmax()]}: N, D and loss must be positive and finite; remove or mend that row")
