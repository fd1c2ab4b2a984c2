"""A task as a run reads it: examples found, divided, tokenised and counted, once a process."""

import functools
import hashlib
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stepladder.configs.core.errors import UserError, row
from stepladder.configs.core.spec import TaskSpec
from stepladder.train.data import tokenizer as tokenizers
from stepladder.train.data.read.store import Store
from stepladder.train.data.tasks.examples import LeftOut, first_words, split
from stepladder.train.data.tasks.packing import COUNTED, Packing, Tokenised, tokenise
from stepladder.train.data.tasks.sources import find

DOMAIN = "task:"  # before a task's name, where its evaluations stand beside those of the domains
_NAME = re.compile(r"[A-Za-z0-9][\w.+-]*")
_SEED_OF_EVALUATION = 0  # the same rows for all runs


@dataclass(frozen=True, eq=False)
class Task:
    """The examples of a task, for one tokenizer and one length of a row.

    Attributes:
        spec: what was asked for.
        width: tokens of a row, seq_len + 1.
        end: the token that ends a document.
        training, validation: the examples; the same with a task that is about recall.
        left_out: the examples that are not used, with their reasons.
        fingerprint: 16 hex digits of the tokens, marks included.
    """

    spec: TaskSpec
    width: int
    end: int
    training: Tokenised
    validation: Tokenised
    left_out: tuple[LeftOut, ...]
    fingerprint: str

    @property
    def domain(self) -> str:
        """The domain of its rows of kind `eval`."""
        return DOMAIN + self.spec.name

    def packing(self, seed: int) -> Packing:
        """The rows to train on, in the order of `seed`."""
        return Packing(self.training, self.width, self.end, seed)

    def evaluation_rows(self, count: int) -> np.ndarray:
        """The first `count` rows of validation examples in a shuffled order, or all if there are
        fewer: int32 [rows, width]. The same whenever asked.
        """
        packing = Packing(self.validation, self.width, self.end, _SEED_OF_EVALUATION)
        return packing.rows(np.arange(min(count, packing.rows_in(0))))

    def lineage(self, rows: int, seed: int) -> dict:
        """What a record says of it, for a run that trains on `rows` rows.

        `epochs` is that number over the rows of the first epoch.
        """
        return {
            "name": self.spec.name,
            "source": self.spec.source,
            "fingerprint": self.fingerprint,
            "examples": len(self.training),
            "validation": len(self.validation),
            "left_out": [each._asdict() for each in self.left_out],
            "epochs": round(rows / self.packing(seed).rows_in(0), 4),
        }


def load(spec: TaskSpec, store: Store, seq_len: int) -> Task:
    """The task, with the tokens of a store; the same object whenever asked in a process.

    Raises:
        UserError: an unknown source, a source that cannot be read, a value that cannot be, too many
            examples longer than a row, or a side without examples.
    """
    return load_with(spec, seq_len, store.path, store.manifest["tokenizer"]["hash"])


@functools.lru_cache(maxsize=64)
def load_with(spec: TaskSpec, seq_len: int, store: Path, tokenizer_hash: str) -> Task:
    """`load`, for the tokenizer of this hash that lies in the folder `store`."""
    _check(spec)
    tokenizer, width = tokenizers.load(store), seq_len + 1
    found = find(spec.source)
    divided = split(found, spec.validation_fraction, spec.name)
    sides = {"training": divided.training}
    if not found.recall:
        sides["validation"] = divided.validation
    tokens = {side: tokenise(some, tokenizer, spec.counted) for side, some in sides.items()}
    too_long = [
        _TooLong(side, first_words(example.prompt), int(length))
        for side, examples in sides.items()
        for example, length in zip(examples, tokens[side].lengths)
        if length > width
    ]
    _check_length(spec, width, too_long, of=sum(map(len, sides.values())))
    fitting = {side: some.up_to(width) for side, some in tokens.items()}
    for side, some in fitting.items():
        if not len(some):
            raise UserError(
                f"task.source={spec.source!r}: task {spec.name} has no {side} example of the "
                f"{len(sides[side])} that fits a row of {width} tokens; raise seq_len, or give more"
            )
    return Task(
        spec,
        width,
        tokenizer.eos,
        fitting["training"],
        fitting.get("validation", fitting["training"]),
        (*divided.left_out, *(each.left_out(width) for each in too_long)),
        _fingerprint(tokenizer_hash, list(fitting.values())),
    )


class _TooLong(NamedTuple):
    """An example longer than a row."""

    side: str  # training | validation
    prompt: str  # its first words
    tokens: int

    def left_out(self, width: int) -> LeftOut:
        return LeftOut(
            self.prompt, f"{self.side} example of {self.tokens} tokens, a row has {width}"
        )


def _check(spec: TaskSpec) -> None:
    """Raise UserError for values that cannot be."""
    if not _NAME.fullmatch(spec.name):
        raise UserError(
            f"task.name={spec.name!r}: names rows of the record; use letters, digits and ._+-"
        )
    row(COUNTED, spec.counted, "task.counted")
    for field, above in (("validation_fraction", True), ("max_overlong", False)):
        value = getattr(spec, field)
        if not 0 <= value <= 1 or (above and value in (0, 1)):
            between = "between 0 and 1" if above else "from 0 to 1"
            raise UserError(f"task.{field}={value}: must be {between}; e.g. 0.1")


def _check_length(spec: TaskSpec, width: int, too_long: list[_TooLong], of: int) -> None:
    """Raise UserError when more of the `of` examples than allowed are longer than a row."""
    share = len(too_long) / max(of, 1)
    if share <= spec.max_overlong:
        return
    longest = max(each.tokens for each in too_long)
    first = "; ".join(repr(each.prompt) for each in too_long[:3])
    raise UserError(
        f"task.max_overlong={spec.max_overlong:g}: {len(too_long):,} of {of:,} examples "
        f"({share:.1%}) of task {spec.name} are longer than a row of {width} tokens, the longest "
        f"has {longest:,} (the first: {first}); set seq_len to {longest - 1} to train on all, or "
        f"max_overlong to {math.ceil(share * 1000) / 1000:g} to leave them out"
    )


def _fingerprint(tokenizer_hash: str, sides: list[Tokenised]) -> str:
    digest = hashlib.sha256(tokenizer_hash.encode())
    for side in sides:
        digest.update(side.ids.astype("<i4").tobytes() + side.ends.astype("<i8").tobytes())
    return digest.hexdigest()[:16]
