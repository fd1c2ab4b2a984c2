"""Which ladder to train for a compute budget, a target and a wanted error.

It is the cheapest one that keeps the error when it is simulated from a law.

The promise is as good as the law. Where it holds, nine ladders of ten keep it; on public families
of undecayed checkpoints, where it holds roughly, about three of four did, and none in t5-pile with
its three sizes (benchmarks/recommend_check.py).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from stepladder.analysis.decide.recommend.candidates import SHARES, Candidate, candidates, design_of
from stepladder.analysis.decide.recommend.simulate import (
    SHARED,
    Truth,
    linear_errors,
    simulated_errors,
    truth_of,
)
from stepladder.analysis.fit.bootstrap import Bootstrap
from stepladder.analysis.fit.result import Fit
from stepladder.configs.core.errors import UserError

# candidates that are simulated, about: the layers of least cost and least linearised error
SIMULATED = 80
# a dearer one of the same layer has at most this part of the error of the one before it
_GAIN = 0.95
SMALLEST = 1e6  # parameters, where the source of the law has no smallest size
QUANTILE = 0.9
_SURE = 1.645  # normal quantile of the 95 % upper limit of a simulated quantile


@dataclass(frozen=True)
class Option:
    """A simulated candidate.

    The error is |forecast / loss - 1| at the target, the loss being that of one new run with its
    noise. `p90` is its 90th percentile over the simulated worlds, and `p90_high` the upper 95 %
    limit of that percentile. The wanted error is compared with `p90_high`, because the cheapest of
    many candidates is also the luckiest of them.
    """

    ladder: Candidate
    flops: float
    share_of_target: float  # of the target's compute, 6 N D
    mean: float
    p90: float
    p90_high: float

    def __str__(self) -> str:
        return (
            f"{self.flops:.3g} FLOPs ({self.share_of_target:.2%} of the target's), error "
            f"{self.mean:.2%} on average, {self.p90:.2%} at the 90th percentile (at most "
            f"{self.p90_high:.2%}): {self.ladder}"
        )


@dataclass(frozen=True)
class Recommendation:
    """The ladder to train.

    `reached`: it is within the wanted error; if not, it is the best within the budget.
    """

    budget: float
    target: tuple[float, float]
    wanted: float
    reached: bool
    best: Option
    runner_ups: tuple[Option, ...]
    # the cheapest that is within the wanted error at any budget below the target's own compute
    needed: Option | None
    law: str
    params: Mapping[str, float]
    source: str
    noise: float
    shared: float
    draws: int
    refused: Mapping[str, int]  # reason -> candidates
    notes: tuple[str, ...]
    options: tuple[Option, ...] = field(repr=False)  # all that were simulated, cheapest first

    @property
    def runs(self) -> pd.DataFrame:
        """The runs of the recommended ladder, as `Candidate.runs` lists them."""
        return self.best.ladder.runs()

    def to_frame(self) -> pd.DataFrame:
        """One row a simulated candidate, cheapest first."""
        rows = [
            {
                **_flat(o),
                "within_budget": o.flops <= self.budget,
                "within_error": o.p90_high <= self.wanted,
            }
            for o in self.options
        ]
        return pd.DataFrame(rows)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        body = {
            f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "options"
        }
        return body | {
            "best": _flat(self.best),
            "needed": _flat(self.needed) if self.needed else None,
            "params": dict(self.params),
            "runner_ups": [_flat(o) for o in self.runner_ups],
            "refused": dict(self.refused),
            "runs": self.runs.to_dict("records"),
        }

    def __str__(self) -> str:
        n, d = self.target
        lines = [
            (
                f"target N = {n:.4g}, D = {d:.4g} ({6 * n * d:.3g} FLOPs); budget "
                f"{self.budget:.3g}; wanted error {self.wanted:.3g}"
            ),
            (
                f"{self.source}, noise {self.noise:.2%} of the loss; {len(self.options)} ladders "
                f"simulated {self.draws} times each"
            ),
            (
                "recommended: "
                if self.reached
                else "wanted error NOT reached; the best within the budget: "
            )
            + str(self.best),
            self.runs.to_string(
                index=False, formatters={k: "{:.4g}".format for k in ("N", "D", "start", "flops")}
            ),
            f"total {self.best.flops:.4g} FLOPs",
        ]
        lines += [f"  runner-up: {o}" for o in self.runner_ups]
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])


def _flat(option: Option) -> dict[str, Any]:
    c = option.ladder
    return {
        "flops": option.flops,
        "share_of_target": option.share_of_target,
        "mean": option.mean,
        "p90": option.p90,
        "p90_high": option.p90_high,
        "sizes": list(c.sizes),
        "tokens_per_parameter": [20 * h for h in c.horizons],
        "seeds": c.seeds,
        "target_share": c.share,
    }


def recommend(
    budget: float,
    target: Sequence[float],
    error: float,
    source: Fit | Bootstrap | Mapping[str, float] | None = None,
    *,
    law: str = "chinchilla",
    noise: float | None = None,
    shared: float = SHARED,
    shares: Sequence[float] = SHARES,
    smallest: float | None = None,
    draws: int = 200,
    seed: int = 0,
) -> Recommendation:
    """The ladder of least FLOPs that forecasts the loss of a target within a wanted error.

    The protocol is that of arXiv 2410.11840, cooldowns are those of 2405.18392.

    Args:
        budget: FLOPs, at most.
        target: N and D.
        error: relative, 0.04 for 4 %.
        source, law, noise, shared: the law that is simulated, as of `truth_of`.
        shares: of the target's own training that may be part of the ladder.
        smallest: N of the smallest proxy allowed; that of the fit, else 1e6.
        draws, seed: how many worlds are simulated, and from which seed.

    Raises:
        UserError: for bad numbers, or when even the cheapest ladder is over the budget.
    """
    smallest = _smallest(source) if smallest is None else smallest
    n, d = _checked(budget, target, error, shares, smallest, draws)
    truth = truth_of(source, law=law, noise=noise, shared=shared)
    kept, refused, made = _screened(truth, (n, d), smallest, shares)
    errors = simulated_errors(truth, *design_of(kept), draws=draws, seed=seed)
    options = tuple(_option(c, e) for c, e in zip(kept, errors))
    best, others, reached = _ranked(options, budget, error)
    needed = next((o for o in options if o.p90_high <= error), None)
    return Recommendation(
        budget=float(budget),
        target=(n, d),
        wanted=float(error),
        reached=reached,
        best=best,
        runner_ups=others[:3],
        needed=needed,
        law=truth.law.name,
        params=truth.params,
        source=truth.source,
        noise=truth.noise,
        shared=truth.shared,
        draws=draws,
        refused=refused,
        notes=(
            *_reach_notes(truth, options, needed, error, budget),
            *_ladder_notes(best, budget, (n, d)),
            *_method_notes(truth, len(options), made, refused),
        ),
        options=options,
    )


def _screened(
    truth: Truth, target: tuple[float, float], smallest: float, shares: Sequence[float]
) -> tuple[list[Candidate], dict[str, int], int]:
    """`screen` of all candidates, and how many there were. Raises UserError when none is left."""
    n, d = target
    many = candidates(target, smallest=smallest, shares=shares)
    if not many:
        raise UserError(
            f"target={n:.4g},{d:.4g}: too small for three proxies below it with {smallest:.3g} "
            "parameters or more that cost less than it does; name a larger target or lower smallest"
        )
    kept, refused = screen(truth, many)
    if not kept:
        raise UserError(
            f"target={n:.4g},{d:.4g}: none of {len(many)} ladders identifies the law "
            f"({', '.join(refused)}); lower smallest"
        )
    return kept, refused, len(many)


def _ranked(
    options: Sequence[Option], budget: float, error: float
) -> tuple[Option, tuple[Option, ...], bool]:
    """The best option, the others by merit, and whether the wanted error is reached.

    The cheapest that reaches it is the best; else the one of least error within the budget. Raises
    UserError when the cheapest of all is over the budget.
    """
    if options[0].flops > budget:
        raise UserError(
            f"budget={budget:.4g}: the cheapest ladder costs {options[0].flops:.4g} FLOPs "
            f"({options[0].ladder}); raise the budget, or lower smallest"
        )
    within = [o for o in options if o.flops <= budget]
    good = [o for o in within if o.p90_high <= error]
    if good:
        best, *others = sorted(good, key=lambda o: o.flops)
    else:
        best, *others = sorted(within, key=lambda o: o.p90_high)
    return best, tuple(others), bool(good)


def _smallest(source: Fit | Bootstrap | Mapping[str, float] | None) -> float:
    fit = source.fit if isinstance(source, Bootstrap) else source
    if not isinstance(fit, Fit) or "N" not in fit.problem.law.inputs:
        return SMALLEST
    i = fit.problem.law.inputs.index("N")
    return float(np.exp(fit.problem.x[fit.problem.w > 0, i].min() + fit.problem.centre[i]))


def _checked(
    budget: float,
    target: Sequence[float],
    error: float,
    shares: Sequence[float],
    smallest: float,
    draws: int,
) -> tuple[float, float]:
    if not (np.isfinite(budget) and budget > 0):
        raise UserError(f"budget={budget}: must be a positive number of FLOPs, e.g. 1e19")
    if len(target) != 2:
        raise UserError(
            f"target={','.join(map(str, target))}: must be two numbers, parameters and tokens, "
            "e.g. 1e9,2e10"
        )
    n, d = map(float, target)
    if not (np.isfinite(n) and np.isfinite(d) and n > 0 and d > 0):
        raise UserError(f"target={n:g},{d:g}: both must be positive and finite, e.g. 1e9,2e10")
    if not 0 < error < 1:
        raise UserError(f"error={error}: must lie between 0 and 1 (4 % is 0.04)")
    if not shares or not all(0 <= s < 1 for s in shares):
        raise UserError(
            f"shares={list(shares)}: parts of the target's training in [0, 1), e.g. 0,0.1,0.3"
        )
    if not smallest > 0:
        raise UserError(f"smallest={smallest}: must be a positive number of parameters, e.g. 1e6")
    if draws < 50:
        raise UserError(f"draws={draws}: too few for a 90th percentile; use 50 or more")
    return n, d


def screen(
    truth: Truth, many: Sequence[Candidate], most: int = SIMULATED
) -> tuple[list[Candidate], dict[str, int]]:
    """The candidates worth simulating, cheapest first, and how many were refused for which reason.

    They are layers of those that no cheaper one beats in linearised error, until there are `most`.
    Neither budget nor wanted error plays a part, so that a larger budget chooses from a larger set
    of the very same numbers and never does worse.
    """
    spread, reasons = linear_errors(truth, *design_of(many))
    refused: dict[str, int] = {}
    for reason in filter(None, reasons):
        refused[reason] = refused.get(reason, 0) + 1
    left = [i for i in range(len(many)) if np.isfinite(spread[i])]
    kept: list[int] = []
    while left and len(kept) < most:
        layer, least = [], np.inf
        for i in left:  # cheapest first
            if spread[i] < _GAIN * least:
                layer.append(i)
                least = spread[i]
        kept += layer
        left = [i for i in left if i not in set(layer)]
    return [many[i] for i in sorted(kept)], refused


def _option(ladder: Candidate, errors: np.ndarray) -> Option:
    k, ordered = len(errors), np.sort(errors)
    high = min(int(np.ceil(QUANTILE * k + _SURE * np.sqrt(k * QUANTILE * (1 - QUANTILE)))), k) - 1
    cost, (n, d) = ladder.flops, ladder.target
    p90 = float(ordered[int(np.ceil(QUANTILE * k)) - 1])
    return Option(
        ladder, cost, cost / (6 * n * d), float(np.mean(errors)), p90, float(ordered[high])
    )


def _reach_notes(
    truth: Truth,
    options: Sequence[Option],
    needed: Option | None,
    error: float,
    budget: float,
) -> list[str]:
    """What the wanted error needs, where the budget does not reach it."""
    if needed and needed.flops <= budget:
        return []
    if needed:
        return [
            f"the wanted error needs {needed.flops:.3g} FLOPs ({needed.flops / budget:.2g}x "
            f"the budget): {needed.ladder}"
        ]
    floor = _SURE * truth.noise
    if error < floor:
        return [
            f"no ladder can promise it: the noise of the target itself is {floor:.2%} at the "
            "90th percentile"
        ]
    least = min(options, key=lambda o: o.p90_high)
    return [f"no simulated ladder that costs less than the target reaches it; the best is {least}"]


def _ladder_notes(best: Option, budget: float, target: tuple[float, float]) -> list[str]:
    n, d = target
    notes = []
    if budget >= 6 * n * d:
        notes.append(
            f"the budget covers the target itself ({6 * n * d:.3g} FLOPs): training it leaves no "
            "error"
        )
    if best.ladder.share:
        notes.append(
            f"{best.ladder.share:.0%} of the target's training is counted, but all except its "
            "decay is kept when the target is trained on"
        )
    return notes


def _method_notes(truth: Truth, simulated: int, made: int, refused: Mapping[str, int]) -> list[str]:
    notes = [f"{count} of {made} candidates refused: {why}" for why, count in refused.items()]
    if made - sum(refused.values()) > simulated:
        notes.append(
            f"{simulated} of {made} candidates simulated: those that hardly any other beats in "
            "both cost and linearised error"
        )
    notes.append(
        f"law {truth.law.name} is taken to hold from the smallest proxy to the target, at "
        "well-tuned decayed runs; where it bends, so does the promise"
    )
    if truth.refits is None:
        notes.append(
            "the constants are taken as exact; pass a bootstrap of the fit to let their error count"
        )
    return notes
