"""Every kind of source: what it yields, that it is the same whenever asked, what it refuses."""

import json

import pytest

from stepladder.configs.core.errors import UserError
from stepladder.train.data.tasks.examples import split
from stepladder.train.data.tasks.sources import SOURCES, find
from tests.support.errors import assert_user_error

# One of every kind, with its number of examples; the public sets have a file of their own.
EVERY = {
    "jsonl": ("jsonl:{folder}/x.jsonl", 3),
    "modular": ("modular:7", 49),
    "phonebook": ("phonebook:2/3*20", 20),
    "reverse": ("reverse:4*100", 100),
    "sums": ("sums:3", 10_000),
}


@pytest.fixture
def folder(tmp_path):
    lines = [json.dumps({"prompt": f"p{i}", "completion": f"c{i}"}) for i in range(3)]
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    return tmp_path


@pytest.mark.parametrize("kind", sorted(set(SOURCES) - {"questions"}))
def test_examples_of_every_kind(kind, folder):
    source, count = EVERY[kind]
    source = source.format(folder=folder)
    found = find(source)
    assert found == find(source)
    assert len(found.training) == count
    assert len({example.prompt for example in found.training}) == count
    assert all(example.completion for example in found.training)
    divided = split(found, 0.3, "t")
    same = {e.prompt for e in divided.training} & {e.prompt for e in divided.validation}
    assert bool(same) == found.recall == (kind == "phonebook")


def test_sums_are_right():
    assert len(find("sums:1").training) == 100, "all pairs, where they are few"
    for prompt, completion in find("sums:2*500").training:
        a, b = map(int, prompt.removesuffix("=").split("+"))
        assert a + b == int(completion) and max(a, b) < 100


def test_modular_addition_is_every_pair():
    found = {prompt: int(completion) for prompt, completion in find("modular:11").training}
    assert found == {f"{a}+{b}=": (a + b) % 11 for a in range(11) for b in range(11)}


def test_reversed_words():
    for prompt, completion in find("reverse:5*50").training:
        assert prompt == completion[::-1] + "=" and len(completion) == 5


def test_books_are_parts_of_one_phonebook():
    """No name in two of them; another seed has others."""
    every = find("phonebook:all/4*50").training
    books = [find(f"phonebook:{book}/4*50").training for book in (1, 2, 3, 4)]
    assert [e for book in books for e in book] == every
    assert len({e.prompt for e in every}) == 200
    numbers = {e.completion for e in every}
    assert len(numbers) > 190 and all(len(n) == 7 and n[1:].isdigit() for n in numbers)
    others = find("phonebook:all/4*50@1").training
    assert not {e.prompt for e in every} & {e.prompt for e in others}


BAD = {
    "sums:": "write sums:DIGITS",
    "sums": "write sums:DIGITS",
    "sum:3": "'sums'",
    "": "known",
    "sums:0": "from 1 to 8",
    "sums:9": "from 1 to 8",
    "sums:x": "write sums:3",
    "sums:1*101": "from 2 to 100",
    "sums:1*1": "from 2 to 100",
    "sums:3*1000001": "from 2 to 1,000,000",
    f"sums:{'9' * 5000}": "from 1 to 8",
    "modular:1": "from 2 to 1000",
    "modular:\u0663": "from 2 to 1000",
    "reverse:13": "from 1 to 12",
    "phonebook:1": "phonebook:1/4",
    "phonebook:5/4*10": "use 1 to 4, or all",
    "phonebook:0/4*10": "use 1 to 4, or all",
    "phonebook:1/0*10": "at least one of each",
    "phonebook:all/1000*1001": "at most 1,000,000",
    "phonebook:all/2*10@x": "@SEED",
}


@pytest.mark.parametrize("source", BAD, ids=lambda source: source[:24])
def test_a_source_that_cannot_be_is_refused(source):
    with pytest.raises(UserError) as raised:
        find(source)
    assert_user_error(raised, field="task.source", remedy=BAD[source])
