"""Do small runs rank data recipes as tuned targets do, and does a reduced learning rate help?

From a table to numbers and verdicts.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

import numpy as np
import pandas as pd

from stepladder.analysis.fit.levels import check_level
from stepladder.analysis.report.jsonable import plain
from stepladder.analysis.studies.proxy_transfer import verdicts
from stepladder.analysis.studies.proxy_transfer.measures import (
    alignment,
    arms,
    cells,
    flips,
    guards,
)
from stepladder.analysis.studies.proxy_transfer.measures.agree import (
    Sample,
    Side,
    above_standard,
    agreement,
    agreements,
    fixed,
    flat,
    side,
)
from stepladder.analysis.studies.proxy_transfer.measures.draws import observed, resampled
from stepladder.analysis.studies.proxy_transfer.measures.grid import Grid, domain_names, grids
from stepladder.analysis.studies.proxy_transfer.measures.tuned import Tuned, tune
from stepladder.analysis.studies.proxy_transfer.tidy import MAIN, MEAN, PROXY, TARGET, tidy
from stepladder.analysis.tables.checks import joined
from stepladder.configs.core.errors import UserError, nearest

NULLS = ("unigram", "bigram")
DECIDES = "bigram"  # the n-gram that a model must beat for its size to count


@dataclass(frozen=True)
class Result:
    """Everything the study says. Each field of rows is a list of dicts with every number beside its
    interval (x, x_low, x_high); `frame(name)` gives it as a table, `to_dict()` all of it as JSON
    types. grids and tuned carry the arrays behind them."""

    settings: dict
    recipes: tuple[str, ...]
    domains: tuple[str, ...]
    target: dict
    rates: list[dict]
    tuned: list[dict]
    agreement: list[dict]
    nulls: list[dict]
    regret: list[dict]
    flip_rates: list[dict]
    flips: list[dict]
    losses: list[dict]
    arms: list[dict]
    ranges: list[dict]
    more_steps: list[dict]
    alignment: list[dict]
    crossovers: list[dict]
    crossover_pairs: list[dict]
    sharpness: list[dict]
    trained: list[dict]
    precision: dict
    ngrams: list[dict]
    snr: list[dict]
    verdicts: list[dict]
    claims: list[dict]
    missing_cells: list[dict]
    excluded: list[dict]
    diverged: list[dict]
    absent: list[str]
    warnings: list[str]
    notes: list[str]
    grids: tuple[Grid, ...] = field(repr=False)
    ground_truth: Tuned = field(repr=False)

    def to_dict(self) -> dict:
        """JSON types: every field but the arrays; what is not finite is None."""
        return plain(
            {
                f.name: getattr(self, f.name)
                for f in fields(self)
                if f.name not in ("grids", "ground_truth")
            }
        )

    def frame(self, name: str) -> pd.DataFrame:
        """One field of rows as a table. Raises UserError for a name that is none."""
        rows = getattr(self, name, None)
        if not isinstance(rows, list):
            known = [f.name for f in fields(self) if f.type == "list[dict]" or f.type == list[dict]]
            raise UserError(f"frame={name!r}: no rows of that name; {nearest(name, known)}")
        return pd.DataFrame(rows)


def study(
    table: pd.DataFrame,
    ngrams: Mapping | None = None,
    probes: Sequence[Mapping] | None = None,
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
    """A1-A8 and G1-G6 of the protocol (after arXiv 2512.24503) on a long table of losses in nats
    per token; see tidy.py for its columns.

    ngrams: {"unigram" | "bigram": {recipe: {domain: nats per token}}}; probes: the trainer's
    alignment files as dicts. eta_std: standard learning rate of all proxies, or by size; without it
    the rate with the least mean loss over recipes. vocabulary: initial loss is its logarithm where
    the table has none. Intervals: percentile bootstrap over recipes at `level`. Raises UserError.
    """
    check_level(level, 0.95)
    if resamples < 100:
        raise UserError(f"resamples={resamples}: too few for an interval; give 1000 or more")
    clean = tidy(table, target=target)
    frame = (
        clean.frame.assign(loss_init=clean.frame["loss_init"].fillna(math.log(vocabulary)))
        if vocabulary
        else clean.frame
    )
    recipes, domains = tuple(sorted(frame["recipe"].unique())), domain_names(frame)
    if len(recipes) < 3:
        raise UserError(
            f"recipe={', '.join(recipes)}: a ranking needs at least 3 recipes, and an interval "
            "about 12; add some"
        )
    found = grids(frame, recipes, domains)

    def mine(role, arm):
        return [g for g in found if g.role == role and (g.arm == MAIN) == arm]

    proxies = mine(PROXY, True)
    targets = [
        g for g in found if g.role == TARGET and arms.family(g.arm) in (MAIN, "weight decay")
    ]
    _refuse_without_main(proxies, targets)
    rng = np.random.default_rng(seed)
    seeds = {g.key: len(g.seeds) for g in found} if resample_seeds else {}
    sample = Sample(
        recipes, observed(len(recipes)), resampled(len(recipes), seeds, resamples, rng), level
    )
    truth, nulls = tune(targets), _nulls(ngrams, recipes, domains)
    goal = targets[0]
    scored = agreements(proxies, goal, truth, nulls, sample)
    main = {g.size: g for g in proxies}
    arm_grids = [g for g in mine(PROXY, False) if g.size in main]

    def given(g):
        return eta_std.get(g.size) if isinstance(eta_std, Mapping) else eta_std

    def run_at(g):
        return [r for a in arm_grids if a.size == g.size for r in a.rates]

    chosen = [verdicts.choose_rates(g, given(g), eta_tiny, run_at(g)) for g in proxies]
    absent = [
        f"{name} ranking: not given, so no rho stands beside a {name} baseline"
        for name in NULLS
        if name not in nulls
    ]
    arm_rows, arm_found = arms.arm_rows(arm_grids, main, truth, scored.points, sample)
    spans = [
        r for c in chosen for r in arms.ranges(c.size, scored.points, arm_found, c.named(), sample)
    ]
    controls = [
        r for c in chosen for r in arms.control_rows(arm_found, c.named(), c.tiny, c.size, sample)
    ]
    whole = [*proxies, goal]
    events, flip_rows = flips.flip_events(whole), flips.flip_rates(whole, sample)
    trained = guards.trained_rows(whole, sample)
    counts = guards.ngram_rows(whole, nulls, sample)
    snr = guards.snr_rows(whole, level)
    lined, crossed, pairs, sharp = _aligned(probes, whole, chosen, truth, trained, sample)
    if not probes:
        absent.append(
            "probes: none given, so no predicted crossover (A7) and no top eigenvalue (A8)"
        )
    absent += [
        f"arms: {_arm_gap(main, arm_rows, c)}" for c in chosen if _arm_gap(main, arm_rows, c)
    ]
    below = {
        r["size"]: f"the {r['size']} model does not beat the bigram counts"
        for r in counts
        if r["null"] == DECIDES and r["domain"] == domains[0] and r["counts"] is False
    }
    judged = _judge(chosen, whole, flip_rows, scored, spans, sample, below, trained, snr, level)
    left = [clean.excluded] + ([excluded] if excluded is not None else [])
    holes, twins = cells.missing_cells([*proxies, *arm_grids, *targets], frame), cells.twins(found)
    edges = cells.edges(truth)
    return Result(
        settings={
            "resamples": resamples,
            "level": level,
            "seed": seed,
            "interval": "percentile bootstrap over recipes"
            + (", seeds resampled inside" if seeds else ""),
            "given": {"eta_std": eta_std, "eta_tiny": eta_tiny, "vocabulary": vocabulary},
            "seeds": {g.key: len(g.seeds) for g in whole},
        },
        recipes=recipes,
        domains=domains,
        target={"size": goal.size, "N": goal.N, "D": goal.D},
        rates=[_rates_row(c, main[c.size]) for c in chosen],
        tuned=cells.tuned_rows(truth, level),
        agreement=above_standard(scored, {c.size: c.standard for c in chosen}, sample),
        nulls=_null_rows(nulls, truth, sample),
        regret=scored.regret,
        flip_rates=flip_rows,
        flips=events,
        losses=cells.loss_rows(whole),
        arms=arm_rows,
        ranges=[
            {
                "size": r.size,
                "family": r.family,
                "learning_rate": r.rate,
                "settings": list(r.settings),
                **flat("range", r.range),
            }
            for r in spans
        ],
        more_steps=controls,
        alignment=lined,
        crossovers=crossed,
        crossover_pairs=pairs,
        sharpness=sharp,
        trained=trained,
        precision=guards.precision(frame),
        ngrams=counts,
        snr=snr,
        verdicts=[v.__dict__ for v in judged],
        claims=verdicts.overall(judged, below),
        missing_cells=holes,
        excluded=joined(left).to_dict("records"),
        diverged=clean.diverged.to_dict("records"),
        absent=absent,
        warnings=[*warnings, *twins, *edges],
        notes=[*notes, *clean.notes],
        grids=tuple(found),
        ground_truth=truth,
    )


def _refuse_without_main(proxies: Sequence[Grid], targets: Sequence[Grid]) -> None:
    for name, found in (("proxy", proxies), ("target", targets)):
        if not found or (name == "target" and found[0].arm != MAIN):
            raise UserError(
                f"arm: no run of the {name} is in the arm {MAIN!r}; leave the arm of its "
                "learning-rate grid empty"
            )


def _nulls(
    ngrams: Mapping | None, recipes: Sequence[str], domains: Sequence[str]
) -> dict[str, np.ndarray]:
    """name -> cross-entropy [R, V] in nats per token; the mean is over the same domains as the
    losses', NaN without all of them.
    """
    out = {}
    for name in NULLS:
        body = (ngrams or {}).get(name)
        if not body:
            continue
        rows = []
        for recipe in recipes:
            known = body.get(recipe) or {}
            real = [float(known.get(d, np.nan)) for d in domains[1:]]
            alone = [float(v) for k, v in known.items() if k != "all"]
            rows.append(
                [np.mean(real), *real]
                if real
                else [alone[0] if len(alone) == 1 else float(known.get("all", np.nan))]
            )
        out[name] = np.array(rows)
    return out


def _null_rows(nulls: Mapping[str, np.ndarray], truth: Tuned, sample: Sample) -> list[dict]:
    """Rho of each n-gram ranking with the tuned target, by domain."""
    rows = []
    for name, score in nulls.items():
        for v, domain in enumerate(truth.domains):
            found = agreement(
                fixed(score[:, v]), Side(truth.loss[:, v], truth.draw(sample.many, v)), sample
            )
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


def _rates_row(chosen: verdicts.Rates, grid: Grid) -> dict:
    reduced = {f"eta_std/{k}": r for k, r in chosen.reduced.items()}
    return {
        "size": chosen.size,
        "N": grid.N,
        "D": grid.D,
        "eta_std": chosen.standard,
        "note": chosen.note,
        **reduced,
        "eta_tiny": chosen.tiny,
        "grid": list(grid.rates),
    }


def _aligned(
    probes,
    whole: Sequence[Grid],
    chosen: Sequence[verdicts.Rates],
    truth: Tuned,
    trained: Sequence[Mapping],
    sample: Sample,
):
    """A7 and A8, empty without probes.

    The lowest rate of a size is the lowest one that trained (or could not be checked).
    """
    if not probes:
        return [], [], [], []
    found = alignment.gather(probes, sample.recipes, truth.domains)
    lowest = {}
    for grid in whole:
        good = [
            r["learning_rate"]
            for r in trained
            if r["size"] == grid.size and r["role"] == grid.role and r["trained"] is not False
        ]
        if good:
            lowest[grid.size] = side(grid, grid.at(min(good)), 0, sample)
    seen = {(g.role, g.size): flips.crossings(g) for g in whole}
    target = Side(truth.loss[:, 0], truth.draw(sample.many, 0))
    lined = alignment.alignment_rows(found, target, lowest, whole[-1].size, sample)
    return (
        lined,
        *alignment.crossing_rows(found, seen, sample),
        alignment.sharpness_rows(probes, {c.size: c.standard for c in chosen}),
    )


def _arm_gap(main: Mapping[str, Grid], rows: Sequence[Mapping], chosen: verdicts.Rates) -> str:
    """Which arms of A6 and G3 the size lacks."""
    there = {r["family"] for r in rows if r["size"] == chosen.size}
    lacking = [f for f in dict.fromkeys(arms.FAMILIES.values()) if f not in there]
    return f"{chosen.size} was not run with other {', '.join(lacking)}" if lacking else ""


def _judge(
    chosen, whole, flip_rows, scored, spans, sample, below, trained, snr, level
) -> list[verdicts.Verdict]:
    out = [
        verdicts.flips_verdict(whole, flip_rows, below, sample),
        verdicts.argmin_verdict(whole, below, level),
    ]
    checks = (
        lambda c, b: verdicts.rise_verdict(c, scored, sample, b),
        lambda c, b: verdicts.regret_verdict(c, scored, sample, b),
        lambda c, b: verdicts.range_verdict(c, spans, sample, b),
    )
    blocked = {c.size: below.get(c.size, "") or _untrusted(c, trained, snr) for c in chosen}
    return out + [check(c, blocked[c.size]) for check in checks for c in chosen]


def _untrusted(chosen: verdicts.Rates, trained: Sequence[Mapping], snr: Sequence[Mapping]) -> str:
    """Which of G1 and G6 the standard or the tiny rate of a proxy fails; "" when none does."""
    for rate in (r for r in (chosen.tiny, chosen.standard) if r is not None):
        here = [
            [
                r
                for r in rows
                if r["role"] == PROXY
                and r["size"] == chosen.size
                and abs(r["learning_rate"] / rate - 1) < 1e-4
            ]
            for rows in (trained, snr)
        ]
        if any(r["trained"] is False for r in here[0]):
            return f"at {rate:g} the {chosen.size} proxy did not train"
        for r in here[1]:
            if r["domain"] == MEAN and r["passes"] is False:
                return (
                    f"at {rate:g} the spread of the recipes is {r['snr']:.2g} seed SD, and noise "
                    f"alone makes {r['by_noise']:.2g}"
                )
    return ""
