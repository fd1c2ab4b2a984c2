"""Before jax forms a group, its processes meet at the coordinator's address: each connects to
process 0 and keeps the connection.

jax's own connect waits for a process that has died as long as for one that is late. Here a
connection that closes is a process that is gone, and a process that has been told to stop says so:
everyone learns it within a second. Only a process that never comes is waited for. One JSON object a
line: a process says {"process": 1, "stop": false}; process 0 answers {"status": 0} (go on) or
{"status": 143, "why": ...}.
"""

import contextlib
import json
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

POLL = 0.2  # seconds between looks at whether this process has been told to stop
FAREWELL = 8.0  # seconds for which a process that stops waits to tell the others
LOST = 143
AGAIN = "repeat the command to resume"


@dataclass(frozen=True)
class Verdict:
    """Whether to form the group: status 0, or the exit status of all processes and why."""

    status: int = 0
    why: str = ""


def meet(
    coordinator: str, processes: int, process: int, timeout: float, stopping: Callable[[], bool]
) -> Verdict | None:
    """Wait until all `processes` are there.

    None after `timeout` seconds; OSError when process 0 cannot listen at `coordinator`.
    """
    host, _, port = coordinator.rpartition(":")
    end = time.monotonic() + timeout
    if process:
        return _ask(host.strip("[]"), int(port), process, end, stopping)
    with _Host(int(port), processes) as host_of_all:
        return host_of_all.gather(end, stopping)


def _ask(
    host: str, port: int, process: int, end: float, stopping: Callable[[], bool]
) -> Verdict | None:
    """What process 0 says."""
    connection = _connect(host, port, end, stopping)
    if connection is None:
        return _told(process) if stopping() else None
    with connection:
        told = False
        _send(connection, process=process, stop=told)
        while time.monotonic() < end:
            if stopping() and not told:
                told, end = True, min(end, time.monotonic() + FAREWELL)
                _send(connection, process=process, stop=told)
            lines = _lines(connection)
            if lines is None:
                return Verdict(LOST, f"process 0 is lost; {AGAIN}")
            if lines:
                return Verdict(**lines[0])
    return _told(process) if told else None


def _connect(
    host: str, port: int, end: float, stopping: Callable[[], bool]
) -> socket.socket | None:
    """A connection to process 0, which may not have started; None when the time is over.

    One told to stop does not try for long.
    """
    while time.monotonic() < end:
        if stopping():
            end = min(end, time.monotonic() + FAREWELL)
        with contextlib.suppress(OSError):
            return socket.create_connection((host, port), timeout=2.0)
        time.sleep(POLL)
    return None


class _Host:
    """Process 0: listens, and answers all others at once."""

    def __init__(self, port: int, processes: int):
        both = socket.has_dualstack_ipv6()
        self.server = socket.create_server(
            ("", port),
            family=socket.AF_INET6 if both else socket.AF_INET,
            dualstack_ipv6=both,
            backlog=max(128, processes),
        )
        self.processes, self.gone = processes, 0  # how many left after they had come
        # connections that have not said which process they are
        self.strangers: set[socket.socket] = set()
        self.known: dict[int, socket.socket] = {}

    def __enter__(self) -> "_Host":
        return self

    def __exit__(self, *_) -> None:
        self.server.close()
        for connection in (*self.strangers, *self.known.values()):
            connection.close()

    def gather(self, end: float, stopping: Callable[[], bool]) -> Verdict | None:
        """Wait for all, or for a reason not to."""
        while len(self.known) < self.processes - 1:
            if time.monotonic() > end:
                return None
            if verdict := self._listen(stopping):
                return self._end(verdict)
        if verdict := self._gone():
            return self._end(verdict)
        self.server.close()  # jax's service takes the port
        return self._tell(Verdict())

    def _end(self, verdict: Verdict) -> Verdict:
        """Tell all, those too who come late."""
        self._tell(verdict)
        end = time.monotonic() + FAREWELL
        while len(self.known) + self.gone < self.processes - 1 and time.monotonic() < end:
            before = set(self.known)
            self._listen(lambda: False)
            for process in set(self.known) - before:
                _send(self.known[process], status=verdict.status, why=verdict.why)
        return verdict

    def _listen(self, stopping: Callable[[], bool]) -> Verdict | None:
        """Hear who comes and what they say; why to stop, if one says so, is gone, or this process
        has been told to.
        """
        ready, _, _ = select.select(
            [self.server, *self.strangers, *self.known.values()], [], [], POLL
        )
        for connection in ready:
            if connection is self.server:
                self.strangers.add(self.server.accept()[0])
            elif verdict := self._hear(connection):
                return verdict
        return _told(0) if stopping() else None

    def _hear(self, connection: socket.socket) -> Verdict | None:
        process = next((p for p, c in self.known.items() if c is connection), None)
        lines = _lines(connection, wait=0)
        if lines is None:
            connection.close()
            self.strangers.discard(connection)
            if process is None:  # not one of ours, a port scan say
                return None
            del self.known[process]
            self.gone += 1
            return Verdict(LOST, f"process {process} is lost; {AGAIN}")
        for body in lines:
            process = body.get("process", -1)
            if (
                self.known.get(process, connection) is not connection
                or not 0 < process < self.processes
            ):
                return Verdict(
                    1,
                    f"process {process}: two processes say that they are it; number them from 0 to "
                    f"{self.processes - 1}",
                )
            self.strangers.discard(connection)
            self.known[process] = connection
            if body.get("stop"):
                return _told(process)
        return None

    def _gone(self) -> Verdict | None:
        """Who left since it came, or was told to stop."""
        for connection in list(self.known.values()):
            if verdict := self._hear(connection):
                return verdict
        return None

    def _tell(self, verdict: Verdict) -> Verdict:
        """Answer all who came."""
        for connection in self.known.values():
            _send(connection, status=verdict.status, why=verdict.why)
        return verdict


def _told(process: int) -> Verdict:
    return Verdict(LOST, f"process {process} was told to stop before the processes met; {AGAIN}")


def _send(connection: socket.socket, **body: object) -> None:
    # the other side is gone: whoever reads from it next finds out
    with contextlib.suppress(OSError):
        connection.sendall(json.dumps(body).encode() + b"\n")


def _lines(connection: socket.socket, wait: float = POLL) -> list[dict] | None:
    """What has come within `wait` seconds; None when the other side is gone or does not speak as we
    do.
    """
    if not select.select([connection], [], [], wait)[0]:
        return []
    try:
        text = connection.recv(4096)
        found = [json.loads(line) for line in text.splitlines()]
    except (OSError, ValueError):
        return None
    return found if found and all(isinstance(body, dict) for body in found) else None
