"""What is made when it is first asked for, and once, by whichever thread asks first."""

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any


class Once:
    """Values by key. A thread that asks for one that another makes waits for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: dict[Hashable, Future] = {}

    def __call__(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """The value of `key`: that of `make`, which runs if nobody has made or is making it.

        What `make` raises is raised here and to those who wait; who asks later tries again.
        """
        with self._lock:
            found = self._made.get(key)
            ours = found is None
            if found is None:
                found = self._made[key] = Future()
        if ours:
            try:
                found.set_result(make())
            except BaseException as error:
                with self._lock:
                    del self._made[key]
                found.set_exception(error)
        return found.result()
