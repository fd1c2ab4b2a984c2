"""The procedural domain: worked sums of three kinds, any amount; its loss has a known floor.

An item (operation and operands) belongs to one group by its hash, a document holds items of one
group: no sum stands on both sides of the split.
"""

import random
from collections.abc import Callable, Iterator

from stepladder.train.data.prepare.documents import Document

GROUPS = 200
_ITEMS = 24  # a document
_DEFAULT_BYTES = 4_000_000  # when there is no cap

OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
}


def group_of(a: int, op: str, b: int) -> int:
    """The group of an item, 0 to GROUPS - 1."""
    return (a * 7919 + b * 104_729 + ord(op) * 1_299_709) % 1_000_003 % GROUPS


def documents(cap_bytes: float, seed: int) -> Iterator[Document]:
    """Documents of 24 sums, e.g. `417 + 86 = 503`, until `cap_bytes` (4 MB when 0) are reached."""
    rng = random.Random(f"arithmetic {seed}")
    waiting: dict[int, list[str]] = {g: [] for g in range(GROUPS)}
    total, number = 0, 0
    while total < (cap_bytes or _DEFAULT_BYTES):
        op = rng.choice("+-*")
        digits = rng.choice((2, 3)) if op == "*" else rng.choice((3, 4, 5))
        a, b = rng.randrange(10 ** (digits - 1), 10**digits), rng.randrange(10**digits)
        group = group_of(a, op, b)
        waiting[group].append(f"{a} {op} {b} = {OPERATIONS[op](a, b)}\n")
        if len(waiting[group]) == _ITEMS:
            text = "".join(waiting[group])
            waiting[group] = []
            yield Document(text, f"arithmetic/{group}", f"arithmetic/{number}")
            total, number = total + len(text), number + 1
