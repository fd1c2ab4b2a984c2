"""The phonebook toy as text, for models that train on domains: a folder of pages a book.

A page has a few records in random order, and every record is on many pages: what is held out are
pages, not records, so that the loss on them tells what a model remembers. Names, numbers and format
are our choice (phonebook.py).
"""

import json
from pathlib import Path

import numpy as np

from stepladder.configs.core.errors import UserError
from stepladder.configs.core.files import new_folder
from stepladder.train.data.tasks import phonebook

NAME = "phonebook{}"
RECORDS_A_PAGE = 8


def write_books(out: Path, books: int, records: int, copies: int, seed: int = 0) -> list[str]:
    """Write out/phonebook1/pages.jsonl.zst and so on; returns the names of the folders.

    Args:
        out: a new folder; it appears when all is written.
        books: how many, without a record in common.
        records: names with a number, in a book.
        copies: on how many pages every record is.
        seed: of names, numbers and the order.

    Raises:
        UserError: for a number that is too small or too large, and an `out` that is there.
    """
    for name, value, least in (
        ("books", books, 2),
        ("records", records, RECORDS_A_PAGE),
        ("copies", copies, 2),
    ):
        if value < least:
            raise UserError(f"{name}={value}: too few; use {least} or more")
    names = [NAME.format(book + 1) for book in range(books)]
    with new_folder(out) as folder:
        for book, name in enumerate(names):
            examples = phonebook.load(f"{book + 1}/{books}*{records}@{seed}").training
            lines = [f"{example.prompt}{example.completion}\n" for example in examples]
            rng = np.random.default_rng([seed, book])
            (folder / name).mkdir()
            _write(folder / name / "pages.jsonl.zst", _pages(lines, copies, rng))
    return names


def _pages(lines: list[str], copies: int, rng: np.random.Generator) -> list[str]:
    """Every line on `copies` pages, each in another company."""
    pages = []
    for _ in range(copies):
        order = rng.permutation(len(lines))
        for begin in range(0, len(order), RECORDS_A_PAGE):
            pages.append("".join(lines[i] for i in order[begin : begin + RECORDS_A_PAGE]))
    return pages


def _write(path: Path, pages: list[str]) -> None:
    import zstandard

    rows = "".join(json.dumps({"text": page}) + "\n" for page in pages)
    path.write_bytes(zstandard.ZstdCompressor().compress(rows.encode()))
