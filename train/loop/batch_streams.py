"""The batches of a pack: one stream for all members with the same data and the same timeline, and
the dispatches that they make.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from stepladder.train.data.read.batches import batches
from stepladder.train.loop.member import Member, timeline
from stepladder.train.step.executable import Executable


@dataclass(frozen=True)
class Dispatch:
    """Some steps in one call of the pack's executable.

    members: those that take part, each by its own `dispatch_steps`.
    tokens: of every stream a batch [rows of this process, sequence + 1] for each step, on the host.
    batch: arguments of the pack's `step` after state and hyperparameters, on the devices.
    """

    members: tuple[Member, ...]
    tokens: tuple[list[np.ndarray], ...]
    batch: tuple


class BatchStreams:
    """Reads every stream of a pack once.

    Members of a stream that resume from different checkpoints take turns: those that are behind go
    on alone until they have caught up with the next.
    """

    def __init__(self, members: Sequence[Member], pack: Executable):
        self.members, self.pack = members, pack
        keys = [timeline(member.spec) for member in members]
        names = list(dict.fromkeys(keys))
        self.stream_of = [names.index(key) for key in keys]  # by slot
        self._streams = [
            _Stream([m for m, key in zip(members, keys) if key == name], pack.batch_rows)
            for name in names
        ]

    def next_dispatch(self) -> Dispatch | None:
        """The next dispatch of all members that are not finished; None when all are."""
        takes_part, tokens = [], []
        for stream in self._streams:
            unfinished = [member for member in stream.members if not member.finished]
            step = min((member.step for member in unfinished), default=0)
            behind = [member for member in unfinished if member.step == step]
            takes_part += behind
            # equal timelines at an equal step have dispatches of equal length
            tokens.append(stream.read(step, behind[0].dispatch_steps) if behind else [])
        if not takes_part:
            return None
        return self._dispatch(takes_part, tuple(tokens))

    def without_diverged(self, dispatch: Dispatch | None) -> Dispatch | None:
        """A dispatch whose members may have diverged since it was read: the same without those, or
        the one after when none is left.
        """
        if dispatch is None or not any(member.divergence for member in dispatch.members):
            return dispatch
        left = [member for member in dispatch.members if not member.divergence]
        return self._dispatch(left, dispatch.tokens) if left else self.next_dispatch()

    def _dispatch(self, takes_part: list[Member], tokens: tuple[list[np.ndarray], ...]) -> Dispatch:
        counts = [0] * len(self.members)
        for member in takes_part:
            counts[member.slot] = member.dispatch_steps
        in_order = tuple(sorted(takes_part, key=lambda member: member.slot))
        return Dispatch(in_order, tokens, self.pack.batch(counts, self.stream_of, tokens))


class _Stream:
    """One order of batches, for the members that share it; `rows` are read by this process."""

    def __init__(self, members: Sequence[Member], rows: np.ndarray):
        first, start = members[0], members[0].spec.stream_start
        self.members = members
        self.step = min(member.step for member in members)  # of the batch that is read next
        self._batches: Iterator[np.ndarray] = batches(
            first.source(rows), self.step - start, first.spec.steps - start
        )

    def read(self, step: int, count: int) -> list[np.ndarray]:
        """The batches of `count` steps after `step`; batches that only diverged members
        had to take are skipped.
        """
        assert step >= self.step, "a stream is read once"
        for _ in range(step - self.step):
            next(self._batches)
        self.step = step + count
        return [next(self._batches) for _ in range(count)]
