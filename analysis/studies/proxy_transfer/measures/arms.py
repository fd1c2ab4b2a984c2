"""A6 and G3: the agreement with the tuned target when batch, weight decay, tokens or steps change,
beside what the learning rate changes.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from stepladder.analysis.studies.proxy_transfer.measures.bootstrap_draws import Estimate, difference
from stepladder.analysis.studies.proxy_transfer.measures.grid import Grid
from stepladder.analysis.studies.proxy_transfer.measures.rank_agreement import (
    Agreement,
    Sample,
    Side,
    agreement,
    change,
    flat,
    side,
)
from stepladder.analysis.studies.proxy_transfer.measures.target_truth import Tuned

LEARNING_RATE = "learning rate"
FAMILIES = {
    "batch": "batch size",
    "wd": "weight decay",
    "tokens": "tokens per parameter",
    "more_steps": "more steps",
    "steps": "more steps",
}
MORE_STEPS = "more steps"
CONTROLS = (MORE_STEPS,)  # families that answer G3, not A6


@dataclass(frozen=True)
class Range:
    """Largest minus smallest rho of the settings of one family; draws [B] for differences. The
    range of noisy numbers is above zero even when the setting does nothing: `expected` is not
    subtracted, so compare ranges of as many settings."""

    size: str
    family: str
    rate: float | None  # of an arm; None for the learning rate's own
    settings: tuple[str, ...]
    range: Estimate
    draws: np.ndarray = field(repr=False)


def family(arm: str) -> str:
    """ "batch/4" -> "batch size"; an arm of two deviations or an unknown name is a family of its
    own.
    """
    if "+" in arm:
        return arm
    head = re.match(r"[A-Za-z_]+", arm)
    return FAMILIES.get(head.group(0).rstrip("_x"), arm) if head else arm


def arm_rows(
    grids: Sequence[Grid], main: Mapping[str, Grid], tuned: Tuned, points: Mapping, sample: Sample
) -> tuple[list[dict], dict]:
    """A row a (size, arm, rate): rho with y, and its paired difference to the main arm at the same
    rate; and the Agreements by the same key.

    steps, tokens, batch: ratios to the main arm (NaN when not in the table); equal_tokens: within 2
    % (whole steps).
    """
    truth = Side(tuned.loss[:, 0], tuned.draw(sample.many, 0))
    rows, found = [], {}
    for grid in grids:
        base = main[grid.size]
        for e, rate in enumerate(grid.rates):
            mine = agreement(side(grid, e, 0, sample), truth, sample)
            found[grid.size, grid.arm, rate] = mine
            same = next(
                (points[grid.size, r] for r in base.rates if abs(r / rate - 1) < 1e-4), None
            )
            moved = (
                change(mine, same, sample)
                if same
                else Estimate(np.nan, np.nan, np.nan, mine.rho.used, mine.rho.of)
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
    arms: Mapping, rates: Mapping[str, float | None], tiny: float | None, size: str, sample: Sample
) -> list[dict]:
    """G3 of one proxy, a row an arm of more steps that has both rates: rho at the tiny rate minus
    rho at the standard one, both with the arm's tokens, so that the steps no longer differ with the
    rate."""
    rows = []
    for arm in dict.fromkeys(a for s, a, _ in arms if s == size and family(a) in CONTROLS):
        ends = [
            next(
                (
                    f
                    for (s, a, r), f in arms.items()
                    if (s, a) == (size, arm) and rate and abs(r / rate - 1) < 1e-4
                ),
                None,
            )
            for rate in (tiny, rates["eta_std"])
        ]
        if None not in ends:
            one, two = ends
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
    size: str, points: Mapping, arms: Mapping, rates: Mapping[str, float | None], sample: Sample
) -> list[Range]:
    """Of one proxy: the range of rho over the learning rates `rates` (name -> rate; the standard
    one and its reductions), and over each family's settings (the main one included) at every rate
    that its arms were run at."""
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
