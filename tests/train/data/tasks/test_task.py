"""Loading a task: once a process, what is left out and said, what is refused."""

import dataclasses
import json

import numpy as np
import pytest

from stepladder.configs.core.errors import UserError
from stepladder.configs.core.spec import TaskSpec
from stepladder.train.data.tasks import task as tasks
from stepladder.train.data.tasks.task import load
from tests.support.errors import assert_user_error

SUMS = TaskSpec("sums", "sums:2*200", validation_fraction=0.25)


def mine(tmp_path, lengths, name="mine.jsonl", **changes):
    """A task whose examples have so many tokens, their end included."""
    lines = [
        json.dumps({"prompt": f"prompt {i:03d}", "completion": "c" * (n - 11)})
        for i, n in enumerate(lengths)
    ]
    (tmp_path / name).write_text("\n".join(lines))
    return dataclasses.replace(TaskSpec("mine", f"jsonl:{tmp_path / name}"), **changes)


def test_a_task_is_loaded_once(store, monkeypatch):
    first = load(SUMS, store, 32)
    monkeypatch.setattr(tasks, "find", lambda _: pytest.fail("found again"))
    assert load(dataclasses.replace(SUMS), store, 32) is first
    with pytest.raises(pytest.fail.Exception):
        load(SUMS, store, 33)


def test_both_sides_and_what_the_record_says(store):
    made = load(SUMS, store, 32)
    assert (len(made.training), len(made.validation)) == (150, 50)
    assert made.domain == "task:sums"
    said = made.lineage(rows=3 * made.packing(0).rows_in(0), seed=0)
    assert said == {
        "name": "sums",
        "source": SUMS.source,
        "fingerprint": made.fingerprint,
        "examples": 150,
        "validation": 50,
        "left_out": [],
        "epochs": 3.0,
    }


def test_the_fingerprint_is_of_the_examples_and_their_marks(store, tmp_path):
    first = load(mine(tmp_path, [20] * 9), store, 32).fingerprint
    assert load(mine(tmp_path, [20] * 9, name="moved.jsonl"), store, 32).fingerprint == first
    assert load(mine(tmp_path, [20] * 9 + [21], "b.jsonl"), store, 32).fingerprint != first
    assert load(mine(tmp_path, [20] * 9, "c.jsonl", counted="all"), store, 32).fingerprint != first


def test_evaluation_rows_are_the_first_of_all(store):
    made = load(SUMS, store, 32)
    every = made.evaluation_rows(10**6)
    assert int((every == 256).sum()) == 50, "every validation example once"
    assert (made.evaluation_rows(3) == every[:3]).all()


def test_examples_longer_than_a_row_are_left_out_and_listed(store, tmp_path):
    """33 tokens fit a row of seq_len 32, 34 do not."""
    spec = mine(tmp_path, [33] * 38 + [34, 90], max_overlong=0.05)
    made = load(spec, store, 32)
    assert len(made.training) + len(made.validation) == 38
    said = made.lineage(10, 0)["left_out"]
    assert [each["prompt"] for each in said] == ["prompt 038", "prompt 039"]
    assert "34 tokens, a row has 33" in said[0]["reason"]
    rows = made.packing(0).rows(np.arange(38))
    assert set(map(int, (rows == 256).sum(axis=1))) == {1}


def test_too_many_of_them_are_refused(store, tmp_path):
    with pytest.raises(UserError) as raised:
        load(mine(tmp_path, [33] * 37 + [34, 35, 90]), store, 32)
    assert_user_error(raised, field="task.max_overlong", value=0.05, remedy="seq_len to 89")
    text = str(raised.value)
    assert "3 of 40" in text and "task mine" in text and "0.075" in text and "prompt 037" in text
    assert len(
        load(mine(tmp_path, [33] * 37 + [34, 35, 90], max_overlong=0.075), store, 32).left_out
    )


@pytest.mark.parametrize(
    ("changes", "field", "remedy"),
    [
        ({"name": "a b"}, "task.name", "letters"),
        ({"counted": "completions"}, "task.counted", "'completion'"),
        ({"validation_fraction": 0.0}, "task.validation_fraction", "between 0 and 1"),
        ({"validation_fraction": float("nan")}, "task.validation_fraction", "between 0 and 1"),
        ({"max_overlong": -0.1}, "task.max_overlong", "from 0 to 1"),
        ({"source": "sums:3*1000", "max_overlong": 1.0}, "task.source", "raise seq_len"),
    ],
)
def test_values_that_cannot_be(store, changes, field, remedy):
    with pytest.raises(UserError) as raised:
        load(dataclasses.replace(SUMS, **changes), store, 2)
    assert_user_error(raised, field=field, remedy=remedy)
