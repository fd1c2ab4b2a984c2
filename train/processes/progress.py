"""Progress bars on stderr; nothing where that is no terminal.

Libraries that draw are imported when a bar is drawn.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

T = TypeVar("T")


@contextmanager
def bars(show: bool, unit: str = "items") -> Iterator["Progress"]:
    """A set of bars, empty at first; `add_task(name, total=n, note="")` adds one.

    `unit` is "items" or "bytes". A task's `note` is the text behind its bar.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description:32}"),
        BarColumn(),
        DownloadColumn() if unit == "bytes" else MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        disable=not (show and console.is_terminal),
    ) as progress:
        yield progress


@contextmanager
def bar_of_bytes(title: str, total: float | None, show: bool) -> Iterator[Callable[[float], None]]:
    """One bar of `total` bytes (None: unknown); yields a function that advances it."""
    if not (show and sys.stderr.isatty()):
        yield lambda amount: None
        return
    with bars(show, "bytes") as progress:
        task = progress.add_task(title, total=total, note="")
        yield lambda amount: progress.advance(task, amount)


def track(items: Sequence[T], title: str, show: bool) -> Iterator[T]:
    """The items, one bar over all of them."""
    with bars(show) as progress:
        task = progress.add_task(title, total=len(items), note="")
        for item in items:
            yield item
            progress.advance(task)
