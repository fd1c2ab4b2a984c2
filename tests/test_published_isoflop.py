"""Published optima, exponents and pass@k, recomputed from the public tables in STEPLADDER_DATA (its README has the targets)."""

import numpy as np
import pandas as pd
import pytest

from stepladder.analysis.fit import fit
from stepladder.analysis.isoflop import isoflop, power_law
from stepladder.analysis.learning_rate import curves
from stepladder.analysis.pass_at_k import coverage
from stepladder.analysis.rate_rule import fit_rule
from tests.published import check, record_row, table

# --- Porian et al., 2406.19146: exponents a of N* ~ C^a in 15 configurations

PORIAN = (
    "rw|base|long|kaplan|kaplan|train",
    "rw|base|long|kaplan|standard|val",
    "rw|base|short|kaplan|standard|val",
    "rw|base|short|chinchilla|standard|val",
    "rw|tuned|short|const|standard|val",
    "rw|base|long|kaplan|attention|train",
    "rw|base|short|kaplan|attention|train",
    "rw|base|short|chinchilla|attention|train",
    "rw|tuned|short|const|attention|train",
    "rw|tuned|long|const|kaplan|train",
    "owt2|base|long|kaplan|kaplan|train",
    "owt2|base|long|kaplan|standard|val",
    "owt2|base|short|kaplan|standard|val",
    "owt2|base|short|chinchilla|standard|val",
    "owt2|tuned|short|const|standard|val",
)
SEED_NOISE = {"rw": 0.002, "owt2": 0.01}  # of one loss between seeds, as the authors set it for losses below e^3


def porian(config: str) -> pd.Series:
    return table("porian/published_fits.csv").set_index("config").loc[config]


def test_published_porian_list_is_whole():
    assert set(table("porian/published_fits.csv")["config"]) == set(PORIAN)


@pytest.mark.parametrize("config", PORIAN)
def test_published_porian_exponent_from_points(config):
    """From points to exponent. The published 1,000 noisy copies leave a spread between seeds of about .002 in a (OWT2): we take 8,000.

    Where a differs and b does not, N* and D* fell on different steps of the authors' two grids, so that their a + b is not 1.
    """
    published = porian(config)
    points = table("porian/isoflop_points.csv").rename(columns={"flops": "C", "n": "N", "t": "D"})
    found = isoflop(
        points[points["config"] == config],
        method="akima",
        noise=SEED_NOISE[config.split("|")[0]],
        duplicates="best",
        level=0.95,
        draws=8000,
    )
    pairs = table("porian/optimal_pairs.csv").query("config == @config")
    kept = [m.C for m in found.minima if not m.refused]
    np.testing.assert_allclose(kept, pairs.dropna()["flops"], rtol=1e-6)  # the same budgets refused as in the publication
    for end, name in zip(found.N.exponent_interval, ("a_lo", "a_hi")):
        assert abs(end - published[name]) < 0.01, name
    check("porian points", f"{config} a", found.N.exponent, published["a"], 3e-3)
    check("porian points", f"{config} b", found.D.exponent, published["b"], 3e-3)


@pytest.mark.parametrize("config", PORIAN)
def test_published_porian_exponent_from_pairs(config):
    """From the published minima the weights 1 / s.e.^2 give the published fit to rounding."""
    published = porian(config)
    pairs = table("porian/optimal_pairs.csv").query("config == @config").dropna()
    found = power_law(pairs["flops"], pairs["n"], weights=1 / pairs["n_star_std"] ** 2)
    plain = power_law(pairs["flops"], pairs["n"])
    check("porian pairs", f"{config} a", found.exponent, published["a"], 1e-9)
    assert plain.exponent == pytest.approx(published["a_basic"], abs=1e-9)
    assert found.coefficient == pytest.approx(published["n_coef"], rel=1e-7)
    assert found.r2 == pytest.approx(published["a_R2"], abs=1e-9)


# --- isoFLOP collection of 2603.22339


def experiment(name: str) -> pd.DataFrame:
    rows = table("isoflop/isoflops_flagged.csv")
    return rows[rows["experiment"] == name].rename(columns={"params": "N", "tokens": "D"})


def test_published_llama_3_approach_2():
    """All 133 points, also those flagged as outliers; without them the exponent is .500."""
    points = experiment("llama_3__raw_loss")
    found = isoflop(points, duplicates="keep")
    check("isoflop llama_3 raw", "D* exponent", found.D.exponent, 0.53678, 5e-4)
    check("isoflop llama_3 raw", "D* coefficient", found.D.coefficient, 0.29936, 5e-4)
    clean = isoflop(points[~points["outlier"]])
    check("isoflop llama_3 raw", "D* exponent, outliers dropped", clean.D.exponent, 0.500, 5e-4)
    low, high = (f([a for _, a in found.leave_one_out]) for f in (min, max))
    assert high - low > 0.03  # one budget of ten moves the exponent by more than its interval: the warning that Approach 2 needs


SURFACES = {
    "llama_3__raw_loss": {"E": 0.6047, "alpha": 0.3100, "beta": 0.3136},
    "ml_scalefit__massivetext__chinchilla": {"E": 1.9176, "A": 4.5483, "B": 1.0699, "alpha": 0.3885, "beta": 0.4334},
}


@pytest.mark.parametrize("name", SURFACES)
def test_published_isoflop_surface_by_squared_error(name):
    """All points of the experiment, N in millions and D in billions."""
    points = experiment(name).assign(N=lambda t: t["N"] / 1e6, D=lambda t: t["D"] / 1e9)
    found = fit(points, "chinchilla", objective="squared")
    for parameter, value in SURFACES[name].items():
        check(f"isoflop {name}", parameter, found.params[parameter], value, 1e-3)
    if name.startswith("ml_scalefit"):
        rss = float(((found.predict(N=points["N"].to_numpy(), D=points["D"].to_numpy()) - points["loss"]) ** 2).sum())
        check(f"isoflop {name}", "rss", rss, 0.0485403, 1e-6)


# --- Step Law, 2503.04715: lr* = 1.79 N^-.713 D^.307, batch* = .58 D^.571 tokens


def test_published_steplaw_means_of_the_bootstrap_table():
    mean = table("steplaw/1004_fitted_lr_bs_scaling_model_parameters.csv.gz").mean()
    check("steplaw table", "lr constant", np.exp(mean["lr_intercept"]), 1.797, 1e-3)
    check("steplaw table", "lr exponent of N", mean["lr_coefN"], -0.7129, 1e-4)
    check("steplaw table", "lr exponent of D", mean["lr_coefD"], 0.3075, 1e-4)
    check("steplaw table", "batch constant", np.exp(mean["bs_intercept"]), 0.5807, 1e-4)
    check("steplaw table", "batch exponent of D", mean["bs_coefD"], 0.5709, 1e-4)


def steplaw_runs() -> pd.DataFrame:
    runs = table("steplaw/dense_lr_bs_loss.csv.gz")
    return runs.assign(excess=runs["smooth loss"] / runs.groupby(["N", "D"])["smooth loss"].transform("min") - 1, tokens=runs["bs"] * 2048)


def test_published_steplaw_refit_of_the_dense_runs():
    """The authors' recipe on the 1,911 released runs: all within .25 % of the best of their (N, D), one regression over these, bootstrapped.

    It does not return the published constants. lr: N^-.768 and D^.198 against -.713 and .307; batch: D^.611 against .571. Also tried: cuts
    at .2, .3 and .5 %, without the 1B runs, one mean per (N, D), a quadratic surface per (N, D) in lr and batch at cuts from 1 to 5 %: D's
    exponent of lr stays within .15 to .23. The released runs are 17 (N, D) of 5 sizes, 215M to 1.07B, and leave standard errors (.054,
    .033, .038) nearly twice the published table's (.030, .019, .019), which must have been fitted to more runs than were released. The
    tolerances are 2 standard errors of both together; D's exponent of lr is outside of them, and that is what is asserted.
    """
    near = steplaw_runs().query("excess < 0.0025")
    assert len(near) == 129
    ones, n, d = np.ones(len(near)), np.log(near["N"]), np.log(near["D"])
    designs = {"lr": np.stack([ones, n, d], 1), "tokens": np.stack([ones, d], 1)}
    rows = np.random.default_rng(0).integers(0, len(near), (1000, len(near)))
    fits = {}
    for name, x in designs.items():
        y = np.log(near[name].to_numpy())
        fits[name] = np.array([np.linalg.lstsq(x[k], y[k], rcond=None)[0] for k in rows])
    published = table("steplaw/1004_fitted_lr_bs_scaling_model_parameters.csv.gz")
    for quantity, ours, column, within in (
        ("lr exponent of N", fits["lr"][:, 1], "lr_coefN", True),
        ("lr exponent of D", fits["lr"][:, 2], "lr_coefD", False),
        ("batch exponent of D", fits["tokens"][:, 1], "bs_coefD", True),
    ):
        tolerance = 2 * np.hypot(ours.std(), published[column].std())
        row = record_row("steplaw refit, 2 s.e.", quantity, ours.mean(), published[column].mean(), tolerance)
        assert row.within == within
    assert fits["lr"][:, 2].mean() == pytest.approx(0.198, abs=0.004)


def test_published_steplaw_rule_is_near_the_best_of_the_dense_runs():
    """Whatever the exponents, the run of the grid nearest to the published rule loses .1 % on average against the best of its (N, D)."""
    runs = steplaw_runs()
    lr, tokens = 1.79 * runs["N"] ** -0.713 * runs["D"] ** 0.307, 0.58 * runs["D"] ** 0.571
    gap = np.hypot(np.log(runs["lr"] / lr), np.log(runs["tokens"] / tokens))
    excess = runs.loc[gap.groupby([runs["N"], runs["D"]]).idxmin(), "excess"]
    assert excess.mean() == pytest.approx(0.00096, abs=2e-5)
    assert excess.max() < 0.0035


def test_published_steplaw_rule_by_our_curves():
    """Our own way: learning-rate parabolas at each (N, D, batch), the best batch of each (N, D), then ln lr* on ln N and ln D.

    This agrees with both published exponents within 2 of its own standard errors.
    """
    runs = steplaw_runs().drop(columns="loss").rename(columns={"lr": "learning_rate", "smooth loss": "loss", "bs": "batch_size"})
    runs = runs.assign(size=runs["N"].astype(str), run_id=runs["exp_name"], step=0, domain="all")
    found, _ = curves(runs)
    best = {}
    for curve in sorted((c for c in found if c.optimum is not None), key=lambda c: c.loss_at_optimum):
        best.setdefault((curve.N, curve.D), curve)
    assert len(best) == 17
    rule = fit_rule(list(best.values()))
    check("steplaw, our curves, 2 s.e.", "lr exponent of N", rule.a, -0.7129, 2 * rule.se["a"])
    check("steplaw, our curves, 2 s.e.", "lr exponent of D", rule.b, 0.3075, 2 * rule.se["b"])


# --- Repeated sampling, 2407.21787

MATH = {
    "70M": (0.065, 26.56),
    "160M": (0.267, 57.03),
    "410M": (0.622, 65.62),
    "1B": (0.833, 74.22),
    "2.8B": (2.031, 81.25),
    "6.9B": (1.856, 83.59),
    "12B": (2.319, 87.50),
}


@pytest.mark.parametrize("size", MATH)
def test_published_repeated_sampling_math(size):
    counts = table("repeated_sampling/llmonkeys_original_counts.csv.gz")
    counts = counts[(counts["model"] == f"Pythia {size}") & (counts["benchmark"] == "MATH")]
    found = coverage(counts, [1, 10_000]).set_index("k")
    for k, published in zip((1, 10_000), MATH[size]):
        check("repeated_sampling MATH", f"{size} pass@{k}, %", 100 * found.loc[k, "pass"], published, 1e-2)
        assert found.loc[k, "low"] < found.loc[k, "pass"] < found.loc[k, "high"]
    assert found["problems"].unique() == [128]


# --- T^2's regression tests on the Porian runs, papers/test_time.md 5.4

RATIOS = {88: (39, 37, 27, 20, 17, 21, 21, 19, 17, 16, 15, 13), 85: (28, 31, 27, 20, 17, 21, 21, 19, 17, 16, 15, 13)}


def t2_runs() -> pd.DataFrame:
    return table("test_time/porian_rw_base_short_chinchilla_isoflop.csv").rename(columns={"val_loss": "loss"})


@pytest.mark.parametrize("runs", RATIOS)
def test_published_test_time_optimal_tokens_per_parameter(runs):
    points = t2_runs() if runs == 88 else t2_runs().query("in_T2 == 1")
    assert len(points) == runs
    found = isoflop(points)
    for minimum, published in zip(found.minima, RATIOS[runs], strict=True):
        check("test_time, parabola", f"{runs} runs, D*/N* at C {minimum.C:.3g}", minimum.D / minimum.N, published, 0.5)


@pytest.mark.parametrize(
    "least, published",
    [
        (
            0,
            {
                "E": (2.55, 5e-3),
                "A": (632.5, 0.5),
                "alpha": (0.380, 5e-4),
                "B": (1.19e5, 5e2),
                "beta": (0.591, 5e-4),
                "error": (1.19, 5e-3),
            },
        ),
        (
            0.99e17,
            {"E": (2.51, 5e-3), "A": (555, 0.5), "alpha": (0.371, 5e-4), "B": (5.8e4, 5e2), "beta": (0.554, 5e-4), "error": (0.97, 5e-3)},
        ),
    ],
)
def test_published_test_time_chinchilla_fit(least, published):
    points = t2_runs().query("in_T2 == 1 and C >= @least")
    found = fit(points, "chinchilla")
    error = 100 * np.abs(found.predict(N=points["N"].to_numpy(), D=points["D"].to_numpy()) / points["loss"].to_numpy() - 1).mean()
    ours = {**found.params, "error": error}
    for name, (value, tolerance) in published.items():
        check(f"test_time, {len(points)} runs", "mean error, %" if name == "error" else name, ours[name], value, tolerance)
