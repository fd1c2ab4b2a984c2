"""Forecasts: coverage on simulated ladders, back-test, baselines, and a file that is written
once.
"""

import json

import numpy as np
import pandas as pd
import pytest

from stepladder.analysis.records.load import load
from stepladder.analysis.studies.extrapolation.baselines import baselines
from stepladder.analysis.studies.extrapolation.forecast import forecast
from stepladder.analysis.studies.extrapolation.forecast_file import read_forecasts, write_forecast
from stepladder.configs.core import record
from stepladder.configs.core.errors import UserError
from tests.support import synthetic_records as records

TARGET = {"N": 5e5, "D": 8.5e6, "C": 6 * 5e5 * 8.5e6}


def ladder(rng, sd=0.004, shared=0.5, sizes=(1.5e4, 3e4, 6e4, 1.2e5, 2.4e5), seeds=(2, 2, 1, 1, 1)):
    """Final losses of five sizes at three durations; runs of one trunk share part of their
    noise.
    """
    rows = []
    for n, count in zip(sizes, seeds):
        for k in range(count):
            trunk = rng.normal() * sd * shared**0.5
            for d in (1e6, 2e6, 4e6):
                loss = records.law(n, d) * np.exp(trunk + rng.normal() * sd * (1 - shared) ** 0.5)
                rows.append(
                    {
                        "N": n,
                        "D": d,
                        "C": 6 * n * d,
                        "root": f"{n}-{k}",
                        "size": f"{n:.0f}",
                        "loss": loss,
                    }
                )
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def made():
    return forecast(ladder(np.random.default_rng(0)), TARGET)


@pytest.mark.slow
@pytest.mark.parametrize("shared", [0.0, 0.8])
def test_the_interval_covers_on_simulated_ladders(shared):
    rng = np.random.default_rng(1)
    inside, widths, errors = [], [], []
    for k in range(40):
        points = ladder(rng, shared=shared)
        truth = records.law(TARGET["N"], TARGET["D"]) * np.exp(0.004 * rng.normal())
        f = forecast(points, TARGET, seed=k, resamples=128)
        inside.append(f.low <= truth <= f.high)
        widths.append(f.high / f.low - 1)
        errors.append(abs(f.prediction / truth - 1))
    assert np.mean(inside) >= 0.8
    assert np.median(widths) < 0.08  # it covers because it is right, not because it says nothing
    assert np.mean(errors) < 0.02


def test_the_same_seed_gives_the_same_forecast(made):
    again = forecast(ladder(np.random.default_rng(0)), TARGET)
    assert (again.prediction, again.low, again.high) == (made.prediction, made.low, made.high)
    assert forecast(ladder(np.random.default_rng(0)), TARGET, seed=1).interval != made.interval


def test_forecast_is_json_and_prints(made):
    body = json.loads(json.dumps(made.to_dict(), allow_nan=False))
    assert body["low"] < body["prediction"] < body["high"]
    assert set(body["parameters"]) == {"E", "A", "B", "alpha", "beta"}
    assert "hidden size" in str(made) and "nats per token" in str(made)
    assert any("identified" in s for s in made.identified)


def test_wider_noise_and_higher_level_give_wider_intervals(made):
    noisy = forecast(ladder(np.random.default_rng(0), sd=0.012), TARGET)
    assert noisy.high - noisy.low > made.high - made.low
    narrow = forecast(ladder(np.random.default_rng(0)), TARGET, level=0.5)
    assert narrow.interval["statistical"][1] < made.interval["statistical"][1]


def test_the_interval_is_never_narrower_than_the_back_test(made):
    largest = next(b for b in made.backtest if b["largest"])
    half = np.log(made.high / made.prediction)
    assert half >= abs(largest["bias"]) - 1e-12
    bent = ladder(np.random.default_rng(0), sd=0.0005)
    bent["loss"] *= np.exp(0.02 * np.log(bent["N"] / 6e4) ** 2)  # a shape the law does not have
    f = forecast(bent, TARGET)
    assert f.interval["floor"] > 0 and np.log(f.high / f.prediction) >= f.interval["floor"] - 1e-12


def test_back_test_hides_each_size_in_turn(made):
    assert [b["N"] for b in made.backtest] == [2.4e5, 1.2e5, 6e4, 3e4, 1.5e4]
    assert all(b["are"] < 0.05 for b in made.backtest)
    rest = ladder(np.random.default_rng(0)).query("N < 2e5")
    from stepladder.analysis.fit.fit import fit

    expected = fit(rest, objective="squared_log").predict(
        N=2.4e5, D=np.array(made.backtest[0]["D"])
    )
    np.testing.assert_allclose(made.backtest[0]["prediction"], expected, rtol=1e-6)


def test_with_three_sizes_there_is_no_back_test_and_no_floor():
    f = forecast(
        ladder(np.random.default_rng(0), sizes=(1.5e4, 6e4, 2.4e5), seeds=(1, 1, 1)), TARGET
    )
    assert f.interval["floor"] is None and f.backtest == ()


def test_baselines():
    points = ladder(np.random.default_rng(0), sd=0.0)
    points["loss"] = 100 * points["C"] ** -0.1
    found = {b["name"]: b["prediction"] for b in baselines(points, TARGET)}
    assert found["power law in compute"] == pytest.approx(100 * TARGET["C"] ** -0.1)
    assert found["best seen"] == points["loss"].min()
    points.loc[points["C"].idxmax(), "loss"] = 9.0
    assert {b["name"]: b["prediction"] for b in baselines(points, TARGET)}["most compute"] == 9.0


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(target={"N": 1e6, "D": 1e7}), "target.C"),
        (dict(target=TARGET | {"D": -1}), "target.D"),
        (dict(level=90), "level=90"),
    ],
)
def test_bad_requests_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        forecast(**({"runs": ladder(np.random.default_rng(0)), "target": TARGET} | change))


def test_as_many_points_as_parameters_have_no_noise():
    points = ladder(np.random.default_rng(0)).iloc[[0, 4, 8, 12, 16]]
    with pytest.raises(UserError, match="points=5"):
        forecast(points, TARGET)


def test_written_once_before_the_target_and_never_changed(tmp_path):
    proxies = records.write_proxies(tmp_path)
    target = records.target_spec()
    entry = write_forecast(tmp_path, target.hash, target.run_id, records.target_point())
    assert entry["target_spec_hash"] == target.hash and entry["written_utc"].endswith("Z")
    assert len(entry["points"]) == len(proxies)
    assert {"code", "prose"} == set(entry["domains"]) and entry["domains"]["code"]["low"] < entry[
        "domains"
    ]["code"]["high"]
    before = (tmp_path / record.FORECAST).read_bytes()
    records.write_target(tmp_path)
    again = write_forecast(
        tmp_path, target.hash, target.run_id, records.target_point() | {"N": 1e9}, seed=5
    )
    assert again == entry and (tmp_path / record.FORECAST).read_bytes() == before
    with pytest.raises(UserError, match="metric rows already"):
        write_forecast(tmp_path, "another hash", target.run_id, records.target_point())
    assert len(read_forecasts(tmp_path)) == 1 and not list(tmp_path.glob(".*.tmp"))


def test_excluded_points_are_in_the_entry(tmp_path):
    records.write_proxies(tmp_path)
    bad = records.spec("84k", 700, seed=5)
    records.write_run(tmp_path, bad, state=record.DIVERGED)
    f = forecast(load(tmp_path), records.target_point())
    assert {e["reason"] for e in f.excluded if e["run_id"] == bad.run_id} == {"run diverged"}
    assert bad.run_id not in {p["run_id"] for p in f.points}
    truth = records.law(f.target["N"], f.target["D"])
    assert abs(f.prediction / truth - 1) < 0.02


def test_an_unreadable_forecast_file_is_never_overwritten(tmp_path):
    (tmp_path / record.FORECAST).write_text("{")
    with pytest.raises(UserError, match="unreadable"):
        write_forecast(tmp_path, "h", "r", TARGET)
    assert (tmp_path / record.FORECAST).read_text() == "{"
