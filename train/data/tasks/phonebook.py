"""The phonebook toy: names with telephone numbers, in books.

The behaviour it is to show is reported in arXiv:2603.19149 (facts of a book are learnt by a model
that is specialised on it); names, numbers and their format are our choice.
"""

import re

import numpy as np

from stepladder.configs.core.errors import UserError
from stepladder.train.data.read.permute import permute
from stepladder.train.data.tasks.examples import Example, Found
from stepladder.train.data.words import mix

MOST = 1_000_000  # records of all books
_SYLLABLES = [c + v for c in "bcdfghjklmnprstvwxyz" for v in "aeiou"]
_NAMES = len(_SYLLABLES) ** 4  # two syllables of a first name, two of a last one
_NUMBERS = 10**6
_HOW = "write BOOK/BOOKS*RECORDS, e.g. phonebook:1/4*500 or phonebook:all/4*500, and @SEED"
_PATTERN = re.compile(
    r"(?P<book>all|[0-9]{1,6})/(?P<books>[0-9]{1,6})"
    r"\*(?P<records>[0-9]{1,7})(?:@(?P<seed>[0-9]{1,9}))?"
)


def load(argument: str) -> Found:
    """The records of one book, from 1, or of all: "Tama Rilo:" -> " 042137".

    No name is twice in the books of one size and seed. The numbers are random, so that none can be
    derived from others: the task is about recall, and its validation examples are those it trains
    on. Raises UserError for an argument that cannot be.
    """
    field = f"task.source=phonebook:{argument}"
    found = _PATTERN.fullmatch(argument)
    if not found:
        raise UserError(f"{field}: {_HOW}")
    books, records = int(found["books"]), int(found["records"])
    if not (books and records and books * records <= MOST):
        raise UserError(
            f"{field}: {books} books of {records:,} records; have at least one of each, and at "
            f"most {MOST:,} records in all"
        )
    numbers = np.arange(books * records)
    if found["book"] != "all":
        book = int(found["book"])
        if not 1 <= book <= books:
            raise UserError(f"{field}: there is no book {book}; use 1 to {books}, or all")
        numbers = numbers[(book - 1) * records : book * records]
    return Found(_records(numbers, int(found["seed"] or 0)), recall=True)


def _records(number: np.ndarray, seed: int) -> list[Example]:
    """Those of the given numbers, int64 [n], over all books."""
    key = mix(np.array([seed], np.uint64) + np.uint64(1))
    names = permute(number, _NAMES, np.repeat(key, len(number)))
    phones = mix(mix(number.astype(np.uint64) + key)) % np.uint64(_NUMBERS)
    return [
        Example(f"{_name(int(name))}:", f" {int(phone):06d}") for name, phone in zip(names, phones)
    ]


def _name(number: int) -> str:
    parts = []
    for _ in range(4):
        number, syllable = divmod(number, len(_SYLLABLES))
        parts.append(_SYLLABLES[syllable])
    return f"{''.join(parts[:2]).title()} {''.join(parts[2:]).title()}"
