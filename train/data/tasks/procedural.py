"""Examples made by a rule: sums, modular addition, reversal.

They are enumerated: a source is a fixed list of different prompts, the same on every machine.
"""

import re
from collections.abc import Callable

import numpy as np

from stepladder.configs.core.errors import UserError
from stepladder.train.data.read.permute import permute
from stepladder.train.data.tasks.examples import Example, Found

DEFAULT = 10_000  # examples, where the source does not say and there are so many
MOST = 1_000_000
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def sums(argument: str) -> Found:
    """The sum of two numbers of at most DIGITS digits: 12+7= -> 19."""
    digits, count = _size("sums", argument, 8, lambda digits: 10 ** (2 * digits))
    pairs = (divmod(int(i), 10**digits) for i in _drawn(count, 10 ** (2 * digits)))
    return Found([Example(f"{a}+{b}=", str(a + b)) for a, b in pairs])


def modular(argument: str) -> Found:
    """a + b modulo P, all P * P pairs, as in arXiv:2201.02177: 90+10= -> 3 for P = 97."""
    if not re.fullmatch("[0-9]{1,4}", argument) or not 2 <= int(argument) <= 1000:
        raise UserError(
            f"task.source=modular:{argument}: the modulus must be from 2 to 1000; e.g. modular:97"
        )
    p = int(argument)
    return Found([Example(f"{a}+{b}=", str((a + b) % p)) for a in range(p) for b in range(p)])


def reverse(argument: str) -> Found:
    """LENGTH letters from a to z, backwards: abc= -> cba."""
    length, count = _size("reverse", argument, 12, lambda length: len(_LETTERS) ** length)
    words = (_word(int(i), length) for i in _drawn(count, len(_LETTERS) ** length))
    return Found([Example(f"{word}=", word[::-1]) for word in words])


def _size(kind: str, argument: str, most: int, total: Callable[[int], int]) -> tuple[int, int]:
    """(size of a problem, number of examples) of an argument SIZE or SIZE*EXAMPLES."""
    field = f"task.source={kind}:{argument}"
    found = re.fullmatch(r"([0-9]{1,2})(?:\*([0-9]{1,9}))?", argument)
    if not found or not 1 <= int(found[1]) <= most:
        raise UserError(
            f"{field}: the size must be from 1 to {most}; write {kind}:3, or {kind}:3*5000 for "
            "the number of examples"
        )
    size = int(found[1])
    there_are = min(total(size), MOST)
    count = int(found[2]) if found[2] else min(DEFAULT, there_are)
    if not 2 <= count <= there_are:
        raise UserError(
            f"{field}: the number of examples must be from 2 to {there_are:,}; e.g. {kind}:{size}"
        )
    return size, count


def _drawn(count: int, total: int) -> np.ndarray:
    """Different numbers below `total`, int64 [count], the same whenever asked."""
    return permute(np.arange(count), total, np.zeros(count, np.uint64))


def _word(number: int, length: int) -> str:
    letters = []
    for _ in range(length):
        number, letter = divmod(number, len(_LETTERS))
        letters.append(_LETTERS[letter])
    return "".join(letters)
