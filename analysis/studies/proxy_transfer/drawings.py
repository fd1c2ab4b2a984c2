"""Which figures the page has: one row a figure, with what it needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from stepladder.analysis.figures.style import Svg, svg
from stepladder.analysis.studies.proxy_transfer import figures, figures_losses
from stepladder.analysis.studies.proxy_transfer.measures import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from stepladder.analysis.studies.proxy_transfer.result import Result


@dataclass(frozen=True)
class Drawing:
    """A figure of the page.

    Attributes:
        label: the figure in words, for those who cannot see it.
        has_data: whether there is anything to draw.
    """

    name: str
    make: Callable[[Result], Figure]
    label: str
    has_data: Callable[[Result], bool]


def draw(result: Result) -> dict[str, Svg]:
    """Name -> inline SVG of every figure there is data for."""
    shown = [d for d in (*DRAWINGS, *_by_domain(result)) if d.has_data(result)]
    return {d.name: svg(d.make(result), d.label) for d in shown}


def _by_domain(result: Result) -> list[Drawing]:
    """A figure a proxy, where there is more than one domain."""
    return [
        Drawing(
            f"domains_{i}",
            partial(figures.domains, size=rates["size"]),
            f"rank correlation by domain, proxy {rates['size']}",
            _has_domains,
        )
        for i, rates in enumerate(result.ranking.rates)
    ]


def _always(result: Result) -> bool:
    return True


def _has_domains(result: Result) -> bool:
    return len(result.domains) > 2


def _has_regret(result: Result) -> bool:
    return bool(result.ranking.regret)


def _has_flips(result: Result) -> bool:
    return any(r["pairs"] for r in result.flips.rates)


def _has_crossovers(result: Result) -> bool:
    return _any_finite(result.alignment.crossover_pairs, "predicted", "observed")


def _has_arms(result: Result) -> bool:
    return _any_finite(result.ranking.arms, "rho", "main_rho")


def _any_finite(rows: Iterable[Row], *names: str) -> bool:
    return any(np.isfinite([row[name] for name in names]).all() for row in rows)


DRAWINGS = (
    Drawing(
        "rho",
        figures.ranking,
        "rank correlation with the tuned target against the proxy's learning rate",
        _always,
    ),
    Drawing(
        "accuracy",
        partial(figures.ranking, what="accuracy"),
        "pairwise decision accuracy against the proxy's learning rate",
        _always,
    ),
    Drawing(
        "regret", figures.regret, "regret at 1 to 5 against the proxy's learning rate", _has_regret
    ),
    Drawing(
        "slopes",
        figures.slopes,
        "ranks of the recipes by the proxies and by the tuned target",
        _always,
    ),
    Drawing(
        "losses",
        figures_losses.curves,
        "loss against learning rate for every recipe and size",
        _always,
    ),
    Drawing(
        "flip_rates",
        figures_losses.flip_rates,
        "share of pairs that flip between neighbouring learning rates",
        _has_flips,
    ),
    Drawing(
        "flip_matrix",
        figures_losses.flip_matrix,
        "learning rate of the first crossing of every pair",
        _has_flips,
    ),
    Drawing(
        "crossovers",
        figures_losses.crossovers,
        "predicted against observed crossover learning rates",
        _has_crossovers,
    ),
    Drawing(
        "arms",
        figures_losses.arms,
        "rank correlation of every arm against the main arm",
        _has_arms,
    ),
)
