"""`stepladder fit`, `predict` and `laws` from the command line: text, JSON, groups, refusals."""

import json

import numpy as np
import pandas as pd
import pytest

from stepladder.train.cli.parser import main

TRUE = {"E": 1.8, "A": 480.0, "B": 2000.0, "alpha": 0.348, "beta": 0.366}


def write(path, seed=0, families=("",)):
    tables = []
    for k, family in enumerate(families):
        n, d = (v.ravel() for v in np.meshgrid([1e8, 3e8, 1e9, 3e9], [2e9, 1e10, 5e10]))
        noise = np.exp(0.003 * np.random.default_rng(seed + k).standard_normal(len(n)))
        loss = (TRUE["E"] + TRUE["A"] / n ** TRUE["alpha"] + TRUE["B"] / d ** TRUE["beta"]) * noise
        tables.append(pd.DataFrame({"params": n, "tokens": d, "val_loss": loss, "family": family}))
    pd.concat(tables).to_csv(path, index=False)
    return [str(path), "--n=params", "--d=tokens", "--loss=val_loss"]


def run(capsys, *words):
    status = main(list(words))
    out = capsys.readouterr()
    return status, out.out, out.err


def test_json_of_a_fit(tmp_path, capsys):
    table = write(tmp_path / "runs.csv")
    status, out, _ = run(
        capsys,
        "fit",
        *table,
        "--objective=squared_log",
        "--bootstrap=64",
        "--budget=1e21",
        "--json",
    )
    body = json.loads(out)
    assert (
        status == 0
        and body["law"] == "chinchilla"
        and body["n_points"] == 12
        and body["objective_name"] == "squared_log"
    )
    assert (
        set(body["params"]) == set(body["stderr"]) == set(TRUE)
        and body["excluded"] == []
        and isinstance(body["notes"], list)
    )
    a = body["params"]["beta"] / (body["params"]["alpha"] + body["params"]["beta"])
    low, high = body["a"]["interval"]
    assert (
        body["a"]["value"] == pytest.approx(a)
        and low < a < high
        and abs(a - TRUE["beta"] / (TRUE["alpha"] + TRUE["beta"])) < 0.1
    )
    n, d = body["allocation"]["N"]["value"], body["allocation"]["D"]["value"]
    assert 6 * n * d == pytest.approx(1e21, rel=1e-6)


def test_text_of_a_fit_says_what_was_done(tmp_path, capsys):
    table = write(tmp_path / "runs.csv")
    status, out, _ = run(
        capsys,
        "fit",
        *table,
        "--where",
        "tokens>1e9",
        "--objective=squared_log",
        "--fix",
        "alpha=0.348",
    )
    assert status == 0 and "12 points" in out and "held" in out and "N* ~ C^a" in out


def test_one_fit_a_group(tmp_path, capsys):
    table = write(tmp_path / "runs.csv", families=("first", "second"))
    status, out, _ = run(
        capsys, "fit", *table, "--group=family", "--objective=squared_log", "--json"
    )
    assert status == 0 and [body["group"] for body in json.loads(out)] == ["first", "second"]


def test_predict(tmp_path, capsys):
    table = write(tmp_path / "runs.csv")
    status, out, _ = run(
        capsys, "predict", *table, "--at", "N=7e9,D=2e11", "N=1e9,D=1e10", "--json"
    )
    far, near = json.loads(out)
    truth = [
        TRUE["E"] + TRUE["A"] / n ** TRUE["alpha"] + TRUE["B"] / d ** TRUE["beta"]
        for n, d in ((7e9, 2e11), (1e9, 1e10))
    ]
    assert (
        status == 0
        and far["low"] < truth[0] < far["high"]
        and near["low"] < truth[1] < near["high"]
    )
    assert far["high"] / far["low"] > near["high"] / near["low"] and far["beyond"][
        "D"
    ] == pytest.approx(4.0)


@pytest.mark.parametrize(
    "words, message",
    [
        (["--law=chinchila"], "did you mean 'chinchilla'"),
        (["--objective=hubr"], "did you mean 'huber'"),
        (["--fix", "alfa=1"], "no such parameter"),
        (["--fix", "alpha"], "must be NAME=VALUE"),
        (["--starts=hofmann"], "did you mean 'hoffmann'"),
        (["--n=parms"], "did you mean 'params'"),
        (["--where", "tokens>1e12"], "tokens>1e12"),
        (["--budget=-1"], "C=-1"),
        (["--bootstrap=1"], "resamples=1"),
    ],
)
def test_refusals_are_one_line_and_exit_1(tmp_path, capsys, words, message):
    status, _, err = run(
        capsys, "fit", *write(tmp_path / "runs.csv"), "--objective=squared_log", *words
    )
    assert status == 1 and message in err and err.count("\n") == 1, err


def test_a_point_without_an_input_is_named(tmp_path, capsys):
    words = [*write(tmp_path / "runs.csv"), "--at", "N=7e9,D=2e11", "N=1e9"]
    status, _, err = run(capsys, "predict", *words)
    assert status == 1 and "at=N=1e9: law chinchilla needs D" in err


@pytest.mark.parametrize(
    "words, remedy",
    [
        (["--cluster=family"], "add --bootstrap"),
        (["--cluster=family", "--group=family", "--bootstrap=9"], "choose one family with --where"),
    ],
)
def test_a_cluster_that_would_not_be_read_is_refused(tmp_path, capsys, words, remedy):
    status, _, err = run(capsys, "fit", *write(tmp_path / "runs.csv"), *words)
    assert status == 1 and "cluster=family" in err and remedy in err


def test_laws_are_listed_with_their_sources(capsys):
    status, out, _ = run(capsys, "laws")
    assert (
        status == 0
        and "2203.15556" in out
        and "shukor_additive_2" in out
        and "shukor_additive_3" not in out
    )
