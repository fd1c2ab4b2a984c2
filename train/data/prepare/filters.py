"""Named filter steps: text -> text, or None to drop the document.

Each step is pure and looks at one document; `CorpusSpec.filters` names them in the order in which
they apply. Steps that spoil text on purpose (controls of a study of recipes) draw from the
document's own hash: the same text is spoilt the same way everywhere.
"""

import hashlib
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence

from stepladder.configs.core.errors import UserError, nearest

Step = Callable[[str], str | None]

_WORD = re.compile(r"\w+")


def min_length(text: str) -> str | None:
    """Drop documents under 128 characters."""
    return text if len(text.strip()) >= 128 else None


def max_line_length(text: str) -> str | None:
    """Drop documents with a line above 2,000 characters (minified code, encoded data)."""
    return text if max(map(len, text.splitlines()), default=0) <= 2000 else None


def printable(text: str) -> str | None:
    """Drop documents with more than 2 % control or replacement characters."""
    bad = len(text) - sum(map(len, re.findall(r"[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffd]+", text)))
    return text if bad <= 0.02 * len(text) else None


def mostly_letters(text: str) -> str | None:
    """Drop documents whose visible characters are less than 50 % letters (number tables)."""
    visible = sum(not c.isspace() for c in text)
    return text if sum(map(str.isalpha, text)) >= 0.5 * visible else None


def no_repeated_lines(text: str) -> str | None:
    """Gopher's rule: drop documents with more than 30 % of their lines copies of earlier ones."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return text if len(lines) - len(set(lines)) <= 0.3 * len(lines) else None


def no_repeated_words(text: str) -> str | None:
    """Gopher's rule, shortened: drop documents that repeat one run of four words.

    It may cover at most 20 % of the words.
    """
    words = _WORD.findall(text)
    if len(words) < 40:
        return text
    top = Counter(zip(words, words[1:], words[2:], words[3:])).most_common(1)[0][1]
    return text if 4 * top <= 0.2 * len(words) else None


def word_length(text: str) -> str | None:
    """Gopher's rule: drop documents whose mean word length is outside 3 to 10 characters."""
    words = _WORD.findall(text)
    return text if words and 3 <= sum(map(len, words)) / len(words) <= 10 else None


def stop_words(text: str) -> str | None:
    """Gopher's rule: drop documents without two different common words.

    The words are the, be, to, of, and, that, have, with.
    """
    return text if len(_STOP_WORDS & set(_WORD.findall(text.lower()))) >= 2 else None


_STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))


def strip_trailing(text: str) -> str | None:
    """Remove blanks at line ends and blank lines at both ends of the document."""
    return re.sub(r"[ \t\r\f\v]+(?=\n|\Z)", "", text).strip("\n") + "\n" if text.strip() else None


def collapse_blank_lines(text: str) -> str | None:
    """Write runs of blank lines as one."""
    return re.sub(r"\n(?:[ \t]*\n){2,}", "\n\n", text)


def lower_case(text: str) -> str | None:
    """Lower-case everything."""
    return text.lower()


def cut_500(text: str) -> str | None:
    """Keep the first 500 characters."""
    return text[:500]


def noise_5(text: str) -> str | None:
    """Replace 5 % of the characters by random printable ASCII."""
    rng, characters = _random(text), list(text)
    for i in range(len(characters)):
        if rng.random() < 0.05:
            characters[i] = chr(rng.randrange(32, 127))
    return "".join(characters)


def shuffle_half(text: str) -> str | None:
    """Shuffle the words of every second document (by hash).

    What stands between the words stays in place.
    """
    rng = _random(text)
    if rng.random() < 0.5:
        return text
    words = _WORD.findall(text)
    rng.shuffle(words)
    following = iter(words)
    return _WORD.sub(lambda match: next(following), text)


def repeat_8(text: str) -> str | None:
    """Keep one document in eight (by hash), eight times over."""
    return text * 8 if _random(text).random() < 1 / 8 else None


def repeat_some(text: str) -> str | None:
    """Repeat documents unevenly, as a crawl does.

    By hash a quarter is kept once, an eighth twice, and so on to 8 times; the others are dropped.
    """
    draw = _random(text).random()
    times = next(
        (t for t, below in ((1, 8 / 32), (2, 12 / 32), (4, 14 / 32), (8, 15 / 32)) if draw < below),
        0,
    )
    return text * times if times else None


def _random(text: str) -> random.Random:
    return random.Random(hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest())


FILTERS: dict[str, Step] = {
    step.__name__: step
    for step in (
        min_length,
        max_line_length,
        printable,
        mostly_letters,
        no_repeated_lines,
        no_repeated_words,
        word_length,
        stop_words,
        strip_trailing,
        collapse_blank_lines,
        lower_case,
        cut_500,
        noise_5,
        shuffle_half,
        repeat_8,
        repeat_some,
    )
}


def check(names: Sequence[str]) -> None:
    """Raise UserError when a name is not in the table."""
    for name in names:
        if name not in FILTERS:
            raise UserError(f"filters={name}: no such filter; {nearest(name, FILTERS)}")


def apply(names: Sequence[str], text: str) -> tuple[str | None, str]:
    """Run the steps in order; returns (text, "") or (None, name of the step that dropped it)."""
    for name in names:
        result = FILTERS[name](text)
        if result is None:
            return None, name
        text = result
    return text, ""
