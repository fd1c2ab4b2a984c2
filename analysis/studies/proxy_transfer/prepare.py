"""From a table of runs to what every stage of the study reads: grids of losses, the tuned target,
n-gram scores and bootstrap draws.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from stepladder.analysis.fit.levels import check_level
from stepladder.analysis.studies.proxy_transfer.measures.arms import WEIGHT_DECAY, family
from stepladder.analysis.studies.proxy_transfer.measures.bootstrap_draws import resampled
from stepladder.analysis.studies.proxy_transfer.measures.grid import Grid, domain_names, grids
from stepladder.analysis.studies.proxy_transfer.measures.rank_agreement import Sample
from stepladder.analysis.studies.proxy_transfer.measures.target_truth import TargetTruth, tune
from stepladder.analysis.studies.proxy_transfer.read_table import (
    MAIN,
    PROXY,
    TARGET,
    CheckedTable,
    check_table,
)
from stepladder.configs.core.errors import UserError

# Name of a model in NULLS -> recipe -> domain -> cross-entropy, nats per token.
Ngrams = Mapping[str, Mapping[str, Mapping[str, float]]]
NULLS = ("unigram", "bigram")  # n-gram baselines that a ranking by a model must beat


@dataclass(frozen=True)
class Prepared:
    """The table as arrays.

    Attributes:
        table: the checked rows, and which were left out.
        grids: every grid of losses; the next three are parts of it.
        proxies: the main arm of each proxy, smallest first.
        targets: the target's main arm, then its arms of other weight decay.
        arms: the other arms of those proxies.
        truth: the target's loss after tuning over `targets`.
        nulls: n-gram name -> cross-entropy [R, V] in nats per token.
        sample: the recipes and their bootstrap draws.
        resampled_seeds: whether seeds are resampled inside each draw.
    """

    table: CheckedTable
    recipes: tuple[str, ...]
    domains: tuple[str, ...]
    grids: tuple[Grid, ...]
    proxies: tuple[Grid, ...]
    targets: tuple[Grid, ...]
    arms: tuple[Grid, ...]
    truth: TargetTruth
    nulls: Mapping[str, np.ndarray]
    sample: Sample
    resampled_seeds: bool

    @property
    def target(self) -> Grid:
        """The target's main arm."""
        return self.targets[0]

    @property
    def main_grids(self) -> list[Grid]:
        """The main arm of every size, the target last."""
        return [*self.proxies, self.target]

    @property
    def main(self) -> dict[str, Grid]:
        """Size of a proxy -> its main arm."""
        return {g.size: g for g in self.proxies}


def prepare(
    table: pd.DataFrame,
    ngrams: Ngrams | None,
    *,
    target: str | None,
    vocabulary: int | None,
    resamples: int,
    resample_seeds: bool,
    level: float,
    seed: int,
) -> Prepared:
    """Check the table and build what the stages read; the arguments are those of `study`.

    Raises UserError for options out of range, for a table that does not fit, and for fewer than
    three recipes.
    """
    check_level(level, 0.95)
    if resamples < 100:
        raise UserError(f"resamples={resamples}: too few for an interval; give 1000 or more")
    checked = check_table(table, target=target)
    frame = checked.frame
    if vocabulary:
        frame = frame.assign(loss_init=frame["loss_init"].fillna(math.log(vocabulary)))
        checked = dataclasses.replace(checked, frame=frame)
    recipes, domains = tuple(sorted(frame["recipe"].unique())), domain_names(frame)
    if len(recipes) < 3:
        raise UserError(
            f"recipe={', '.join(recipes)}: a ranking needs at least 3 recipes, and an interval "
            "about 12; add some"
        )
    found = grids(frame, recipes, domains)
    proxies = [g for g in found if g.role == PROXY and g.arm == MAIN]
    targets = [g for g in found if g.role == TARGET and family(g.arm) in (MAIN, WEIGHT_DECAY)]
    _refuse_without_main(proxies, targets)
    sizes = {g.size for g in proxies}
    arms = [g for g in found if g.role == PROXY and g.arm != MAIN and g.size in sizes]
    seeds = {g.key: len(g.seeds) for g in found} if resample_seeds else {}
    many = resampled(len(recipes), seeds, resamples, np.random.default_rng(seed))
    return Prepared(
        table=checked,
        recipes=recipes,
        domains=domains,
        grids=tuple(found),
        proxies=tuple(proxies),
        targets=tuple(targets),
        arms=tuple(arms),
        truth=tune(targets),
        nulls=_ngram_scores(ngrams, recipes, domains),
        sample=Sample(recipes, many, level),
        resampled_seeds=bool(seeds),
    )


def _refuse_without_main(proxies: Sequence[Grid], targets: Sequence[Grid]) -> None:
    for name, found in (("proxy", proxies), ("target", targets)):
        if not found or (name == "target" and found[0].arm != MAIN):
            raise UserError(
                f"arm: no run of the {name} is in the arm {MAIN!r}; leave the arm of its "
                "learning-rate grid empty"
            )


def _ngram_scores(
    ngrams: Ngrams | None, recipes: Sequence[str], domains: Sequence[str]
) -> dict[str, np.ndarray]:
    """Cross-entropy [R, V] of each n-gram model that is given, in nats per token.

    The mean is over the same domains as that of the losses, and NaN when one of them is missing.
    """
    out = {}
    for name in NULLS:
        by_recipe = (ngrams or {}).get(name)
        if not by_recipe:
            continue
        rows = []
        for recipe in recipes:
            known = by_recipe.get(recipe) or {}
            if len(domains) > 1:
                by_domain = [float(known.get(d, np.nan)) for d in domains[1:]]
                rows.append([np.mean(by_domain), *by_domain])
                continue
            single = [float(v) for k, v in known.items() if k != "all"]
            rows.append([single[0] if len(single) == 1 else float(known.get("all", np.nan))])
        out[name] = np.array(rows)
    return out
