"""When does more pretraining make a model worse after it is changed?

From a table of changed models to numbers and verdicts. The protocol is after arXiv 2503.19206;
what the papers do not publish (grids, thresholds, the rule of the inflection) is ours.
"""

from collections.abc import Sequence

import pandas as pd

from stepladder.analysis.fit.levels import check_level
from stepladder.analysis.studies.overtraining import linear_toy
from stepladder.analysis.studies.overtraining.changes import ARMS, INIT, SEPARATE, scale_of
from stepladder.analysis.studies.overtraining.measures import Row
from stepladder.analysis.studies.overtraining.measures.arms import arm_rows, unmatched
from stepladder.analysis.studies.overtraining.measures.cells import (
    DRAWS,
    NONE,
    WINDOWS,
    Grid,
    Sample,
    grids,
)
from stepladder.analysis.studies.overtraining.measures.inflection import (
    inflection_rows,
    shift_rows,
)
from stepladder.analysis.studies.overtraining.measures.kendall import tau
from stepladder.analysis.studies.overtraining.measures.laws import LAWS, law_results
from stepladder.analysis.studies.overtraining.measures.matched import matched_rows
from stepladder.analysis.studies.overtraining.measures.second_order import second_order_rows
from stepladder.analysis.studies.overtraining.measures.sensitivity import (
    base_rows,
    cell_rows,
    family_rows,
    norm_rows,
    trend_rows,
)
from stepladder.analysis.studies.overtraining.measures.tuning import (
    finetuned,
    rate_rows,
    slope_rows,
    task_of,
    tuned_rows,
)
from stepladder.analysis.studies.overtraining.read_table import MODEL, check_table
from stepladder.analysis.studies.overtraining.result import Found, Result
from stepladder.analysis.studies.overtraining.verdicts import judge
from stepladder.analysis.tables.checks import joined
from stepladder.configs.core.errors import UserError, nearest

FLOORS = {"floor_bigram": "bigram", "floor_5gram": "5-gram"}
TOY_NOISE = (0.05, 0.1, 0.15, 0.2)


def study(
    table: pd.DataFrame,
    *,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    laws: Sequence[str] = LAWS,
    excluded: pd.DataFrame | None = None,
    notes: Sequence[str] = (),
) -> Result:
    """Ask everything that the rows support.

    Args:
        table: a row a changed model (read_table.py says what it needs), losses in nats per token.
        resamples, seed: how often means are redrawn from their errors, and the seed of that.
        level: of every interval.
        laws: which of `measures.laws.LAWS` are fitted and compared.
        excluded, notes: what whoever made the table left out and says about it.

    Returns:
        Numbers, verdicts, and what is not in them.

    Raises:
        UserError: for a table or an option that does not fit.
    """
    check_level(level, 0.95)
    if resamples < 100:
        raise UserError(f"resamples={resamples}: too few for an interval; give 1000 or more")
    for name in laws:
        if name not in LAWS:
            raise UserError(f"laws={name!r}: not one of the study's; {nearest(name, LAWS)}")
    checked = check_table(table)
    found = measure(grids(checked.frame), Sample(resamples, level, seed), laws)
    left = joined([checked.excluded, *([] if excluded is None else [excluded])])
    return Result(
        settings=_settings(checked.frame, found, resamples, level, seed),
        floors=_floors(checked.frame),
        found=found,
        verdicts=[v.row() for v in judge(found)],
        excluded=[{str(k): v for k, v in row.items()} for row in left.to_dict("records")],
        missing=_missing(checked.frame, found),
        notes=[*notes, *checked.notes],
    )


def measure(cells: Sequence[Grid], sample: Sample, laws: Sequence[str]) -> Found:
    """All numbers of a set of grids."""
    rates = rate_rows(cells, sample)
    by_budget, by_task = matched_rows(cells, sample)
    ratios, breakdowns = second_order_rows(cells, sample)
    arm_cells, arm_means = arm_rows(cells, sample)
    return Found(
        level=sample.level,
        cells=cell_rows(cells, sample.level),
        trends=trend_rows(cells, sample),
        families=family_rows(cells, sample),
        norms=norm_rows(cells, sample),
        base=base_rows(cells, sample),
        inflections=inflection_rows(cells, sample),
        shifts=shift_rows(cells, sample),
        rates=rates,
        slopes=slope_rows(rates, sample),
        tuned=tuned_rows(cells, rates, sample),
        matched=by_budget,
        matched_summary=by_task,
        laws=law_results(cells, sample, laws),
        second_order=ratios,
        breakdowns=breakdowns,
        arm_cells=arm_cells,
        arm_means=arm_means,
        toy=toy_rows(),
        grids=cells,
    )


def toy_rows() -> Row:
    """The two-layer linear network under the same definitions: they must find what is exact there.

    A row a size of noise: Kendall's tau of Delta and time, when the perturbed loss is lowest, and
    the closed form beside the mean of draws at the end.
    """
    path = linear_toy.train()
    rows, curves = [], {}
    for noise in TOY_NOISE:
        loss = linear_toy.perturbed_loss(path, noise)
        mean, error = linear_toy.monte_carlo(path, -1, noise, draws=1000)
        rows.append(
            {
                "noise": noise,
                "critical": linear_toy.critical(path, noise),
                "worth_learning": sum(s > linear_toy.critical(path, noise) for s in path.targets),
                "tau": float(tau(path.time, loss - path.loss)),
                "T_star": float(path.time[loss.argmin()]),
                "lowest": float(loss.min()),
                "last": float(loss[-1]),
                "monte_carlo": mean,
                "monte_carlo_se": error,
            }
        )
        curves[f"{noise:g}"] = loss.tolist()
    stages = {
        f"{path.targets[mode]:g}": float(linear_toy.perturbed_loss(path)[path.learned(mode)])
        for mode in range(len(path.targets))
    }
    return {"rows": rows, "stages": stages, "time": path.time.tolist(), "curves": curves}


def _settings(frame: pd.DataFrame, found: Found, resamples: int, level: float, seed: int) -> Row:
    how = pd.Series([r["interval"] or "none" for r in found.cells]).value_counts()
    return {
        "level": level,
        "resamples": resamples,
        "seed": seed,
        "rows": len(frame),
        "models": len(frame[list(MODEL)].drop_duplicates()),
        "sizes": sorted(frame["N"].unique()),
        "tokens": [frame["D"].min(), frame["D"].max()],
        "tokens_per_parameter": [(frame["D"] / frame["N"]).min(), (frame["D"] / frame["N"]).max()],
        "arms": {arm: int((frame["arm"] == arm).sum()) for arm in ARMS},
        "intervals": {str(k): int(v) for k, v in how.items()},
    }


def _floors(frame: pd.DataFrame) -> list[Row]:
    """The losses of counting n-grams, and how many pretrained models are below them."""
    rows = []
    models = frame.groupby(list(MODEL), as_index=False)["base_loss"].mean()
    for column, name in FLOORS.items():
        values = frame[column].dropna()
        if not len(values):
            continue
        # Every row is compared with the floor of its own validation text.
        beaten = frame[frame[column].notna()].groupby(list(MODEL))[["base_loss", column]].mean()
        rows.append(
            {
                "floor": name,
                "low": float(values.min()),
                "high": float(values.max()),
                "below": int((beaten["base_loss"] < beaten[column]).sum()),
                "models": len(models),
            }
        )
    return rows


def _missing(frame: pd.DataFrame, found: Found) -> list[str]:
    """What cannot be said, and what to add."""
    cells = found.grids
    said = [
        f"floor of {name}s: no column {column}, so no loss stands beside that of counting"
        for column, name in FLOORS.items()
        if frame[column].isna().all()
    ]
    if not (frame["arm"] == SEPARATE).any():
        said.append(f"arm {SEPARATE}: no row, and the verdicts are about these runs")
    said += [f"arm {arm}: no row" for arm in ARMS if not (frame["arm"] == arm).any()]
    said += unmatched(cells)
    for grid in cells:
        name = f"{grid.arm} {grid.family}, N {grid.N:.3g}"
        if len(grid.D) < 3:
            said.append(f"{name}: {len(grid.D)} budgets, an inflection needs 3; add some")
        if len(grid.strengths) < 2:
            said.append(f"{name}: one strength, so nothing on T* against it; add strengths")
    said += _without_interval(cells)
    if not finetuned(cells):
        said.append("fine-tuning: no row with tuned_loss, so no tuned rate and no matched loss")
    said += [
        f"{g.arm} fine-tuning on {task_of(g)}, N {g.N:.3g}: one learning rate; sweep it to tune"
        for g in finetuned(cells)
        if len(g.strengths) < 2
    ]
    noisy = [g for g in cells if scale_of(g.family) == INIT]
    if noisy and not found.second_order:
        said.append("curvature: no column trace_sigma, so no second-order check")
    if found.laws.missing:
        said.append(
            f"laws: {len(found.laws.missing)} fits were not possible; the section of the laws says "
            "why"
        )
    return said


def _without_interval(cells: Sequence[Grid]) -> list[str]:
    """Grids whose intervals do not hold the noise of the pretraining, or do not exist."""
    said = []
    for grid in cells:
        there = grid.seeds > 0
        how = set(grid.measured["delta"].how[there])
        name = f"{grid.arm} {grid.family}, N {grid.N:.3g}"
        single = int((grid.draws[there] < 2).sum())
        if NONE in how:
            count = int((grid.measured["delta"].how[there] == NONE).sum())
            said.append(
                f"{name}: {count} of {int(there.sum())} cells have one pretraining seed and "
                f"{'fewer than 2 draws' if single else 'no repeated draws'}: no interval of Delta; "
                "add seeds"
            )
        elif how & {DRAWS, WINDOWS}:
            said.append(
                f"{name}: one pretraining seed, so its intervals hold the draws of the noise only"
            )
    return said
