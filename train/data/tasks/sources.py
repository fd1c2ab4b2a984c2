"""Where the examples of a task come from: one table, a row a kind of source."""

from collections.abc import Callable
from dataclasses import dataclass

from stepladder.configs.core.errors import UserError, nearest
from stepladder.train.data.tasks import jsonl, phonebook, procedural, questions
from stepladder.train.data.tasks.examples import Found


@dataclass(frozen=True)
class Source:
    """A kind of source.

    Attributes:
        load: its examples, of the argument that stands behind the colon; raises UserError.
        argument: how that is written.
        about: what it is.
    """

    load: Callable[[str], Found]
    argument: str
    about: str


SOURCES: dict[str, Source] = {
    "jsonl": Source(jsonl.load, "PATH", "rows with prompt and completion; a file or a glob"),
    "modular": Source(procedural.modular, "P", "a + b modulo P, all P * P pairs"),
    "phonebook": Source(
        phonebook.load,
        "BOOK/BOOKS*RECORDS[@SEED]",
        "names with numbers, of one book or of all; evaluated on what it trains on",
    ),
    "questions": Source(questions.load, "NAME", "a public set of questions"),
    "reverse": Source(procedural.reverse, "LENGTH[*EXAMPLES]", "letters, backwards"),
    "sums": Source(procedural.sums, "DIGITS[*EXAMPLES]", "the sum of two numbers"),
}


def find(source: str) -> Found:
    """The examples that "KIND:ARGUMENT" names. Raises UserError for a kind that is not known and an
    argument that cannot be.
    """
    kind, colon, argument = source.partition(":")
    if kind not in SOURCES:
        raise UserError(f"task.source={source!r}: unknown kind {kind!r}; {nearest(kind, SOURCES)}")
    if not (colon and argument):
        row = SOURCES[kind]
        raise UserError(
            f"task.source={source!r}: says not which; write {kind}:{row.argument} ({row.about})"
        )
    return SOURCES[kind].load(argument)
