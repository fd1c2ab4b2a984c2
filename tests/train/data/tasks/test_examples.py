"""How examples are divided: no prompt on both sides, and by the prompt alone."""

import pytest

from stepladder.configs.core.errors import UserError
from stepladder.train.data.tasks.examples import Example, Found, first_words, split
from tests.support.errors import assert_user_error

EXAMPLES = [Example(f"prompt {i % 200}", f"completion {i}") for i in range(500)]


def prompts(examples):
    return {example.prompt for example in examples}


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5, 0.999])
def test_no_prompt_is_on_both_sides_and_none_is_lost(fraction):
    found = split(Found(EXAMPLES), fraction, "t")
    assert not prompts(found.training) & prompts(found.validation)
    assert sorted([*found.training, *found.validation]) == sorted(EXAMPLES)
    assert len(prompts(found.validation)) == min(round(fraction * 200), 199)
    assert found.left_out == []


def test_a_side_depends_on_the_prompts_and_not_on_their_order():
    there = split(Found(EXAMPLES), 0.2, "t")
    back = split(Found(EXAMPLES[::-1]), 0.2, "t")
    assert prompts(back.validation) == prompts(there.validation)
    assert back.training == there.training[::-1]


def test_a_small_set_has_both_sides():
    for n in range(2, 12):
        found = split(Found(EXAMPLES[:n]), 0.01, "t")
        assert len(found.validation) == 1 and len(found.training) == n - 1


def test_a_prompt_in_a_split_of_the_source_is_left_out_of_training_and_listed():
    found = split(Found(EXAMPLES[:10], [Example("prompt 3", "other")]), 0.1, "t")
    assert [e for e in EXAMPLES[:10] if e.prompt != "prompt 3"] == found.training
    assert [(each.prompt, "validation" in each.reason) for each in found.left_out] == [
        ("prompt 3", True)
    ]


def test_recall_is_evaluated_on_what_it_trains_on():
    found = split(Found(EXAMPLES, recall=True), 0.1, "t")
    assert found.training == found.validation == EXAMPLES


@pytest.mark.parametrize("examples", [[], EXAMPLES[:1], [EXAMPLES[0], EXAMPLES[200]]])
def test_one_prompt_cannot_be_divided(examples):
    with pytest.raises(UserError) as raised:
        split(Found(examples), 0.1, "t")
    assert_user_error(raised, field="task.validation_fraction", remedy="more examples")


def test_first_words_are_few_and_on_one_line():
    assert first_words("one\ntwo  three") == "one two three"
    assert first_words(" ".join("abcdefghijk")) == "a b c d e f g h..."
    assert len(first_words("x" * 1000)) < 70
