"""Batches of a task, in which some rows may be replayed ones of the mixture."""

from fractions import Fraction

import numpy as np

from stepladder.configs.core.errors import UserError
from stepladder.train.data.read.batches import BatchSource
from stepladder.train.data.read.mixture import Seen, Weights
from stepladder.train.data.read.store import Store
from stepladder.train.data.tasks.task import Task

_FINEST = 1 << 20  # shares are fractions with at most this denominator


class TaskSource(BatchSource):
    """The batches of a fine-tuning run, in the form of `BatchSource`.

    Row n of the run (row r of step s is n = s * batch_size + r) is a replayed one where
    floor((n + 1) * replay) is above floor(n * replay): evenly spread, and exact for any number of
    rows. The k-th replayed row is example k of the mixture, and all of its tokens count; the others
    are the rows of the task, in order.
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
        *,
        task: Task,
        replay: float = 0.0,
    ) -> None:
        """`task` is loaded for rows of seq_len + 1 tokens. Raises UserError as `BatchSource`, and
        for a share that cannot be.
        """
        super().__init__(store, weights, seq_len, batch_size, seed, rows, seen)
        check_replay(replay)
        self.replay, self.packing = replay, task.packing(seed)

    def steps(self, start: int, count: int) -> np.ndarray:
        """The rows of steps start..start + count - 1: int32 [count, len(rows), seq_len + 1]."""
        number = self.row_numbers(start, count).ravel()
        before = replayed(number, self.replay)
        again = replayed(number + 1, self.replay) > before
        out = np.empty((len(number), self.seq_len + 1), np.int32)
        out[again] = self.examples(before[again])
        out[~again] = self.packing.rows((number - before)[~again])
        return out.reshape(count, len(self.rows), self.seq_len + 1)


def replayed(rows: np.ndarray | int, share: float) -> np.ndarray:
    """How many of the first `rows` rows are replayed ones: floor(rows * share), int64, exactly."""
    exact = Fraction(share).limit_denominator(_FINEST)
    return np.asarray(rows, np.int64) * exact.numerator // exact.denominator


def check_replay(share: float) -> None:
    """Raise UserError unless a part of the rows, or none, is replayed."""
    if not 0 <= share < 1:
        raise UserError(
            f"data.replay={share}: must be 0 or more and below 1: the share of rows that are of "
            "the mixture; e.g. 0.1"
        )
