"""The one exception for what a user can mend."""

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

Row = TypeVar("Row")


class UserError(Exception):
    """What the user can mend, in one line that names the field, the value and the fix.

    The command prints it and exits with status 1.
    """


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint like "did you mean 'x'?", or the known names when nothing is near."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    more = ", ..." if len(known) > 20 else ""
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known[:20])}{more}"


def row(table: Mapping[str, Row], name: str, field: str) -> Row:
    """The row of a table that a config's `field` names. Raises UserError for an unknown name."""
    if name not in table:
        raise UserError(f"{field}={name!r}: unknown; {nearest(name, table)}")
    return table[name]
