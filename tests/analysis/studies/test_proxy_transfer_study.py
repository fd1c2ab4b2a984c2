"""The study on tables whose truth is known: planted orders, crossovers, seeds, baselines, holes and
failures.
"""

import json
import math

import numpy as np
import pandas as pd
import pytest

from stepladder.analysis.studies import proxy_transfer
from stepladder.analysis.studies.proxy_transfer.measures.flips import chance
from stepladder.analysis.studies.proxy_transfer.text import sentences
from stepladder.configs.core.errors import UserError
from tests.support import synthetic_recipes as made

FAST = {"resamples": 400}


def study(table, **more):
    return proxy_transfer.study(table, **{**FAST, **more})


def words(result) -> dict:
    return {c["id"]: c["verdict"] for c in result.verdicts.claims}


def main(
    result, size: str, rate: float, against: str = "tuned target", domain: str = "mean"
) -> dict:
    rows = result.frame("agreement")
    rows = rows[
        (rows["size"] == size)
        & (rows["against"] == against)
        & (rows["domain"] == domain)
        & np.isclose(rows["learning_rate"], rate, rtol=1e-6)
    ]
    assert len(rows) == 1
    return rows.iloc[0].to_dict()


@pytest.fixture(scope="module")
def helps():
    table = made.arms(made.table())
    return study(
        table, ngrams=made.ngrams(order=np.roll(made.quality(12), 5)), probes=made.probes()
    )


def test_a_planted_help_is_seen(helps):
    assert words(helps) == dict.fromkeys("abcde", "seen")
    row = main(helps, "4M", 1e-5)
    assert (
        row["rho"] == 1
        and row["rho_low"] > 0.9
        and row["accuracy"] == 1
        and row["recipes"] == row["of"] == 12
    )
    assert main(helps, "4M", 3e-4)["rho"] == -1
    # the tuned proxy sits where the lure rules
    assert main(helps, "10M", 1e-5, "tuned proxy")["rho"] == -1
    assert main(helps, "10M", 3e-4, "tuned proxy")["rho"] > 0.99
    assert main(helps, "4M", 1e-5, "target at the same rate")["rho"] > 0.5


def test_the_planted_truth_is_the_tuned_loss(helps):
    tuned = helps.frame("tuned").query("domain == 'mean'").sort_values("recipe")
    assert np.diff(tuned["loss"]) == pytest.approx(np.full(11, 0.03), abs=0.012)
    best = 3e-4 * 3.0 ** (np.arange(12) % 3 - 1)
    assert np.abs(np.log(tuned["refined_rate"] / best)).max() < 0.2
    assert (tuned["refined"] <= tuned["loss"] + 1e-9).all() and not tuned["edge"].any()
    assert ((tuned["loss_low"] < tuned["loss"]) & (tuned["loss"] < tuned["loss_high"])).all()


def test_rates_and_regret(helps):
    rates = helps.frame("rates").set_index("size").loc["4M"]
    assert (rates["eta_std"], rates["eta_std/3"], rates["eta_std/10"], rates["eta_tiny"]) == (
        3e-4,
        1e-4,
        3e-5,
        1e-5,
    )
    regret = (
        helps.frame("regret")
        .query("size == '4M' and reading == 'best' and k == 1")
        .set_index("learning_rate")["regret"]
    )
    # the worst of 12 recipes, 0.03 apart
    assert regret[1e-5] == 0 and regret[3e-4] == pytest.approx(0.33, abs=0.02)
    mean = (
        helps.frame("regret")
        .query("size == '4M' and reading == 'mean' and k == 5 and learning_rate == 3e-4")["regret"]
        .item()
    )
    assert mean == pytest.approx(0.03 * 7, abs=0.02)


def test_the_standard_rate_is_that_of_the_arms(helps):
    """The arms of A6 are run at the standard and the tiny rate; a size without arms has its least
    mean loss.
    """
    assert set(helps.frame("rates")["note"]) == {"the highest rate of the arms"}
    result = study(made.arms(made.table(), sizes=("4M",), rates=(3e-5, 1e-3)), resamples=200)
    rates = result.frame("rates").set_index("size")
    assert (
        rates.loc["4M", ["eta_std", "eta_tiny"]].tolist() == [1e-3, 3e-5]
        and rates.loc["10M", "note"] != rates.loc["4M", "note"]
    )
    assert rates.loc["10M", ["eta_std", "eta_tiny"]].tolist() == [3e-4, 1e-5]
    assert set(result.frame("more_steps")["eta_std"]) == {1e-3}


def test_rho_is_compared_with_that_of_the_standard_rate(helps):
    rows = (
        helps.frame("agreement")
        .query("domain == 'mean' and against == 'tuned target'")
        .dropna(subset="above_standard")
    )
    assert len(rows) == len(rows.query("size == '4M'")) + len(rows.query("size == '10M'")) > 10
    usual = {size: main(helps, size, 3e-4)["rho"] for size in ("4M", "10M")}
    assert rows["above_standard"].to_numpy() == pytest.approx(
        rows["rho"].to_numpy() - rows["size"].map(usual).to_numpy()
    )
    assert 3e-4 not in set(rows["learning_rate"]), "nothing is above itself"


def test_the_planted_crossing_is_found(helps):
    """Quality 0.03 and lure -0.06 a recipe: all pairs of a proxy cross where the lure is half of
    its full size, at 5e-5.
    """
    flips = (
        helps.frame("flip_rates").query("domain == 'mean' and size == '4M'").set_index("rate_low")
    )
    assert flips.loc[3e-5, "flip_rate"] == 1 and flips.loc[3e-5, "flips"] == 66
    assert flips["flips"].sum() == 66 and (flips["flip_rate_high"] < 1).sum() == len(flips) - 1
    summary = helps.frame("crossovers").query("size == '4M' and fraction == 0").iloc[0]
    assert (
        summary["observed"] == summary["predicted"] == summary["both"] == 66
        and summary["sensitivity"] == 1
    )
    assert summary["ratio"] == pytest.approx(1, rel=0.15)
    pairs = helps.frame("crossover_pairs").query("size == '4M'")
    assert pairs["predicted"].to_numpy() == pytest.approx(np.full(len(pairs), 5e-5), rel=1e-6)


def test_each_direction_of_a_step_has_its_own_prediction():
    """Signs that put the crossing ten times lower than the gradients do, and none for a probe that
    lacks them.
    """
    probes = made.probes()
    for probe in probes[1:]:
        for values in (probe["recipes"], *probe["per_domain"].values()):
            for found in values.values():
                found |= {"a_sign": found["a"], "c_sign": 10 * found["c"]}
    result = study(made.table(), ngrams=made.ngrams(), probes=probes, resamples=200)
    pairs = result.frame("crossover_pairs").dropna().groupby("along")["predicted"].unique()
    assert np.concatenate([np.unique(np.round(v, 9)) for v in pairs]) == pytest.approx([5e-5, 5e-6])
    lined = result.frame("alignment").groupby(["size", "fraction"])["along"].agg(list)
    assert lined["4M", 0.0] == ["gradient"] and lined["4M", 0.01] == [
        "gradient",
        "sign of the gradient",
    ]


def test_gradients_and_sharpness(helps):
    row = helps.frame("alignment").query("size == '4M' and fraction == 0.01").iloc[0]
    assert row["tuned_target_rho"] == row["lowest_rate_rho"] == row["target_alignment_rho"] == 1
    sharp = helps.frame("sharpness").query("size == '4M'").iloc[0]
    assert (sharp["one_over"], sharp["bound_by"]) == (1 / 200, "eta_std")
    assert (sharp["eta_tiny_low"], sharp["eta_tiny_high"]) == (
        pytest.approx(3e-6),
        pytest.approx(3e-5),
    )
    assert (sharp["lambda_max_low"], sharp["lambda_max_high"]) == (198, 202)


def test_the_baseline_stands_beside_every_rho(helps):
    rows = helps.frame("agreement").query(
        "against == 'tuned target' and domain in ['mean', 'books', 'code', 'web']"
    )
    assert rows["bigram_rho"].notna().all() and rows["unigram_rho"].notna().all()
    null = helps.frame("nulls").query("null == 'bigram' and domain == 'mean'")["rho"].item()
    assert null == pytest.approx(
        float(proxy_transfer.spearman(np.roll(np.arange(12), 5), np.arange(12)))
    )
    assert rows["above_bigram"].to_numpy() == pytest.approx(
        (rows["rho"] - rows["bigram_rho"]).to_numpy()
    )


def test_every_number_has_an_interval(helps):
    for name in (
        "agreement regret flip_rates arms ranges alignment crossovers trained ngrams snr tuned "
        "nulls sharpness"
    ).split():
        frame = helps.frame(name)
        measured = [
            c.removesuffix("_low")
            for c in frame
            if c.endswith("_low") and c not in ("rate_low", "fisher_low", "eta_tiny_low")
        ]
        assert measured, name
        for column in measured:
            known = frame[frame[column].notna()]
            assert (known[f"{column}_low"] <= known[column] + 1e-9).all() and (
                known[column] <= known[f"{column}_high"] + 1e-9
            ).all(), (
                name,
                column,
            )


def test_arms_and_their_ranges(helps):
    arms = helps.frame("arms")
    assert set(arms["family"]) == {
        "batch size",
        "weight decay",
        "tokens per parameter",
        "more steps",
    }
    assert (arms["rho"] == arms["main_rho"]).all()  # the arms are copies
    more = arms.query("arm == 'more_steps'")
    assert (more["tokens_ratio"] == 2).all() and not more["equal_tokens"].any()
    control = helps.frame("more_steps").set_index("size").loc["4M"]
    assert (control["tiny_rho"], control["standard_rho"], control["gain"]) == (
        1,
        -1,
        2,
    ) and control["gain_low"] > 1.9
    spans = helps.frame("ranges").query("size == '4M'").set_index("family")["range"]
    assert spans["learning rate"] == 2 and spans["batch size"].max() == 0
    assert helps.left_out.absent == []


def test_no_help_is_said_as_plainly():
    result = study(made.table(helps=False), ngrams=made.ngrams())
    assert words(result) == {
        "a": "seen",
        "b": "seen",
        "c": "not seen at this scale",
        "d": "not seen at this scale",
        "e": "not settled",
    }
    assert main(result, "4M", 1e-5)["rho"] == -1
    assert "not seen at this scale" in "\n".join(sentences(result.to_dict()))
    assert any("was not run with other batch size" in line for line in result.left_out.absent)


def test_recipes_that_do_not_differ_settle_nothing():
    """All recipes equal: the spread is the seeds' and no claim may be seen."""
    table = made.table()
    middle = table.groupby(["size", "learning_rate", "domain"])["loss"].transform("mean")
    table["loss"] = middle + 0.002 * np.random.default_rng(1).standard_normal(len(table))
    result = study(table)
    assert "seen" not in words(result).values()
    assert not result.frame("snr")["passes"].any() or result.frame("snr")["passes"].mean() < 0.05
    why = {v.id: v.why for v in result.verdicts.by_proxy}
    assert "spread of the recipes" in why["c"] and "noise alone makes" in why["c"]


def test_a_rate_that_did_not_train_is_flagged_and_settles_nothing():
    table = made.table()
    low = (table["learning_rate"] <= 1e-5) & (table["size"] == "4M")
    table.loc[low, "loss"] = (
        table["loss_init"] - 1e-3 * made.quality(12)[table["recipe"].str[1:].astype(int)]
    )
    result = study(table)
    trained = result.frame("trained").query("size == '4M'").set_index("learning_rate")["trained"]
    assert not trained[1e-5] and trained[3e-4]
    row = main(result, "4M", 1e-5)
    assert np.isfinite(row["rho"])  # shown all the same
    mine = {v.size: v for v in result.verdicts.by_proxy if v.id == "c"}
    assert mine["4M"].verdict == "not settled" and "did not train" in mine["4M"].why
    assert mine["10M"].verdict == "seen" and words(result)["c"] == "not settled"


def test_a_size_below_the_bigram_counts_does_not_count():
    result = study(made.table(), ngrams=made.ngrams(above=-3.0))
    counts = result.frame("ngrams").query("null == 'bigram' and domain == 'mean'")
    assert not counts["counts"].any() and (counts["gap"] > 0).all()
    assert words(result)["c"] == "not settled" and all(
        "does not beat the bigram" in v.why for v in result.verdicts.by_proxy if v.id in "cd"
    )


def test_missing_cells_are_listed_and_counted():
    table = made.table(domains=("code", "web"))
    lost = (table["recipe"] == "r03") & (table["size"] == "4M") & (table["learning_rate"] == 1e-5)
    half = (
        (table["recipe"] == "r04")
        & (table["size"] == "4M")
        & (table["learning_rate"] == 3e-5)
        & (table["domain"] == "web")
    )
    result = study(table[~lost & ~half])
    row = main(result, "4M", 1e-5)
    assert (row["recipes"], row["of"], row["missing"]) == (11, 12, ["r03"]) and row["rho"] == 1
    assert main(result, "4M", 3e-5, domain="code")["recipes"] == 12 and main(result, "4M", 3e-5)[
        "missing"
    ] == ["r04"]
    cells = {(c["recipe"], c["learning_rate"]): c["reason"] for c in result.left_out.missing_cells}
    assert cells == {("r03", 1e-5): "no run", ("r04", 3e-5): "no loss on web"}
    assert "11 of 12 recipes" in "\n".join(sentences(result.to_dict()))


def test_a_diverged_run_is_worst_and_listed():
    table = made.table(seeds=2)
    lost = (
        (table["recipe"] == "r00")
        & (table["size"] == "4M")
        & (table["learning_rate"] == 1e-5)
        & (table["seed"] == 1)
    )
    table.loc[lost, "loss"] = np.inf
    result = study(table)
    row = main(result, "4M", 1e-5)
    assert row["diverged"] == ["r00"] and row["recipes"] == 12
    moved = np.r_[11, np.arange(11)]  # the best recipe becomes the last
    assert row["rho"] == pytest.approx(float(proxy_transfer.spearman(moved, np.arange(12))))
    assert {d["recipe"] for d in result.left_out.diverged} == {"r00"} and len(
        result.left_out.diverged
    ) == 3
    states = made.table(seeds=1)
    states["state"] = np.where(
        (states["recipe"] == "r01") & (states["learning_rate"] == 3e-3), "diverged", "done"
    )
    assert {d["recipe"] for d in study(states).left_out.diverged} == {"r01"}


def test_an_optimum_on_the_edge_is_said():
    result = study(made.table(rates=(1e-5, 3e-5, 1e-4, 3e-4)))
    edge = result.frame("tuned").query("domain == 'mean'").set_index("recipe")["edge"]
    assert edge["r02"] == "high" and edge["r00"] == ""
    assert any("high edge" in w and "r02" in w and "r00" not in w for w in result.left_out.warnings)


def test_one_seed_leaves_the_noise_unknown():
    result = study(made.table(seeds=1))
    assert words(result)["a"] == "not settled" and words(result)["b"] == "not settled"
    assert "without repeated seeds" in next(v.why for v in result.verdicts.by_proxy if v.id == "b")
    assert all(s["passes"] is None for s in result.validity.snr) and all(
        f["pairs"] == 0 for f in result.flips.rates
    )
    assert main(result, "4M", 1e-5)["rho"] == 1 and words(result)["c"] == "seen"
    with_se = study(made.table(seeds=1).assign(loss_se=0.002))
    assert words(with_se)["a"] == "not settled" and "lower bound" in next(
        v.why for v in with_se.verdicts.by_proxy if v.id == "a"
    )


def test_one_recipe_under_two_names_is_warned():
    table = made.table()
    twin = table[table["recipe"] == "r02"].assign(recipe="r99")
    assert any("'r02' and 'r99'" in w for w in study(pd.concat([table, twin])).left_out.warnings)
    assert study(table).left_out.warnings == []


def test_arms_are_named_when_nothing_names_them():
    table = (
        made.arms(made.table())
        .drop(columns="arm")
        .drop_duplicates(
            ["recipe", "size", "learning_rate", "weight_decay", "batch_size", "D", "seed", "domain"]
        )
    )
    arms = set(study(table).frame("arms")["arm"])
    assert arms == {"batch/4", "batch*4", "wd0", "wd0.3", "tokens5", "tokens40"}


def test_weight_decay_of_the_target_is_tuned():
    table = made.table()
    better = table[table["size"] == "60M"].assign(weight_decay=0.3, arm="wd0.3")
    better["loss"] -= np.where(better["recipe"] == "r11", 0.5, -0.1)
    result = study(pd.concat([table.assign(arm="main"), better]))
    tuned = result.frame("tuned").query("domain == 'mean'").set_index("recipe")
    assert tuned["weight_decay"]["r11"] == 0.3 and tuned["weight_decay"]["r10"] == 0.1
    assert tuned["loss"].idxmin() == "r11"


def test_the_chance_of_a_flip_by_noise(helps):
    """Equal recipes: as many pairs flip as `chance` says, for one seed and for two."""
    rng = np.random.default_rng(2)
    for seeds in (1, 2):
        table = made.table(
            recipes=60,
            seeds=seeds,
            noise=0,
            rates=(1e-5, 3e-5),
            domains=("web",),
            sizes={"4M": 4e6, "10M": 1e7},
        )
        table["loss"] = 3 + 0.01 * rng.standard_normal(len(table))
        if seeds == 1:
            table["loss_se"] = 0.01
        result = study(table)
        rows = result.frame("flip_rates")
        expected = rows["by_chance"].sum()
        assert chance(result.grids[0]) == pytest.approx(
            2 * (0.5 * math.erfc(2 * math.sqrt(seeds / 2))) ** 2
        )
        assert abs(rows["flips"].sum() - expected) < 4 * math.sqrt(expected) + 3


def test_given_rates_are_used():
    result = study(made.table(), eta_std={"4M": 9e-4, "10M": 3e-3}, eta_tiny=3e-6)
    rates = result.frame("rates").set_index("size")
    assert (
        rates["eta_std"].to_dict() == {"4M": 1e-3, "10M": 3e-3}
        and (rates["eta_tiny"] == 3e-6).all()
    )
    assert "given" in rates["note"]["4M"]
    with pytest.raises(UserError, match="eta_std=1: no learning rate of 4M within a factor of 2"):
        study(made.table(), eta_std=1.0)
    with pytest.raises(UserError, match="target=4M: no run of it has the role target"):
        roles = np.where(made.table()["size"] == "4M", "proxy", "target")
        study(made.table().assign(role=roles), target="4M")


def test_initial_loss_from_the_vocabulary():
    table = made.table(seeds=1).drop(columns="loss_init")
    assert all(t["trained"] is None for t in study(table).validity.trained)
    assert all(t["trained"] for t in study(table, vocabulary=made.VOCABULARY).validity.trained)


def test_a_table_of_only_what_is_needed():
    """recipe, size, N, learning rate, loss: no seeds, no domains, no settings."""
    table = made.table(seeds=1, domains=("web",))[
        ["recipe", "size", "N", "learning_rate", "loss"]
    ].rename(columns={"learning_rate": "lr", "N": "params"})
    result = study(table)
    assert result.domains == ("mean",) and main(result, "10M", 1e-5)["rho"] == 1
    assert any("learning_rate is column 'lr'" in n for n in result.left_out.notes)


def test_everything_is_json(helps):
    text = json.dumps(helps.to_dict(), allow_nan=False)
    assert len(text) > 10_000 and helps.frame("losses")["seeds"].eq(3).all()
    assert "SEEN" in "\n".join(sentences(helps.to_dict()))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t: t.drop(columns="loss"), "no column of loss"),
        (lambda t: t.assign(learning_rate=0.0), "no row is left"),
        (lambda t: t[t["recipe"].isin(["r00", "r01"])], "at least 3 recipes"),
        (lambda t: t.assign(role="proxy"), "role="),
        (lambda t: t.drop(columns=["N", "size"]), "neither size nor N"),
        (lambda t: t.assign(N=np.nan), "neither role nor N"),
        (lambda t: t.assign(arm="wd0"), "arm"),
    ],
)
def test_errors_are_one_line(change, match):
    with pytest.raises(UserError, match=match) as caught:
        study(change(made.table(seeds=1)))
    assert "\n" not in str(caught.value)


def test_options_are_checked():
    for options, match in (
        ({"level": 2}, "level="),
        ({"resamples": 3}, "resamples="),
        ({"target": "7B"}, "target="),
    ):
        with pytest.raises(UserError, match=match):
            study(made.table(seeds=1), **options)
    with pytest.raises(UserError, match="frame="):
        study(made.table(seeds=1, recipes=4)).frame("nothing")


def test_sizes_that_cannot_answer_have_no_vote():
    """Arms of one proxy only, and a bigram model that only the other proxy beats."""
    table = made.arms(made.table(), sizes=("10M",))
    table.loc[table["size"] == "4M", "loss"] += 2.0
    result = study(table, ngrams=made.ngrams(above=0.5))
    counts = (
        result.frame("ngrams")
        .query("null == 'bigram' and domain == 'mean'")
        .set_index("size")["counts"]
    )
    assert counts.to_dict() == {"4M": False, "10M": True, "60M": True}
    assert words(result) == dict.fromkeys("abcde", "seen")
    by_size = {c["id"]: c["by_size"] for c in result.verdicts.claims}
    assert by_size["c"] == by_size["e"] == {"4M": "not settled", "10M": "seen"}
