"""Do small runs rank data recipes as tuned targets do, and does a reduced learning rate help?

The study in five stages, from a table of losses to verdicts. docs/proxy_transfer.md explains the
codes of its analyses (A1-A8), guards (G1-G6) and claims (a)-(e).
"""

from collections.abc import Mapping, Sequence

import pandas as pd

from stepladder.analysis.studies.proxy_transfer.measures import (
    Row,
    alignment,
    arms,
    flips,
    missing,
    validity,
)
from stepladder.analysis.studies.proxy_transfer.measures.grid import Grid, loss_rows
from stepladder.analysis.studies.proxy_transfer.measures.learning_rates import (
    ProxyRates,
    choose_rates,
)
from stepladder.analysis.studies.proxy_transfer.measures.rank_agreement import (
    above_standard,
    agreement,
    agreements,
    fixed,
    flat,
    side,
    tuned_side,
)
from stepladder.analysis.studies.proxy_transfer.measures.target_truth import (
    edge_warnings,
    tuned_rows,
)
from stepladder.analysis.studies.proxy_transfer.prepare import NULLS, Ngrams, Prepared, prepare
from stepladder.analysis.studies.proxy_transfer.result import (
    Alignment,
    Flips,
    LeftOut,
    Ranking,
    Result,
    Validity,
)
from stepladder.analysis.studies.proxy_transfer.verdicts import judge
from stepladder.analysis.tables.checks import joined

DECIDES = "bigram"  # the n-gram that a model must beat for its size to count


def study(
    table: pd.DataFrame,
    ngrams: Ngrams | None = None,
    probes: Sequence[Row] | None = None,
    *,
    target: str | None = None,
    eta_std: float | Mapping[str, float] | None = None,
    eta_tiny: float | None = None,
    vocabulary: int | None = None,
    resamples: int = 10_000,
    resample_seeds: bool = True,
    level: float = 0.95,
    seed: int = 0,
    excluded: pd.DataFrame | None = None,
    notes: Sequence[str] = (),
    warnings: Sequence[str] = (),
) -> Result:
    """Rank the recipes by every proxy at every learning rate and compare with the tuned target.

    The protocol is after arXiv 2512.24503.

    Args:
        table: a row a run and domain; columns of PROXY_TRANSFER_ALIASES, losses in nats per token.
        ngrams: {"unigram" | "bigram": {recipe: {domain: nats per token}}}.
        probes: the trainer's alignment files as dicts.
        target: size of the target; without it the role column, else the largest N, says it.
        eta_std: standard learning rate of all proxies, or size -> rate; see `choose_rates`.
        eta_tiny: the reduced learning rate of the claims.
        vocabulary: the initial loss is its logarithm where the table has none.
        resamples, seed: number of bootstrap draws of the recipes, and their seed.
        resample_seeds: whether the runs' seeds are resampled inside each draw.
        level: of every interval.
        excluded, notes, warnings: what whoever made the table says about it.

    Returns:
        The rows, verdicts and arrays of all five stages.

    Raises:
        UserError: for a table or an option that does not fit.
    """
    prepared = prepare(
        table,
        ngrams,
        target=target,
        vocabulary=vocabulary,
        resamples=resamples,
        resample_seeds=resample_seeds,
        level=level,
        seed=seed,
    )
    ranking = rank_recipes(prepared, eta_std, eta_tiny)
    found_flips = find_flips(prepared)
    valid = check_validity(prepared)
    aligned = compare_gradients(prepared, probes or (), ranking.chosen, valid)
    verdicts = judge(prepared, ranking, found_flips, valid)
    left_out = list_left_out(prepared, ranking, bool(probes), excluded, warnings, notes)
    given = {"eta_std": eta_std, "eta_tiny": eta_tiny, "vocabulary": vocabulary}
    settings = _settings(prepared, resamples, seed, given)
    return Result(settings, prepared, ranking, found_flips, aligned, valid, verdicts, left_out)


def rank_recipes(
    prepared: Prepared, eta_std: float | Mapping[str, float] | None, eta_tiny: float | None
) -> Ranking:
    """Stage 1: how each proxy ranks the recipes (A2 to A5), and how much of that an arm changes
    (A6, G3).
    """
    sample, truth, main = prepared.sample, prepared.truth, prepared.main
    scored = agreements(prepared.proxies, prepared.target, truth, prepared.nulls, sample)
    arm_rates = {
        size: [rate for a in prepared.arms if a.size == size for rate in a.rates] for size in main
    }
    chosen = [choose_rates(g, eta_std, eta_tiny, arm_rates[g.size]) for g in prepared.proxies]
    arm_rows, arm_points = arms.arm_rows(prepared.arms, main, truth, scored.points, sample)
    ranges, more_steps = [], []
    for c in chosen:
        ranges += arms.ranges(c.size, scored.points, arm_points, c.named(), sample)
        more_steps += arms.control_rows(arm_points, c.named(), c.tiny, c.size, sample)
    return Ranking(
        rates=[_rates_row(c, main[c.size]) for c in chosen],
        tuned=tuned_rows(truth, sample.level),
        agreement=above_standard(scored, {c.size: c.standard for c in chosen}, sample),
        nulls=_null_rows(prepared),
        regret=scored.regret,
        losses=loss_rows(prepared.main_grids),
        arms=arm_rows,
        ranges=[r.row() for r in ranges],
        more_steps=more_steps,
        chosen=tuple(chosen),
        scored=scored,
        arm_ranges=tuple(ranges),
    )


def find_flips(prepared: Prepared) -> Flips:
    """Stage 2: pairs of recipes that change their order between neighbouring rates (A1)."""
    return Flips(
        flips.flip_rates(prepared.main_grids, prepared.sample),
        flips.flip_events(prepared.main_grids),
    )


def check_validity(prepared: Prepared) -> Validity:
    """Stage 3: whether the numbers are evidence (G1, G2, G5, G6)."""
    grids, sample = prepared.main_grids, prepared.sample
    counts = validity.ngram_rows(grids, prepared.nulls, sample)
    below = {
        r["size"]: f"the {r['size']} model does not beat the bigram counts"
        for r in counts
        if r["null"] == DECIDES and r["domain"] == prepared.domains[0] and r["counts"] is False
    }
    return Validity(
        trained=validity.trained_rows(grids, sample),
        precision=validity.precision(prepared.table.frame),
        ngrams=counts,
        snr=validity.snr_rows(grids, sample.level),
        below_bigram=below,
    )


def compare_gradients(
    prepared: Prepared, probes: Sequence[Row], chosen: Sequence[ProxyRates], valid: Validity
) -> Alignment:
    """Stage 4: what gradients and curvature predict (A7, A8); empty without probes."""
    if not probes:
        return Alignment([], [], [], [])
    sample = prepared.sample
    found = alignment.gather(probes, prepared.recipes, prepared.domains)
    lowest = {}
    for grid in prepared.main_grids:
        # A rate that could not be checked may have trained.
        trained = [
            r["learning_rate"]
            for r in valid.trained
            if (r["size"], r["role"]) == (grid.size, grid.role) and r["trained"] is not False
        ]
        at = grid.at(min(trained)) if trained else None
        if at is not None:
            lowest[grid.size] = side(grid, at, 0, sample)
    seen = {(g.role, g.size): flips.crossings(g) for g in prepared.main_grids}
    truth = tuned_side(prepared.truth, 0, sample)
    crossovers, pairs = alignment.crossing_rows(found, seen, sample)
    return Alignment(
        rows=alignment.alignment_rows(found, truth, lowest, prepared.target.size, sample),
        crossovers=crossovers,
        crossover_pairs=pairs,
        sharpness=alignment.sharpness_rows(probes, {c.size: c.standard for c in chosen}),
    )


def list_left_out(
    prepared: Prepared,
    ranking: Ranking,
    probed: bool,
    excluded: pd.DataFrame | None,
    warnings: Sequence[str],
    notes: Sequence[str],
) -> LeftOut:
    """Everything that is not in the numbers, with its reason."""
    table = prepared.table
    tables = [table.excluded] + ([excluded] if excluded is not None else [])
    absent = [
        f"{name} ranking: not given, so no rho stands beside a {name} baseline"
        for name in NULLS
        if name not in prepared.nulls
    ]
    if not probed:
        absent.append(
            "probes: none given, so no predicted crossover (A7) and no top eigenvalue (A8)"
        )
    for chosen in ranking.chosen:
        there = {r["family"] for r in ranking.arms if r["size"] == chosen.size}
        lacking = [f for f in dict.fromkeys(arms.FAMILIES.values()) if f not in there]
        if lacking:
            absent.append(f"arms: {chosen.size} was not run with other {', '.join(lacking)}")
    grids = [*prepared.proxies, *prepared.arms, *prepared.targets]
    return LeftOut(
        missing_cells=missing.missing_cells(grids, table.frame),
        excluded=_records(joined(tables)),
        diverged=_records(table.diverged),
        absent=absent,
        warnings=[
            *warnings,
            *missing.duplicate_recipes(prepared.grids),
            *edge_warnings(prepared.truth),
        ],
        notes=[*notes, *table.notes],
    )


def _settings(prepared: Prepared, resamples: int, seed: int, given: Row) -> Row:
    """The settings in results.json; given: arguments that replace a choice of the study."""
    interval = "percentile bootstrap over recipes"
    if prepared.resampled_seeds:
        interval += ", seeds resampled inside"
    return {
        "resamples": resamples,
        "level": prepared.sample.level,
        "seed": seed,
        "interval": interval,
        "given": given,
        "seeds": {g.key: len(g.seeds) for g in prepared.main_grids},
    }


def _records(rows: pd.DataFrame) -> list[Row]:
    return [{str(k): v for k, v in row.items()} for row in rows.to_dict("records")]


def _null_rows(prepared: Prepared) -> list[Row]:
    """rho of each n-gram ranking with the tuned target, by domain (G5)."""
    rows = []
    for name, score in prepared.nulls.items():
        for v, domain in enumerate(prepared.domains):
            truth = tuned_side(prepared.truth, v, prepared.sample)
            found = agreement(fixed(score[:, v]), truth, prepared.sample)
            rows.append(
                {
                    "null": name,
                    "domain": domain,
                    **flat("rho", found.rho),
                    **flat("accuracy", found.accuracy),
                    "recipes": found.rho.used,
                    "of": found.rho.of,
                }
            )
    return rows


def _rates_row(chosen: ProxyRates, grid: Grid) -> Row:
    """The rates of a proxy as a row; the standard one is NaN where there is none."""
    return {
        "size": chosen.size,
        "N": grid.N,
        "D": grid.D,
        "eta_std": chosen.standard,
        "note": chosen.note,
        **{f"eta_std/{k}": r for k, r in chosen.reduced.items()},
        "eta_tiny": chosen.tiny,
        "grid": list(grid.rates),
    }
