"""Prompts with completions, and how they are divided into training and validation."""

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from stepladder.configs.core.errors import UserError

_WORDS = 8  # of a prompt, where one is named
_CHARACTERS = 60


class Example(NamedTuple):
    """A prompt and what should follow it; neither is empty."""

    prompt: str
    completion: str


@dataclass(frozen=True)
class Found:
    """The examples of a source.

    Attributes:
        training: to train on; all, where `validation` is None.
        validation: the source's own split; None: by a hash of the prompt.
        recall: whether validation are the training examples, for a task that is about recall.
    """

    training: list[Example]
    validation: list[Example] | None = None
    recall: bool = False


class LeftOut(NamedTuple):
    """An example that is not used, and why."""

    prompt: str  # its first words
    reason: str


class Split(NamedTuple):
    """Examples to train on and to evaluate on; without recall no prompt is on both sides."""

    training: list[Example]
    validation: list[Example]
    left_out: list[LeftOut]


def first_words(prompt: str) -> str:
    """The start of a prompt on one line, for messages and lists."""
    words = prompt.split(maxsplit=_WORDS)
    text = " ".join(words[:_WORDS])
    cut = len(words) > _WORDS or len(text) > _CHARACTERS
    return text[:_CHARACTERS] + ("..." if cut else "")


def split(found: Found, fraction: float, name: str) -> Split:
    """Divide the examples of task `name`.

    Examples of one prompt stay together. Where the source has no split of its own, the prompts with
    the smallest hashes are for validation: `fraction` of them, at least one. Where it has, training
    examples whose prompt is in validation are left out, and listed.

    Raises UserError when there are fewer than two different prompts to divide.
    """
    if found.recall:
        return Split(found.training, found.training, [])
    if found.validation is not None:
        held = {example.prompt for example in found.validation}
        return Split(
            [e for e in found.training if e.prompt not in held],
            found.validation,
            [
                LeftOut(first_words(e.prompt), "training example whose prompt is in validation")
                for e in found.training
                if e.prompt in held
            ],
        )
    hashes = np.array([_hash(example.prompt) for example in found.training], np.uint64)
    prompts = np.unique(hashes)
    if len(prompts) < 2:
        raise UserError(
            f"task.validation_fraction={fraction}: task {name} has {len(found.training)} "
            f"example(s) of {len(prompts)} prompt, and no prompt may be on both sides; give more "
            "examples"
        )
    count = min(max(1, round(fraction * len(prompts))), len(prompts) - 1)
    held_out = hashes <= prompts[count - 1]
    training = [e for e, held in zip(found.training, held_out) if not held]
    return Split(training, [e for e, held in zip(found.training, held_out) if held], [])


def _hash(prompt: str) -> int:
    return int.from_bytes(hashlib.blake2b(prompt.encode(), digest_size=8).digest(), "little")
