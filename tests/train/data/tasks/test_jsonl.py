"""Rows of prompts and completions: what is read, and what is refused, by line number."""

import gzip
import json

import pytest

from stepladder.configs.core.errors import UserError
from stepladder.train.data.tasks.examples import Example
from stepladder.train.data.tasks.jsonl import load
from tests.support.errors import assert_user_error

GOOD = {"prompt": "a\u2028b", "completion": " \u00e4", "id": 3}


def write(path, lines):
    text = b"".join(
        (line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines
    )
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def test_files_are_read_in_the_order_of_their_names(tmp_path):
    write(tmp_path / "b.jsonl", [GOOD | {"prompt": "second"}])
    write(tmp_path / "a.jsonl.gz", [GOOD, b"", GOOD | {"prompt": "first"}])
    found = load(str(tmp_path / "*.jsonl*"))
    assert [e.prompt for e in found.training] == ["a\u2028b", "first", "second"]
    assert found.training[0] == Example("a\u2028b", " \u00e4")
    assert found.validation is None and not found.recall
    assert load(str(tmp_path / "b.jsonl")).training == found.training[2:]


def test_a_path_may_stand_below_a_variable(tmp_path, monkeypatch):
    path = write(tmp_path / "a.jsonl", [GOOD])
    monkeypatch.setenv("MINE", str(tmp_path))
    assert load("$MINE/a.jsonl") == load(str(path))
    monkeypatch.delenv("MINE")
    with pytest.raises(UserError) as raised:
        load("$MINE/a.jsonl")
    assert_user_error(raised, field="task.source", remedy="MINE is not set; set it")


def test_a_byte_order_mark_is_no_part_of_a_row(tmp_path):
    path = write(tmp_path / "a.jsonl", [b"\xef\xbb\xbf" + json.dumps(GOOD).encode()])
    assert len(load(str(path)).training) == 1


BAD = {
    "no completion": {"prompt": "a"},
    "no prompt": {"completion": "a"},
    "no  completion": {"prompt": "a", "completion": ""},
    "no   completion": {"prompt": "a", "completion": None},
    "a number as prompt": {"prompt": 3, "completion": "a"},
    "a list as completion": {"prompt": "a", "completion": ["b"]},
    "half a surrogate": {"prompt": "\ud800", "completion": "a"},
    "is a list": [1],
    "not JSON": b"{",
    "not UTF-8": b'{"prompt": "\xff"}',
    "too deeply": b"[" * 100_000,
    "a number too long": b"1" * 5000,
}


@pytest.mark.parametrize("why", BAD)
def test_a_bad_row_is_named_by_its_line(tmp_path, why):
    path = write(tmp_path / "mine.jsonl", [GOOD, b" ", BAD[why], GOOD])
    with pytest.raises(UserError) as raised:
        load(str(path))
    assert_user_error(raised, field="task.source", value=f"jsonl:{path}", remedy="remove it")
    assert "1 of 3 rows" in str(raised.value) and "mine.jsonl line 3 " in str(raised.value)
    assert " ".join(why.split()) in str(raised.value)


def test_of_many_bad_rows_the_first_are_named_and_all_are_counted(tmp_path):
    path = write(tmp_path / "mine.jsonl", [GOOD, *[{"prompt": "a"}] * 40])
    with pytest.raises(UserError, match=r"40 of 41 rows.*line 2 .*line 6 .*and 35 more"):
        load(str(path))


def test_what_cannot_be_read_is_refused(tmp_path):
    cut = write(tmp_path / "cut.jsonl.gz", [GOOD] * 100)
    cut.write_bytes(cut.read_bytes()[:-20])
    write(tmp_path / "empty.jsonl", [])
    write(tmp_path / "mine.json", [GOOD])
    for name, remedy in (
        ("cut.jsonl.gz", "write it again"),
        ("empty.jsonl", "give prompts"),
        ("mine.json", "did you mean '.jsonl'"),
        ("*.txt", "check the path"),
        ("", "check the path"),
    ):
        with pytest.raises(UserError) as raised:
            load(str(tmp_path / name))
        assert_user_error(raised, field="task.source", remedy=remedy)
