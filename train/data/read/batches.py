"""Batches of training text, as a Grain source, and the windows that evaluation reads."""

from collections.abc import Iterator

import grain
import numpy as np

from stepladder.configs.core.errors import UserError
from stepladder.train.data.read.mixture import Mixture, Seen, Weights, check_recipe, windows
from stepladder.train.data.read.store import Store

GROUP_TOKENS = 1 << 14  # in an element, at most, unless one batch is larger


class BatchSource:
    """The batches of a run as a sequence: element g holds `group` steps from step g * group on.

    An element is int32 [group, len(rows), seq_len + 1]: several whole batches, because the cost is
    per element, not per token (docs/benchmarks/data.md). Row r of step s is example s * batch_size
    + r: the stream depends on (store, weights, seq_len, batch_size, seed, seen) alone. `rows`,
    those that the devices of a process hold, only pick from it; by default all.
    """

    def __init__(
        self,
        store: Store,
        weights: Weights,
        seq_len: int,
        batch_size: int,
        seed: int,
        rows: np.ndarray | None = None,
        seen: Seen = (),
    ) -> None:
        """Raises UserError for weights that do not fit the store, for a domain shorter than a
        window, and for rows that a batch does not have.
        """
        if seq_len < 1 or batch_size < 1:
            raise UserError(f"seq_len={seq_len}, batch_size={batch_size}: both must be at least 1")
        self.rows = np.arange(batch_size) if rows is None else np.asarray(rows)
        if not (len(self.rows) and self.rows.min() >= 0 and self.rows.max() < batch_size):
            raise UserError(
                f"rows={self.rows.tolist()}: must be some of 0 to {batch_size - 1}, the rows of a "
                "batch"
            )
        check_recipe(weights, store.domains)
        self.mixture = Mixture(weights, windows(store, weights, seq_len), seed, seen)
        self.store, self.seq_len, self.batch_size = store, seq_len, batch_size
        self.group = max(1, GROUP_TOKENS // (batch_size * seq_len))

    def __len__(self) -> int:
        return 1 << 40  # epochs go on; a run checks max_epochs beforehand

    def __getitem__(self, index: int) -> np.ndarray:
        return self.steps(int(index) * self.group, self.group)

    def steps(self, start: int, count: int) -> np.ndarray:
        """The rows of steps start..start + count - 1: int32 [count, len(rows), seq_len + 1]."""
        number = self.row_numbers(start, count)
        return self.examples(number.ravel()).reshape(*number.shape, self.seq_len + 1)

    def row_numbers(self, start: int, count: int) -> np.ndarray:
        """The numbers of those rows, counted over the batches from step 0: int64 [count,
        len(rows)].
        """
        return np.arange(start, start + count)[:, None] * self.batch_size + self.rows

    def examples(self, numbers: np.ndarray) -> np.ndarray:
        """The examples of these numbers, which are near each other: int32 [n, seq_len + 1]."""
        out = np.empty((len(numbers), self.seq_len + 1), np.int32)
        if not len(numbers):
            return out
        first = int(numbers.min())
        drawn = self.mixture.rows(first, int(numbers.max()) + 1)
        domain, window = (part[numbers - first] for part in drawn)
        for d in np.unique(domain):
            at = np.flatnonzero(domain == d)
            out[at] = self._views[d][window[at] * self.seq_len]
        return out

    def domain_of(self, example: int) -> str:
        """The domain of example i."""
        return self.mixture.domains[int(self.mixture.rows(example, example + 1)[0][0])]

    def window_of(self, example: int) -> int:
        """The window of example i within its domain: tokens window * seq_len onwards."""
        return int(self.mixture.rows(example, example + 1)[1][0])

    @property
    def _views(self) -> list[np.ndarray]:
        """Every run of seq_len + 1 tokens of each domain: views [tokens - seq_len, seq_len + 1].

        The files are mapped when first asked for.
        """
        if "_opened" not in self.__dict__:
            width = self.seq_len + 1
            self._opened = [
                np.lib.stride_tricks.sliding_window_view(self.store.tokens(d, "train"), width)
                for d in self.mixture.domains
            ]
        return self._opened

    def __getstate__(self) -> dict:
        return {k: v for k, v in self.__dict__.items() if k != "_opened"}


def batches(
    source: BatchSource, start_step: int, stop_step: int, prefetch: int = 16, threads: int = 1
) -> Iterator[np.ndarray]:
    """Batches of steps start_step..stop_step-1: int32 [rows of the source, seq_len + 1] each.

    Threads of this process read up to `prefetch` steps ahead; they change neither the batches nor
    their order. The step is the only cursor.
    """
    if not 0 <= start_step <= stop_step:
        raise UserError(f"start_step={start_step}: must be from 0 to stop_step={stop_step}")
    return _batches(source, start_step, stop_step, -(-prefetch // source.group), threads)


def _batches(
    source: BatchSource, start: int, stop: int, prefetch: int, threads: int
) -> Iterator[np.ndarray]:
    if start == stop:
        return
    dataset = grain.MapDataset.source(source)[start // source.group : -(-stop // source.group)]
    elements = dataset.to_iter_dataset(
        grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(prefetch, threads))
    )
    for element, steps in enumerate(elements, start // source.group):
        first = element * source.group
        yield from steps[max(start - first, 0) : stop - first]


def evaluation_windows(store: Store, domain: str, seq_len: int, count: int) -> np.ndarray:
    """Evenly spaced windows of a domain's validation split: int32 [at most count, seq_len + 1].

    The same whenever asked. No token is predicted twice (the last token of a window may be the
    first of the next). Raises UserError when there is not one window.
    """
    have = (store.count(domain, "validation") - 1) // seq_len
    if have < 1:
        tokens = store.count(domain, "validation")
        raise UserError(
            f"seq_len={seq_len}: domain {domain} has {tokens:,} validation tokens, less than one "
            "window; raise validation_fraction"
        )
    chosen = np.arange(min(count, have), dtype=np.int64) * have // min(count, have)
    view = np.lib.stride_tricks.sliding_window_view(store.tokens(domain, "validation"), seq_len + 1)
    return view[chosen * seq_len].astype(np.int32)
