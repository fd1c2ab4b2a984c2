"""Examples behind each other in rows of a batch, without splitting one.

An example is its prompt's tokens, its completion's, and the end of a document, out of which
attention does not look (ModelSpec.document_end): examples of a row do not see each other. Prompt
and completion are tokenised apart, so that no token belongs to both. Tokens whose prediction does
not count are marked: -1 - t stands for token t (ModelSpec.marked).

Row i is a pure function of (examples, width, seed, i), as the examples of the mixture are
(train/data/read/mixture.py): what is kept from call to call only saves time.
"""

import bisect
import functools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from stepladder.train.data.read.permute import permute
from stepladder.train.data.tasks.examples import Example
from stepladder.train.data.tokenizer import Tokenizer
from stepladder.train.data.words import mix


def _mark_prompt(prompt: np.ndarray) -> np.ndarray:
    return ~prompt


def _mark_first(prompt: np.ndarray) -> np.ndarray:
    return np.concatenate([~prompt[:1], prompt[1:]])


# Value of TaskSpec.counted -> a prompt's tokens with marks; the completion and the end count. The
# first token of an example never does: it would be predicted from the example before, if any.
COUNTED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "all": _mark_first,
    "completion": _mark_prompt,
}


@dataclass(frozen=True, eq=False)
class Tokenised:
    """Examples as tokens, one behind the other."""

    ids: np.ndarray  # int32 [tokens], with marks
    ends: np.ndarray  # int64 [examples]: where each one ends in `ids`

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each example, int64 [examples]."""
        return np.diff(self.ends, prepend=0)

    def __getitem__(self, example: int) -> np.ndarray:
        start = self.ends[example - 1] if example else 0
        return self.ids[start : self.ends[example]]

    def up_to(self, width: int) -> "Tokenised":
        """Those of at most `width` tokens."""
        lengths = self.lengths
        fits = lengths <= width
        return Tokenised(self.ids[np.repeat(fits, lengths)], np.cumsum(lengths[fits]))


def tokenise(examples: Sequence[Example], tokenizer: Tokenizer, counted: str) -> Tokenised:
    """The examples' tokens with their marks; `counted` is a key of COUNTED."""
    prompts = tokenizer.encode_batch([example.prompt for example in examples])
    completions = tokenizer.encode_batch([example.completion for example in examples])
    end, mark = np.array([tokenizer.eos], np.int32), COUNTED[counted]
    parts = [
        np.concatenate([mark(prompt), completion, end])
        for prompt, completion in zip(prompts, completions)
    ]
    ids = np.concatenate(parts) if parts else np.empty(0, np.int32)
    return Tokenised(ids.astype(np.int32), np.cumsum([len(part) for part in parts], dtype=np.int64))


@dataclass(frozen=True, eq=False)
class Epoch:
    """Every example once: row r holds examples order[first[r] : first[r + 1]]."""

    order: np.ndarray  # int64 [examples]
    first: np.ndarray  # int64 [rows + 1]

    def __len__(self) -> int:
        return len(self.first) - 1


def pack(lengths: np.ndarray, width: int, seed: int, epoch: int) -> Epoch:
    """Next fit in a shuffled order: an example that does not fit behind the others begins a row.

    Args:
        lengths: of the examples, in tokens, int64 [examples]; none is above `width`.
        width: tokens of a row.
        seed: of the order.
        epoch: its number; every epoch has an order of its own.
    """
    n = len(lengths)
    key = mix(mix(np.array([seed % (1 << 63)], np.uint64)) + np.uint64(epoch))
    order = permute(np.arange(n), n, np.repeat(key, n))
    ends = np.cumsum(lengths[order])
    before = ends - lengths[order]
    following = np.searchsorted(ends, before + width, side="right").tolist()
    first = [0]
    while first[-1] < n:
        first.append(following[first[-1]])
    return Epoch(order, np.array(first))


class Packing:
    """The rows of a task, epoch after epoch: row i of the first epoch, then of the second, ..."""

    def __init__(self, examples: Tokenised, width: int, end: int, seed: int) -> None:
        """`end` is the token that ends a document, which also fills a row up, marked."""
        self.examples, self.width, self.end, self.seed = examples, width, end, seed
        self._epoch = functools.lru_cache(maxsize=4)(
            functools.partial(pack, examples.lengths, width, seed)
        )
        self._starts = [0]  # number of the first row of every epoch that was looked at
        self._lock = threading.Lock()

    def __reduce__(self):
        return Packing, (self.examples, self.width, self.end, self.seed)

    def rows(self, numbers: np.ndarray) -> np.ndarray:
        """The rows of these numbers: int32 [n, width]."""
        out = np.full((len(numbers), self.width), ~self.end, np.int32)
        for row, number in zip(out, numbers.tolist()):
            ids = np.concatenate([self.examples[int(e)] for e in self.examples_of(number)])
            row[: len(ids)] = ids
        return out

    def examples_of(self, number: int) -> np.ndarray:
        """The examples in a row, by their numbers, in their order: int64 [n]."""
        epoch, row = self.place(number)
        found = self._epoch(epoch)
        return found.order[found.first[row] : found.first[row + 1]]

    def place(self, number: int) -> tuple[int, int]:
        """(epoch, row in it) of a row."""
        with self._lock:  # several threads may read
            while self._starts[-1] <= number:
                epoch = len(self._starts) - 1
                self._starts.append(self._starts[-1] + len(self._epoch(epoch)))
            epoch = bisect.bisect_right(self._starts, number) - 1
            return epoch, number - self._starts[epoch]

    def rows_in(self, epoch: int) -> int:
        """How many rows an epoch has; they differ by few, for the order decides what fits."""
        return len(self._epoch(epoch))
