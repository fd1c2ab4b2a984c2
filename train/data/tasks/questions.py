"""The public question sets of `$STEPLADDER_DATA/tasks` as examples.

The right answer is the completion. How a prompt is written is our choice, but for ARC-Easy,
OpenBookQA and SciQ, which are written as in arXiv:2604.01411.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stepladder.configs.core.errors import UserError, nearest
from stepladder.train.data.tasks.examples import Example, Found
from stepladder.train.data.tasks.jsonl import objects

ROOT = "STEPLADDER_DATA"


def _right_choice(row: dict) -> str:
    return row["choices"][row["answer"]]


def _worked_answer(row: dict) -> str:
    return row["answer"]


@dataclass(frozen=True)
class _Label:
    """The word for a row's label."""

    words: tuple[str, ...]

    def __call__(self, row: dict) -> str:
        return self.words[row["label"]]


@dataclass(frozen=True)
class QuestionSet:
    """A public set, and how a row of it becomes an example.

    Attributes:
        prompt: with the row's fields in braces; lines that are empty at its start are left out.
        answer: what follows the prompt and a space.
        training: the split to train on.
        validation: the split to evaluate on; "": the set is one file, divided by a hash.
    """

    prompt: str
    answer: Callable[[dict], str] = _right_choice
    training: str = "validation"
    validation: str = ""


_ASKED = "Question: {question}\nAnswer:"
_ALIKE = "{sentence1}\n{sentence2}\nQuestion: Do the two sentences mean the same?\nAnswer:"
_FOLLOWS = '{premise}\nQuestion: Does it follow that "{hypothesis}"?\nAnswer:'

QUESTIONS: dict[str, QuestionSet] = {
    "arc_easy": QuestionSet(_ASKED, training="train", validation="validation"),
    "arithmetic": QuestionSet("{question}"),
    "gsm8k": QuestionSet(_ASKED, _worked_answer, training="test"),
    "mrpc": QuestionSet(_ALIKE, _Label(("no", "yes"))),
    "openbookqa": QuestionSet("{question}", training="train", validation="validation"),
    "piqa": QuestionSet("Goal: {question}\nSolution:"),
    "rte": QuestionSet(_FOLLOWS, _Label(("yes", "no"))),
    "sciq": QuestionSet("{support}\n" + _ASKED),
    "social_iqa": QuestionSet("{support}\n" + _ASKED),
    "sst2": QuestionSet("{sentence}\nSentiment:", _Label(("negative", "positive"))),
}


def load(name: str) -> Found:
    """The examples of a public set.

    Its test split, where it has others too, is left for scoring. Raises UserError for an unknown
    name, where STEPLADDER_DATA is not set, and for files that are missing or damaged.
    """
    field = f"task.source=questions:{name}"
    if name not in QUESTIONS:
        raise UserError(f"{field}: no such set; {nearest(name, QUESTIONS)}")
    root = os.environ.get(ROOT)
    if not root:
        raise UserError(
            f"{field}: {ROOT} is not set; set it to the folder whose tasks/ holds the question sets"
        )
    folder, found = Path(root) / "tasks", QUESTIONS[name]
    training = _read(found, folder / f"{name}.{found.training}.jsonl.gz", field)
    if not found.validation:
        return Found(training)
    return Found(training, _read(found, folder / f"{name}.{found.validation}.jsonl.gz", field))


def _read(questions: QuestionSet, path: Path, field: str) -> list[Example]:
    examples = []
    for number, row in objects(path, field):
        try:
            if isinstance(row, str):
                raise ValueError(row)
            text = {k: v.strip() if isinstance(v, str) else v for k, v in row.items()}
            prompt = questions.prompt.format(**text).lstrip("\n")
            examples.append(Example(prompt, " " + questions.answer(text).strip()))
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as e:
            raise UserError(
                f"{field}: line {number} of {path} is no row of this set ({e!r}); fetch it again"
            ) from e
    return examples
