"""The study on simulated tables: verdicts, laws, arms, curvature, and what it refuses."""

import numpy as np
import pandas as pd
import pytest

from stepladder.analysis.studies.overtraining import study
from stepladder.analysis.studies.overtraining.read_table import check_table
from stepladder.analysis.studies.overtraining.verdicts import (
    NOT_SEEN,
    NOT_SETTLED,
    NOT_TESTABLE,
    SEEN,
    overall,
)
from stepladder.configs.core.errors import UserError
from tests.support import synthetic_overtraining as made

FEW = {"resamples": 300, "laws": ()}
ONE = {"sizes": made.SIZES[:1], "seeds": 2, "draws": 2}


def words(*tables, **options):
    found = study(pd.concat(tables, ignore_index=True), **(FEW | options))
    return {v["id"]: v["verdict"] for v in found.verdicts}, found


def test_a_u_shape_is_seen_with_its_rising_sensitivity_and_earlier_inflection():
    said, found = words(made.noise(**ONE))
    assert (said["a"], said["b"], said["c"], said["j"]) == (SEEN,) * 4
    assert {said[k] for k in "defghi"} == {NOT_TESTABLE}
    (family,) = found.found.families
    assert family["tau_delta_ppl"] == family["tau_delta"] == 1 and family["rises"] == 4
    growth = (1620 / 20) ** made.TRUE["q"]
    assert family["growth_low"] < growth < family["growth_high"]


def test_a_change_that_costs_the_same_at_every_budget_is_not_seen():
    said, found = words(made.noise(**ONE, flat=True))
    assert (said["b"], said["c"]) == (NOT_SEEN, NOT_TESTABLE)
    # Delta in perplexity falls with the base perplexity, Delta in nats does not move
    assert said["a"] == NOT_SEEN
    (family,) = found.found.families
    assert family["tau_delta_ppl_high"] < 0
    assert family["tau_delta_low"] <= 0 <= family["tau_delta_high"]


def test_an_inflection_that_the_noise_could_have_made_is_not_settled():
    # the last budget lies 0.008 above the lowest at the largest strength
    table = made.noise(**ONE | {"seeds": 3}, gammas=(0.052, 0.06), spread=0.25)
    said, found = words(table)
    assert said["b"] in (NOT_SETTLED, NOT_SEEN) and said["a"] == SEEN
    assert all(r["share"] < 0.95 for r in found.found.inflections)


def test_without_seeds_or_draws_nothing_is_seen():
    said, found = words(made.noise(**ONE | {"seeds": 1, "draws": 1}))
    assert SEEN not in said.values()
    assert any("one pretraining seed" in m and "no interval" in m for m in found.missing)


def test_draws_alone_are_said_not_to_hold_the_noise_of_the_pretraining():
    _, found = words(made.noise(**ONE | {"seeds": 1, "draws": 3}))
    assert any("hold the draws of the noise only" in m for m in found.missing)
    assert {r["interval"] for r in found.found.cells} == {"draws only"}


def test_tasks_split_by_the_slope_of_their_tuned_rate():
    good = made.finetuned("easy", slope=-0.8, first=1.28e-2, ratios=made.RATIOS[:4])
    bad = made.finetuned("hard", slope=0, worse=0.05, ratios=made.RATIOS[:4])
    said, found = words(good, bad)
    assert (said["d"], said["e"]) == (SEEN, SEEN)
    (verdict,) = [v for v in found.verdicts if v["id"] == "d"]
    assert "finetune:hard" in verdict["why"] and "finetune:easy" not in verdict["why"]
    # the same with the slopes exchanged: the claim fails
    good = made.finetuned("easy", slope=0, ratios=made.RATIOS[:4])
    bad = made.finetuned("hard", slope=-0.8, first=1.28e-2, worse=0.1, ratios=made.RATIOS[:4])
    assert words(good, bad)[0]["e"] == NOT_SEEN


def test_arms_are_compared_at_equal_budgets_and_changes():
    less = made.noise(**ONE, arm="no_decay", k=0.5 * made.TRUE["K"], seed=1)
    more = made.noise(**ONE, arm="large_rate", k=1.5 * made.TRUE["K"], seed=2)
    same = made.noise(**ONE, arm="trunk", seed=3)
    other = made.noise(**ONE | {"sizes": (5e4,)}, arm="trunk", seed=4)
    said, found = words(made.noise(**ONE), less, more, same, other)
    assert (said["g"], said["h"]) == (SEEN, NOT_SEEN)
    rows = {r["arm"]: r for r in found.found.arm_means}
    assert rows["no_decay"]["ratio"] == pytest.approx(0.5, abs=0.02)
    assert rows["large_rate"]["ratio_low"] < 1.5 < rows["large_rate"]["ratio_high"]
    assert rows["trunk"]["delta_low"] < 0 < rows["trunk"]["delta_high"]
    assert {r["cells"] for r in rows.values()} == {20}
    assert not any("in common" in m for m in found.missing)


def test_an_arm_without_a_common_budget_is_listed():
    _, found = words(
        made.noise(**ONE), made.noise(**ONE | {"sizes": (5e4,)}, arm="no_decay", seed=1)
    )
    assert any(m.startswith("arm no_decay: no budget") for m in found.missing)


def test_noise_relative_to_the_weights_is_the_control_for_norms():
    weights = made.noise(**ONE, change="noise:weights:matrices", flat=True, seed=1)
    said, found = words(made.noise(**ONE), weights)
    # with noise that follows the norms nothing rises: the rise was one of norms
    assert said["a"] == SEEN and said["i"] in (NOT_SEEN, NOT_SETTLED)
    (row,) = found.found.norms
    assert row["growth_init"] > 5 and row["growth_weights"] == pytest.approx(1, abs=0.1)


def test_the_curvature_predicts_small_noise_until_it_breaks_down():
    table = made.noise(**ONE, trace=True)
    large = table["strength"] >= 0.08
    table.loc[large, "trace_sigma"] /= 2  # measured twice the prediction from 0.08 on
    _, found = words(table)
    ratios = {r["strength"]: r["ratio"] for r in found.found.second_order}
    assert ratios == pytest.approx({0.02: 1, 0.04: 1, 0.08: 2, 0.16: 2}, rel=1e-6)
    assert {(r["holds_to"], r["breaks_at"]) for r in found.found.breakdowns} == {(0.04, 0.08)}


def test_the_laws_are_recovered_and_predict_what_they_did_not_see():
    table = made.noise(gammas=(0.04, 0.08, 0.16), seeds=1, draws=2, spread=0.02)
    found = study(table, resamples=300, laws=("sensitivity",)).found.laws
    log, plain = found.params
    assert (log["law"], plain["law"]) == ("Delta, log-linear", "Delta, nonlinear")
    for row in (log, plain):
        for name, truth in {"k": made.TRUE["K"], "p": made.TRUE["p"], "q": made.TRUE["q"]}.items():
            low, high = row["intervals"][name]
            assert row["params"][name] == pytest.approx(truth, rel=0.08)
            assert low < truth * 1.04 and high > truth * 0.96
    rows = {(r["of"], r["law"], r["held_out"]): r for r in found.held_out}
    assert len(rows) == 6
    for (of, _, held_out), r in rows.items():
        assert r["error"] < 0.1
        # Delta is one of tokens per parameter: another size with as many tells all of it
        if (of, held_out) != ("delta", "largest size"):
            assert r["above_high"] < 0, "no better than the nearest cell"
    assert rows["loss", "base + sensitivity", "largest size"]["cells"] == 15


@pytest.mark.slow
def test_the_inflection_of_the_law_is_the_true_one():
    table = made.noise(gammas=(0.04, 0.08, 0.16), seeds=1, draws=2, spread=0.003)
    found = study(table, resamples=300, laws=("perturbed",)).found.laws
    assert len(found.minima) == 9
    for r in found.minima:
        truth = made.inflection(r["N"], r["strength"])
        assert r["T_star"] == pytest.approx(truth, rel=0.1)
        assert r["tokens_per_parameter"] == r["T_star"] / r["N"]
        assert r["within"] == (r["T_star"] <= r["N"] * made.RATIOS[-1])
    # two sizes cannot tell the law how the third differs: said, not left out in silence
    assert any("perturbed, without the largest size" in m for m in found.missing)


def test_floors_stand_beside_the_losses():
    table = made.noise(**ONE).assign(floor_bigram=3.5, floor_5gram=2.0)
    _, found = words(table)
    below = {r["floor"]: (r["below"], r["models"]) for r in found.floors}
    models = table.drop_duplicates(["D", "seed"])
    assert below == {"bigram": (int((models["base_loss"] < 3.5).sum()), 10), "5-gram": (0, 10)}
    assert 0 < below["bigram"][0] < 10
    assert not any("floor" in m for m in found.missing)


def test_one_word_of_many():
    assert overall([SEEN, SEEN, NOT_TESTABLE]) == SEEN
    assert overall([SEEN, NOT_SEEN]) == NOT_SETTLED
    assert overall([NOT_TESTABLE]) == overall([]) == NOT_TESTABLE


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"arm": "seperate"}, "did you mean 'separate'"),
        ({"change": "noise:initial"}, "change='noise:initial': unknown"),
        ({"change": "int"}, "change='int': unknown"),
        ({"D": 4e5}, "one budget only"),
        ({"loss": np.nan}, "no row is left"),
        ({"strength": 0.0}, "no row is left"),
    ],
)
def test_bad_tables_are_refused_in_one_line(change, said):
    with pytest.raises(UserError, match=said) as error:
        study(made.noise(**ONE).assign(**change), **FEW)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("column", ["N", "D", "arm", "change", "strength", "base_loss", "loss"])
def test_a_missing_column_is_named(column):
    with pytest.raises(UserError, match=f"column '{column}': missing"):
        study(made.noise(**ONE).drop(columns=column), **FEW)


@pytest.mark.parametrize(
    ("option", "said"),
    [({"level": 1.5}, "level=1.5"), ({"resamples": 3}, "too few"), ({"laws": ("u",)}, "laws='u'")],
)
def test_options_that_do_not_fit_are_refused(option, said):
    with pytest.raises(UserError, match=said):
        study(made.noise(**ONE), **(FEW | option))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"base_loss": np.nan}, "base_loss is missing"),
        ({"base_loss": np.inf}, "the pretrained model diverged"),
        ({"loss": np.inf}, "diverged: the loss after the change"),
        ({"loss": np.nan}, "the loss is missing"),
        ({"loss": -1.0}, "loss is not a positive number"),
        ({"loss": 800.0}, "no perplexity in float64"),
        ({"tuned_loss": np.inf}, "diverged: the loss on the task"),
        ({"strength": np.nan}, "strength is not a positive number"),
        ({"N": "many"}, "N is not a positive number"),
    ],
)
def test_rows_that_cannot_be_used_are_listed(change, reason):
    table = made.finetuned(seeds=1).astype({"N": object})
    for name, value in change.items():
        table.loc[3, name] = value
    found = check_table(table)
    assert len(found.frame) == len(table) - 1
    assert found.excluded["reason"].str.contains(reason, regex=False).tolist() == [True]


def test_rows_given_twice_and_bits_that_contradict_are_listed():
    table = made.quantised(sizes=(2e4,), seeds=1)
    table.loc[0, "strength"] = 3
    found = check_table(pd.concat([table, table.iloc[[5]]], ignore_index=True))
    assert sorted(found.excluded["reason"]) == [
        "a second row of the same model and change: the last stands",
        "strength is not the number of bits of the change",
    ]
    empty = table.assign(strength=np.nan)
    assert set(check_table(empty).frame["strength"]) == {4, 8}


def test_budgets_that_differ_by_a_rounded_step_are_one():
    table = made.noise(**ONE)
    moved = table["seed"] == 1
    table.loc[moved, "D"] *= 1.002
    found = check_table(table)
    assert found.frame["D"].nunique() == len(made.RATIOS)
    assert len(found.notes) == len(made.RATIOS) and "count as one budget" in found.notes[0]


def test_one_strength_and_two_budgets_are_said_to_be_too_few():
    _, found = words(made.noise(**ONE | {"ratios": (20, 60)}, gammas=(0.1,)))
    assert any("an inflection needs 3" in m for m in found.missing)
    assert any("one strength" in m for m in found.missing)
    assert {r["state"] for r in found.found.inflections} == {"fewer than 3 budgets"}


def test_two_base_losses_of_one_model_are_noted():
    noise, tuned = made.noise(**ONE), made.finetuned(seeds=2)
    tuned["base_loss"] += 0.05
    notes = check_table(pd.concat([noise, tuned], ignore_index=True)).notes
    assert any("10 models have base losses that differ by up to 0.05" in n for n in notes)
