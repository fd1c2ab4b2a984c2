"""The two-step ladder recovers a known accuracy inside its interval, and refuses what has no second
step.
"""

import json

import numpy as np
import pandas as pd
import pytest

from stepladder.analysis.decide.two_step import two_step
from stepladder.configs.core.errors import UserError

SIZES = (190_354_176, 371_262_464, 758_220_288, 1_279_395_840)  # of arXiv 2412.04403
POINT = {"N": 6.9e9, "D": 4e12}


def loss_of(n, d):
    return 0.45 + 90 / n**0.3 + 120 / d**0.28


def sigmoid(loss):
    return 0.25 + 0.6 / (1 + np.exp(9 * (loss - 0.95)))


def gadre(loss):
    return 1 - (0.85 - 2.1 * np.exp(-2.2 * loss))


def ladder(seed=0, curve=sigmoid, loss_noise=0.004, noise=0.006, multiples=(1, 2, 5, 10)):
    rng = np.random.default_rng(seed)
    n = np.repeat(np.array(SIZES, float), len(multiples))
    d = np.tile(multiples, len(SIZES)) * 20 * n
    loss = loss_of(n, d) * np.exp(loss_noise * rng.standard_normal(len(n)))
    return pd.DataFrame(
        {
            "N": n,
            "D": d,
            "loss": loss,
            "accuracy": curve(loss) + noise * rng.standard_normal(len(n)),
            "run": [f"run{i}" for i in range(len(n))],
        }
    )


def checkpoints(points, seed=0):
    """Each run at a third, two thirds and the end of its training, above its final loss before the
    end.
    """
    rng = np.random.default_rng(seed)
    rows = pd.concat(
        [points.assign(loss=points["loss"] * up) for up in (1.12, 1.04, 1.0)], ignore_index=True
    )
    return rows.assign(accuracy=sigmoid(rows["loss"]) + 0.006 * rng.standard_normal(len(rows)))[
        ["loss", "accuracy", "run"]
    ]


def test_exact_points_give_the_exact_accuracy():
    found = two_step(ladder(loss_noise=0, noise=0), run="run")
    one = found.predict(**POINT, resamples=100)
    assert one.loss == pytest.approx(loss_of(**{"n": POINT["N"], "d": POINT["D"]}), rel=1e-4)
    assert one.accuracy == pytest.approx(sigmoid(one.loss), abs=2e-4)
    assert one.high - one.low < 1e-3


def test_gadre_is_another_second_step():
    found = two_step(ladder(curve=gadre, noise=0.002), second="gadre_error", run="run")
    one = found.predict(**POINT)
    truth = gadre(loss_of(POINT["N"], POINT["D"]))
    assert one.low < truth < one.high and abs(one.accuracy - truth) < 0.05
    exact = two_step(ladder(curve=gadre, loss_noise=0, noise=0), second="gadre_error").predict(
        **POINT, resamples=100
    )
    assert exact.accuracy == pytest.approx(truth, abs=1e-3)


@pytest.mark.slow
def test_interval_covers_new_runs():
    hits = []
    for seed in range(20):
        one = two_step(ladder(seed), run="run").predict(**POINT, resamples=200)
        rng = np.random.default_rng(1000 + seed)
        loss = loss_of(POINT["N"], POINT["D"]) * np.exp(0.004 * rng.standard_normal())
        hits.append(
            (
                one.low <= sigmoid(loss) + 0.006 * rng.standard_normal() <= one.high,
                one.loss_low <= loss <= one.loss_high,
            )
        )
    accuracy, loss = np.mean(hits, axis=0)
    # 0.9 less two standard errors of 20; 0.95 and 0.92 measured on 60
    assert accuracy >= 0.75 and loss >= 0.75


def test_checkpoints_enter_the_second_step_and_are_resampled_with_their_run():
    points = ladder(3)
    found = two_step(points, checkpoints(points), run="run")
    assert found.first.points == 16 and found.second.points == 48
    (one, two), lost = found._weights(200, seed=0)
    assert one.shape[1] == 16 and (two == np.tile(one, 3)).all() and len(one) + lost == 200
    got = found.predict(**POINT)
    assert got.low < sigmoid(loss_of(POINT["N"], POINT["D"])) < got.high


def test_says_how_far_and_prints_and_exports():
    found = two_step(ladder(), run="run")
    one = found.predict(**POINT, resamples=100)
    assert "extrapolated" in str(one) and str(one).startswith("accuracy 0.8")
    assert not any("extrapolated" in n for n in found.predict(N=7e8, D=5e10, resamples=100).notes)
    assert "step 2" in str(found)
    json.dumps(found.to_dict())
    json.dumps(one.to_dict())
    assert len(found.to_frame()) == 9
    assert (
        one
        == found.predict(**POINT, resamples=100)
        != found.predict(**POINT, resamples=100, seed=1)
    )


@pytest.mark.parametrize(
    ("change", "options", "says"),
    [
        (lambda t: t.assign(accuracy=t["accuracy"] * 100), {}, "divide by 100"),
        (lambda t: t.assign(accuracy=1 - t["accuracy"]), {}, "does not rise as the loss falls"),
        (lambda t: t.assign(accuracy=0.25), {}, "does not rise as the loss falls"),
        (lambda t: t.assign(accuracy=np.where(t.index == 3, np.nan, t["accuracy"])), {}, "row 3"),
        (lambda t: t.assign(loss=np.where(t.index == 2, -1, t["loss"])), {}, "row 2"),
        (lambda t: t.drop(columns="accuracy"), {}, "column 'accuracy': missing from points"),
        (lambda t: t[t["N"] < 5e8], {}, "2 different values"),
        (lambda t: t, {"second": "sigmod"}, "did you mean 'sigmoid'"),
        (lambda t: t, {"second": "chinchilla"}, "no law from L"),
        (lambda t: t, {"law": "sigmoid"}, "not a loss"),
        (lambda t: t, {"run": "name"}, "column 'name': missing"),
        (lambda t: t, {"pairs": ladder()}, "name the column of runs"),
    ],
)
def test_refusals_are_one_line(change, options, says):
    with pytest.raises(UserError) as error:
        two_step(change(ladder()), **options)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_prediction_refuses_what_is_missing_or_cannot_be_resampled():
    found = two_step(ladder(), run="run")
    with pytest.raises(UserError, match="needs D"):
        found.predict(N=7e9)
    with pytest.raises(UserError, match="level=2"):
        found.predict(**POINT, level=2)
    with pytest.raises(UserError, match="resamples=3"):
        found.predict(**POINT, resamples=3)
    few = ladder(multiples=(1, 5))
    three = few[few["N"] < 1e9].assign(run=lambda t: t["N"].astype(str))
    with pytest.raises(UserError, match="resamples lose sizes"):
        two_step(three, run="run").predict(**POINT)
