"""A6 and G3: how the agreement with the tuned target changes with another setting than the learning
rate: batch size, weight decay, tokens or steps.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from stepladder.analysis.studies.proxy_transfer.measures import Row
from stepladder.analysis.studies.proxy_transfer.measures.bootstrap_draws import (
    Estimate,
    difference,
    unknown,
)
from stepladder.analysis.studies.proxy_transfer.measures.grid import Grid, same_rate
from stepladder.analysis.studies.proxy_transfer.measures.rank_agreement import (
    Agreement,
    Sample,
    agreement,
    change,
    flat,
    side,
    tuned_side,
)
from stepladder.analysis.studies.proxy_transfer.measures.target_truth import TargetTruth

LEARNING_RATE, WEIGHT_DECAY, MORE_STEPS = "learning rate", "weight decay", "more steps"
# First letters of an arm's name -> its family: the setting that the arm changes.
FAMILIES = {
    "batch": "batch size",
    "wd": WEIGHT_DECAY,
    "tokens": "tokens per parameter",
    "more_steps": MORE_STEPS,
    "steps": MORE_STEPS,
}
CONTROLS = (MORE_STEPS,)  # families that answer G3, not A6


Points = Mapping[tuple[str, float], Agreement]  # (size, rate) of main arms
ArmPoints = Mapping[tuple[str, str, float], Agreement]  # (size, arm, rate) of the others


@dataclass(frozen=True)
class Range:
    """Largest minus smallest rho over the settings of one family.

    The range of noisy numbers is above zero even when the setting does nothing: compare ranges of
    about as many settings.

    Attributes:
        rate: at which the arms were run; None for the learning rate's own range.
        draws: [B], the range in each draw, for differences.
    """

    size: str
    family: str
    rate: float | None
    settings: tuple[str, ...]
    range: Estimate
    draws: np.ndarray = field(repr=False)

    def row(self) -> Row:
        """The range as a row of results.json."""
        return {
            "size": self.size,
            "family": self.family,
            "learning_rate": self.rate,
            "settings": list(self.settings),
            **flat("range", self.range),
        }


def family(arm: str) -> str:
    """The family of an arm: "batch/4" -> "batch size".

    An arm that changes two settings, or whose name is unknown, is a family of its own.
    """
    if "+" in arm:
        return arm
    head = re.match(r"[A-Za-z_]+", arm)
    return FAMILIES.get(head.group(0).rstrip("_x"), arm) if head else arm


def arm_rows(
    grids: Sequence[Grid],
    main: Mapping[str, Grid],
    tuned: TargetTruth,
    points: Points,
    sample: Sample,
) -> tuple[list[Row], dict[tuple[str, str, float], Agreement]]:
    """A6: a row a (size, arm, rate), and the agreements by the same key.

    A row holds rho with the tuned target and its paired difference to the main arm at the same
    rate; steps, tokens and batch as ratios to the main arm (NaN when not in the table);
    equal_tokens: whether the tokens are equal to within 2 % (steps are whole numbers).

    Args:
        grids: the arms. main: size -> main arm. tuned: the target.
        points: (size, rate) -> agreement of the main arm.
        sample: the recipes and their draws.
    """
    truth = tuned_side(tuned, 0, sample)
    rows, found = [], {}
    for grid in grids:
        base = main[grid.size]
        for e, rate in enumerate(grid.rates):
            mine = agreement(side(grid, e, 0, sample), truth, sample)
            found[grid.size, grid.arm, rate] = mine
            at = base.at(rate)
            same = None if at is None else points[grid.size, base.rates[at]]
            moved = (
                unknown(mine.rho.used, mine.rho.of) if same is None else change(mine, same, sample)
            )
            ratio = {
                name: getattr(grid, field_) / getattr(base, field_)
                for name, field_ in (("steps", "steps"), ("tokens", "D"), ("batch", "batch_size"))
            }
            rows.append(
                {
                    "size": grid.size,
                    "arm": grid.arm,
                    "family": family(grid.arm),
                    "learning_rate": rate,
                    **flat("rho", mine.rho),
                    **flat("accuracy", mine.accuracy),
                    "main_rho": same.rho.value if same else np.nan,
                    **flat("change", moved),
                    "weight_decay": grid.weight_decay,
                    **{f"{k}_ratio": v for k, v in ratio.items()},
                    "equal_tokens": bool(abs(ratio["tokens"] - 1) < 0.02)
                    if np.isfinite(ratio["tokens"])
                    else None,
                    "recipes": mine.rho.used,
                    "of": mine.rho.of,
                }
            )
    return rows, found


def control_rows(
    arms: ArmPoints,
    rates: Mapping[str, float | None],
    tiny: float | None,
    size: str,
    sample: Sample,
) -> list[Row]:
    """G3 of one proxy: a row an arm of more steps that was run at both rates.

    It holds rho at the tiny rate minus rho at the standard one, both with the arm's steps and
    tokens, so that too few steps cannot be what ranks badly at the tiny rate.

    Args:
        arms: (size, arm, rate) -> agreement, of `arm_rows`.
        rates: name -> rate, of `ProxyRates.named`.
        tiny: the tiny rate. size: the proxy. sample: the recipes and their draws.
    """
    rows = []
    for arm in dict.fromkeys(a for s, a, _ in arms if s == size and family(a) in CONTROLS):
        mine = {r: found for (s, a, r), found in arms.items() if (s, a) == (size, arm)}
        one, two = (
            next((found for r, found in mine.items() if rate and same_rate(r, rate)), None)
            for rate in (tiny, rates["eta_std"])
        )
        if one is not None and two is not None:
            rows.append(
                {
                    "size": size,
                    "arm": arm,
                    "eta_tiny": tiny,
                    "eta_std": rates["eta_std"],
                    **flat("tiny_rho", one.rho),
                    **flat("standard_rho", two.rho),
                    **flat("gain", change(one, two, sample)),
                    "recipes": one.rho.used,
                    "of": one.rho.of,
                }
            )
    return rows


def ranges(
    size: str, points: Points, arms: ArmPoints, rates: Mapping[str, float | None], sample: Sample
) -> list[Range]:
    """Ranges of rho of one proxy: over the learning rates `rates`, and over the settings of each
    family (the main one included) at every rate that its arms were run at.

    Args:
        points: (size, rate) -> agreement of the main arm.
        arms: (size, arm, rate) -> agreement, of `arm_rows`.
        rates: name -> rate: the standard one and its reductions.
    """
    usual = {
        f"{r:g}": points[size, r]
        for r in dict.fromkeys(r for r in rates.values() if r is not None)
        if (size, r) in points
    }
    out = [_range(size, LEARNING_RATE, None, usual, sample)] if len(usual) > 1 else []
    groups: dict[tuple[float, str], dict[str, Agreement]] = {}
    for (s, arm, rate), found in arms.items():
        if s == size and family(arm) not in CONTROLS and (size, rate) in points:
            groups.setdefault((rate, family(arm)), {})[arm] = found
    return out + [
        _range(size, name, rate, {"main": points[size, rate], **members}, sample)
        for (rate, name), members in sorted(groups.items())
    ]


def _range(
    size: str, name: str, rate: float | None, members: Mapping[str, Agreement], sample: Sample
) -> Range:
    draws = np.stack([a.draws for a in members.values()])
    top, bottom = (f(members.values(), key=lambda a: a.rho.value) for f in (max, min))
    spread = difference(top.rho, bottom.rho, draws.max(0), draws.min(0), sample.level)
    return Range(size, name, rate, tuple(members), spread, draws.max(0) - draws.min(0))
