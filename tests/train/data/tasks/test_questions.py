"""The public question sets: each one's prompt and answer, and the sets as they are."""

import gzip
import json
import os

import pytest

from stepladder.configs.core.errors import UserError
from stepladder.train.data.tasks.examples import Example
from stepladder.train.data.tasks.questions import QUESTIONS, ROOT, load
from tests.support.errors import assert_user_error

CHOICES = {"question": "Why? ", "choices": ["no", "yes "], "answer": 1}
PAIR = {"sentence1": "One.", "sentence2": "Two."}
# A row of each set, and what it must become.
ROWS = {
    "arc_easy": (CHOICES, Example("Question: Why?\nAnswer:", " yes")),
    "arithmetic": ({**CHOICES, "question": "1 + 1 ="}, Example("1 + 1 =", " yes")),
    "gsm8k": (
        {"question": "Why?", "answer": "So.\n#### 2", "final": "2"},
        Example("Question: Why?\nAnswer:", " So.\n#### 2"),
    ),
    "mrpc": (
        {**PAIR, "label": 1},
        Example("One.\nTwo.\nQuestion: Do the two sentences mean the same?\nAnswer:", " yes"),
    ),
    "openbookqa": (CHOICES, Example("Why?", " yes")),
    "piqa": (CHOICES, Example("Goal: Why?\nSolution:", " yes")),
    "rte": (
        {"premise": "A {b}.", "hypothesis": "C.", "label": 1},
        Example('A {b}.\nQuestion: Does it follow that "C."?\nAnswer:', " no"),
    ),
    "sciq": ({**CHOICES, "support": ""}, Example("Question: Why?\nAnswer:", " yes")),
    "social_iqa": (
        {**CHOICES, "support": "They met."},
        Example("They met.\nQuestion: Why?\nAnswer:", " yes"),
    ),
    "sst2": ({"sentence": "fine ", "label": 1}, Example("fine\nSentiment:", " positive")),
}


def write(folder, name, rows):
    (folder / "tasks").mkdir(exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "tasks" / name).write_bytes(gzip.compress(text.encode()))


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_row_becomes_a_prompt_with_the_right_answer(tmp_path, monkeypatch, name):
    monkeypatch.setenv(ROOT, str(tmp_path))
    body, example = ROWS[name]
    row, found = {"id": "1", **body}, QUESTIONS[name]
    write(tmp_path, f"{name}.{found.training}.jsonl.gz", [row, row])
    if found.validation:
        write(tmp_path, f"{name}.{found.validation}.jsonl.gz", [row])
    read = load(name)
    assert read.training == [example] * 2
    assert read.validation == ([example] if found.validation else None)


def test_what_is_wrong_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv(ROOT, str(tmp_path))
    for lines in (
        [{**CHOICES, "answer": 2}],
        [{"sentence": "x"}],
        [[1]],
        [{**CHOICES, "choices": 3}],
    ):
        write(tmp_path, "piqa.validation.jsonl.gz", [CHOICES, *lines])
        with pytest.raises(UserError) as raised:
            load("piqa")
        assert_user_error(raised, field="task.source", value="questions:piqa", remedy="fetch")
        assert "line 2 of" in str(raised.value)
    with pytest.raises(UserError) as raised:
        load("sst2")
    assert_user_error(raised, field="task.source", remedy="check the path")
    with pytest.raises(UserError) as raised:
        load("arc_esay")
    assert_user_error(raised, field="task.source", remedy="'arc_easy'")
    monkeypatch.delenv(ROOT)
    with pytest.raises(UserError, match=f"{ROOT} is not set"):
        load("piqa")


@pytest.mark.parametrize("name", QUESTIONS)
@pytest.mark.skipif(ROOT not in os.environ, reason=f"{ROOT} is not set: no public question sets")
def test_the_public_set(name):
    """The whole set: as many examples as it has items, and nothing empty."""
    items = {
        "arc_easy": (2251, 570),
        "arithmetic": (3000,),
        "gsm8k": (1319,),
        "mrpc": (408,),
        "openbookqa": (4957, 500),
        "piqa": (1838,),
        "rte": (277,),
        "sciq": (1000,),
        "social_iqa": (1954,),
        "sst2": (872,),
    }[name]
    found = load(name)
    sides = [found.training, *([found.validation] if found.validation else [])]
    assert tuple(map(len, sides)) == items
    for example in (example for side in sides for example in side):
        assert example.prompt.strip() and example.completion.startswith(" ")
        assert example.completion.strip()
