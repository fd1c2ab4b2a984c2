"""What a study could not say, as the last lines that its command prints."""

from collections.abc import Sequence

MOST = 20  # lines; the page has all


def absent_lines(missing: Sequence[str]) -> list[str]:
    """A line for each of the first `MOST`, and one that counts the others."""
    lines = [f"not here: {text}" for text in missing[:MOST]]
    more = len(missing) - MOST
    return [*lines, f"not here: {more} more (all listed in the report)"] if more > 0 else lines
