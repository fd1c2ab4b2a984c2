"""What the study returns: five stages of rows, and the arrays behind them.

docs/proxy_transfer.md explains the codes A1-A8, G1-G6 and (a)-(e).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from operator import attrgetter

import pandas as pd

from stepladder.analysis.report.jsonable import plain
from stepladder.analysis.studies.proxy_transfer.checks import Verdict
from stepladder.analysis.studies.proxy_transfer.measures import Row
from stepladder.analysis.studies.proxy_transfer.measures.arms import Range
from stepladder.analysis.studies.proxy_transfer.measures.grid import Grid
from stepladder.analysis.studies.proxy_transfer.measures.learning_rates import ProxyRates
from stepladder.analysis.studies.proxy_transfer.measures.rank_agreement import Agreements
from stepladder.analysis.studies.proxy_transfer.measures.target_truth import TargetTruth
from stepladder.analysis.studies.proxy_transfer.prepare import Prepared
from stepladder.configs.core.errors import UserError, nearest

Rows = list[Row]


@dataclass(frozen=True)
class Ranking:
    """How well each proxy ranks the recipes: A2 to A6 and G3."""

    rates: Rows  # the standard learning rate of each proxy and its reductions
    tuned: Rows  # the target's loss after tuning it for each recipe
    agreement: Rows  # rank correlation and accuracy at every rate
    nulls: Rows  # the same for the n-gram baselines
    regret: Rows
    losses: Rows
    arms: Rows  # the agreement when another setting changes
    ranges: Rows
    more_steps: Rows
    # What later stages read; not in results.json.
    chosen: tuple[ProxyRates, ...] = field(repr=False)
    scored: Agreements = field(repr=False)
    arm_ranges: tuple[Range, ...] = field(repr=False)


@dataclass(frozen=True)
class Flips:
    """Pairs of recipes that change their order between neighbouring learning rates: A1."""

    rates: Rows  # share of pairs, by size and domain
    events: Rows  # every single flip on the mean domain


@dataclass(frozen=True)
class Alignment:
    """What gradients and curvature predict: A7 and A8. Empty without probes."""

    rows: Rows
    crossovers: Rows
    crossover_pairs: Rows
    sharpness: Rows


@dataclass(frozen=True)
class Validity:
    """Whether the numbers are evidence at all: G1, G2, G5 and G6."""

    trained: Rows
    precision: Row
    ngrams: Rows
    snr: Rows
    # Size -> why it does not count; not in results.json.
    below_bigram: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True)
class Verdicts:
    """The claims (a) to (e): by proxy, and one word for each over all proxies."""

    by_proxy: tuple[Verdict, ...]
    claims: Rows

    @property
    def rows(self) -> Rows:
        """The verdicts as rows of results.json."""
        return [asdict(v) for v in self.by_proxy]


@dataclass(frozen=True)
class LeftOut:
    """What is not in the numbers, and what was decided about the table."""

    missing_cells: Rows
    excluded: Rows
    diverged: Rows
    absent: list[str]  # parts of the study that need inputs which were not given
    warnings: list[str]
    notes: list[str]


# Keys of results.json in their order -> where Result holds them.
KEYS = {
    "settings": "settings",
    "recipes": "recipes",
    "domains": "domains",
    "target": "target",
    "rates": "ranking.rates",
    "tuned": "ranking.tuned",
    "agreement": "ranking.agreement",
    "nulls": "ranking.nulls",
    "regret": "ranking.regret",
    "flip_rates": "flips.rates",
    "flips": "flips.events",
    "losses": "ranking.losses",
    "arms": "ranking.arms",
    "ranges": "ranking.ranges",
    "more_steps": "ranking.more_steps",
    "alignment": "alignment.rows",
    "crossovers": "alignment.crossovers",
    "crossover_pairs": "alignment.crossover_pairs",
    "sharpness": "alignment.sharpness",
    "trained": "validity.trained",
    "precision": "validity.precision",
    "ngrams": "validity.ngrams",
    "snr": "validity.snr",
    "verdicts": "verdicts.rows",
    "claims": "verdicts.claims",
    "missing_cells": "left_out.missing_cells",
    "excluded": "left_out.excluded",
    "diverged": "left_out.diverged",
    "absent": "left_out.absent",
    "warnings": "left_out.warnings",
    "notes": "left_out.notes",
}


@dataclass(frozen=True)
class Result:
    """Everything the study says.

    Rows are lists of dicts in which every number stands beside its interval (x, x_low, x_high).

    Attributes:
        settings: resamples, level, seed and the arguments that were given.
        prepared: the arrays behind the rows.
    """

    settings: Row
    prepared: Prepared = field(repr=False)
    ranking: Ranking
    flips: Flips
    alignment: Alignment
    validity: Validity
    verdicts: Verdicts
    left_out: LeftOut

    @property
    def recipes(self) -> tuple[str, ...]:
        """Names, sorted."""
        return self.prepared.recipes

    @property
    def domains(self) -> tuple[str, ...]:
        """The mean first."""
        return self.prepared.domains

    @property
    def target(self) -> Row:
        """size, N (parameters) and D (tokens) of the target."""
        return {name: getattr(self.prepared.target, name) for name in ("size", "N", "D")}

    @property
    def grids(self) -> tuple[Grid, ...]:
        """The losses as arrays, one entry a (role, size, arm, weight decay)."""
        return self.prepared.grids

    @property
    def ground_truth(self) -> TargetTruth:
        """The target's tuned losses as arrays."""
        return self.prepared.truth

    def to_dict(self) -> Row:
        """All but the arrays, as JSON types; a number that is not finite becomes None."""
        return {key: plain(attrgetter(place)(self)) for key, place in KEYS.items()}

    def frame(self, name: str) -> pd.DataFrame:
        """The rows under one key of results.json as a table.

        Raises:
            UserError: when no rows have that name.
        """
        found = {key: attrgetter(place)(self) for key, place in KEYS.items()}
        known = [key for key, value in found.items() if isinstance(value, list)]
        if name not in known:
            raise UserError(f"frame={name!r}: no rows of that name; {nearest(name, known)}")
        return pd.DataFrame(found[name])
