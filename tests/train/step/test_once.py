"""Made once, whoever asks; a failure is told to all who wait, and tried again later."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from stepladder.train.step.once import Once


def test_threads_that_ask_together_get_one_value():
    once, made, asked = Once(), [], threading.Barrier(8)

    def make() -> object:
        made.append(object())
        return made[-1]

    def ask(_: int) -> object:
        asked.wait()
        return once("key", make)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, range(8)))
    assert len(made) == 1 and set(found) == set(made)
    assert once("other", lambda: 1) == 1 and len(made) == 1


def test_one_key_does_not_wait_for_another():
    once, go = Once(), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(once, "slow", go.wait)
        assert once("quick", lambda: 1) == 1
        go.set()
        assert slow.result() is True


def test_a_failure_reaches_all_who_wait_and_is_tried_again():
    once, go = Once(), threading.Event()

    def fail() -> None:
        go.wait()
        raise ValueError("this once")

    with ThreadPoolExecutor(2) as pool:
        asking = [pool.submit(once, "key", fail) for _ in range(2)]
        go.set()
        for found in asking:
            with pytest.raises(ValueError, match="this once"):
                found.result()
    assert once("key", lambda: 2) == 2
