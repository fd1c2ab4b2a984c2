"""A7 and A8: what gradients and curvature say, without training on a recipe.

The trainer's probes measure them. A7 compares alignment with the ranking, and predicted crossover
rates with the observed ones; A8 is the learning rate that the top eigenvalue of the validation loss
calls tiny.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from stepladder.analysis.studies.proxy_transfer.measures import Row
from stepladder.analysis.studies.proxy_transfer.measures.bootstrap_draws import estimate, unknown
from stepladder.analysis.studies.proxy_transfer.measures.rank import spearman
from stepladder.analysis.studies.proxy_transfer.measures.rank_agreement import (
    Sample,
    Side,
    agreement,
    fixed,
    flat,
)
from stepladder.configs.core.errors import UserError

TINY = (0.01, 0.1)  # of min(1 / lambda_max, eta_std): the protocol's A8
LEAST_PAIRS = 10  # for a rank agreement of predicted and observed crossovers
# The direction of the step whose effect is predicted -> what the trainer appends to a and c. Adam's
# first steps go along the sign.
ALONG = {"gradient": "", "sign of the gradient": "_sign"}


@dataclass(frozen=True)
class AlignmentResult:
    """Mean of all probes of one size at one fraction of training, along one direction of ALONG.

    Attributes:
        fraction: of training that was done.
        a: [R, V], the validation gradient times the recipe's gradient; the first domain is the
            mean, NaN: recipe not probed.
        c: [R, V], the recipe's gradient times the Hessian of the validation loss times itself.
        runs: how many were averaged.
    """

    size: str
    role: str
    fraction: float
    along: str
    a: np.ndarray
    c: np.ndarray
    runs: int


def crossover(a: ArrayLike, c: ArrayLike) -> np.ndarray:
    """Learning rate [R, R] at which a pair is predicted to change its order.

    It is 2 (a_A - a_B) / (c_A - c_B): ours, from the second-order change of the loss in one
    gradient step (arXiv 2512.24503). NaN where the order never changes: the better aligned recipe
    must have the larger curvature.
    """
    a, c = np.asarray(a, float), np.asarray(c, float)
    lead, bend = a[:, None] - a[None, :], c[:, None] - c[None, :]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(lead * bend > 0, 2 * lead / bend, np.nan)


def gather(
    probes: Sequence[Row], recipes: Sequence[str], domains: Sequence[str]
) -> list[AlignmentResult]:
    """Probes by (role, size, fraction) and direction, averaged over runs.

    A direction that was not probed is left out. Raises UserError for a probe without its fields.
    """
    groups: dict[tuple[str, str, float], list[Row]] = {}
    for probe in probes:
        for name in ("size", "role", "fraction", "recipes"):
            if name not in probe:
                raise UserError(
                    f"probe={probe.get('run_id', '?')}: no field {name!r}; write it again with "
                    "this version"
                )
        groups.setdefault(
            (str(probe["role"]), str(probe["size"]), round(float(probe["fraction"]), 3)), []
        ).append(probe)
    out = []
    for (role, size, fraction), members in sorted(groups.items()):
        for along, suffix in ALONG.items():
            a, c = (
                _mean(np.stack([_values(p, name + suffix, recipes, domains) for p in members]))
                for name in ("a", "c")
            )
            if not np.isnan(a).all():
                out.append(AlignmentResult(size, role, fraction, along, a, c, len(members)))
    return out


def alignment_rows(
    found: Sequence[AlignmentResult],
    truth: Side,
    lowest: Mapping[str, Side],
    target: str,
    sample: Sample,
) -> list[Row]:
    """A row a (size, fraction, direction): rho of the alignment with three other scores.

    They are the tuned target's losses, the losses of that size at its lowest rate that trained, and
    the target's own alignment at the same fraction. A higher a should be a lower loss, so -a is
    ranked.

    Args:
        truth: the tuned target. lowest: size -> losses at its lowest rate that trained.
        target: size of the target. sample: the recipes and their draws.
    """
    of_target = {(p.fraction, p.along): p for p in found if p.size == target and p.role == "target"}
    rows = []
    for probe in found:
        score = fixed(-probe.a[:, 0])
        row = {
            "size": probe.size,
            "role": probe.role,
            "fraction": probe.fraction,
            "along": probe.along,
            "runs": probe.runs,
        }
        others = {"tuned_target": truth}
        if probe.size in lowest:
            others["lowest_rate"] = lowest[probe.size]
        if probe.role != "target" and (twin := of_target.get((probe.fraction, probe.along))):
            others["target_alignment"] = fixed(-twin.a[:, 0])
        for name, other in others.items():
            one = agreement(score, other, sample)
            row |= (
                flat(f"{name}_rho", one.rho)
                | flat(f"{name}_accuracy", one.accuracy)
                | {f"{name}_recipes": one.rho.used}
            )
        rows.append(row)
    return rows


def crossing_rows(
    found: Sequence[AlignmentResult],
    seen: Mapping[tuple[str, str], Mapping[tuple[int, int], float]],
    sample: Sample,
) -> tuple[list[Row], list[Row]]:
    """Predicted against observed crossovers: a summary a (size, fraction, direction), and a row a
    pair that has either.

    The prediction is for one step along the gradient (or its sign), and the runs take many steps of
    the trainer's optimizer, so its scale need not fit: rank agreement over pairs, sensitivity and
    specificity carry the claim, and the median ratio observed / predicted says how far off the
    scale is.

    seen: (role, size) -> pair -> observed rate, of `flips.crossings`.
    """
    summary, pairs = [], []
    a, b = np.triu_indices(len(sample.recipes), 1)
    for probe in found:
        if (probe.role, probe.size) not in seen:
            continue
        rates = seen[probe.role, probe.size]
        predicted = crossover(probe.a[:, 0], probe.c[:, 0])[a, b]
        observed = np.array([rates.get((int(i), int(j)), np.nan) for i, j in zip(a, b)])
        summary.append(_crossing_summary(probe, predicted, observed, sample))
        pairs += [
            {
                "size": probe.size,
                "fraction": probe.fraction,
                "along": probe.along,
                "first": sample.recipes[i],
                "second": sample.recipes[j],
                "predicted": p,
                "observed": o,
            }
            for i, j, p, o in zip(a, b, predicted, observed)
            if not (np.isnan(p) and np.isnan(o))
        ]
    return summary, pairs


def _crossing_summary(
    probe: AlignmentResult, predicted: np.ndarray, observed: np.ndarray, sample: Sample
) -> Row:
    """How the predicted rates of all pairs [P] fit the observed ones; NaN: the pair does not
    cross.
    """
    count = len(sample.recipes)
    a, b = np.triu_indices(count, 1)
    together = sample.draws.weights[:, a] * sample.draws.weights[:, b]
    used = int((~np.isnan(probe.a[:, 0])).sum())
    probed = ~np.isnan(probe.a[a, 0] + probe.a[b, 0])
    both = ~np.isnan(predicted) & ~np.isnan(observed)
    flips, calls = ~np.isnan(observed) & probed, ~np.isnan(predicted) & probed
    row = {
        "size": probe.size,
        "role": probe.role,
        "fraction": probe.fraction,
        "along": probe.along,
        "pairs": int(probed.sum()),
        "observed": int(flips.sum()),
        "predicted": int(calls.sum()),
        "both": int(both.sum()),
    }
    for name, hit, of in (
        ("sensitivity", calls & flips, flips),
        ("specificity", ~calls & ~flips & probed, ~flips & probed),
    ):
        with np.errstate(invalid="ignore", divide="ignore"):
            value, draws = hit.sum() / np.float64(of.sum()), (together @ hit) / (together @ of)
        row |= flat(name, estimate(value, draws, sample.level, used, count, kind="share"))
    rho = unknown(used, count)
    if both.sum() >= LEAST_PAIRS:  # few pairs look alike in every draw
        x, y = np.log(predicted), np.log(observed)
        draws = spearman(x[None], y[None], together)
        rho = estimate(float(spearman(x, y)), draws, sample.level, used, count, kind="rho")
    log_ratio = np.where(both, np.log(observed) - np.log(predicted), np.nan)
    middle = estimate(
        weighted_median(log_ratio, both[None].astype(float))[0],
        weighted_median(log_ratio, together),
        sample.level,
        used,
        count,
    )
    return row | flat("rank", rho) | {k: float(np.exp(v)) for k, v in flat("ratio", middle).items()}


def sharpness_rows(probes: Sequence[Row], standard: Mapping[str, float]) -> list[Row]:
    """A8: a row a probe with an eigenvalue.

    It holds lambda_max with the bounds of its residual |H v - lambda v| (an eigenvalue lies within
    it of lambda_max), and eta_tiny = 0.01 to 0.1 of min(1 / lambda_max, eta_std).

    standard: size -> standard rate.
    """
    rows = []
    for probe in probes:
        top = probe.get("lambda_max")
        if top is None or not np.isfinite(top) or top <= 0:
            continue
        error = float(probe.get("lambda_residual") or 0.0)
        rate = standard.get(str(probe["size"]), np.nan)
        bound = np.nanmin([1 / top, rate])
        rows.append(
            {
                "size": str(probe["size"]),
                "role": probe["role"],
                "run_id": probe.get("run_id", ""),
                "step": probe.get("step"),
                "fraction": probe["fraction"],
                "warmup_end": bool(probe.get("warmup_end", False)),
                "lambda_max": top,
                "lambda_max_low": max(top - error, 0.0),
                "lambda_max_high": top + error,
                "iterations": probe.get("lambda_iterations"),
                "one_over": 1 / top,
                "eta_std": rate,
                "eta_tiny_low": TINY[0] * bound,
                "eta_tiny_high": TINY[1] * bound,
                "bound_by": "1 / lambda_max" if not rate < 1 / top else "eta_std",
            }
        )
    return sorted(
        rows, key=lambda r: (r["role"] == "target", r["size"], r["fraction"], r["run_id"])
    )


def _values(probe: Row, name: str, recipes: Sequence[str], domains: Sequence[str]) -> np.ndarray:
    """One quantity [R, V] of a probe."""
    per = probe.get("per_domain") or {}

    def read(table: Row, recipe: str) -> float:
        return float((table.get(recipe) or {}).get(name, np.nan))

    columns = [[read(probe["recipes"], r) for r in recipes]] + [
        [read(per.get(d) or {}, r) for r in recipes] for d in domains[1:]
    ]
    return np.array(columns).T


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over the first axis without NaN; NaN where there is nothing."""
    there = ~np.isnan(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(there, values, 0.0).sum(0) / np.where(there.any(0), there.sum(0), np.nan)


def weighted_median(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted medians [B] of values [P] (NaN: no value), NaN where nothing has weight."""
    there = ~np.isnan(values)
    if not there.any():
        return np.full(len(weights), np.nan)
    order = np.argsort(values[there])
    ordered, total = values[there][order], np.cumsum(weights[:, there][:, order], 1)
    upper, lower = (
        (compare).argmax(1) for compare in (total > total[:, -1:] / 2, total >= total[:, -1:] / 2)
    )
    return np.where(
        total[:, -1] > 0,
        (ordered[lower] + ordered[np.minimum(upper, len(ordered) - 1)]) / 2,
        np.nan,
    )
