"""Rendezvous: before jax forms a group, its processes meet at the coordinator's address.

Each connects to process 0 and keeps the connection. jax's own connect waits for a process that has
died as long as for one that is late. Here a closed connection is a process that is gone, and a
process that has been told to stop says so: within a second everyone knows. Only a process that
never comes is waited for.

The protocol is one JSON object a line. A process says {"process": 1, "stop": 0}, and once more with
the exit status of the signal in "stop" when it has been told to stop. Process 0 answers
{"status": 0, "why": ""} (form the group) or {"status": 143, "why": "process 1 is lost"} (exit with
this status).
"""

import contextlib
import json
import selectors
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

from stepladder.train.processes.address import COORDINATOR, TIMEOUT
from stepladder.train.processes.liveness import AGAIN, LOST

POLL = 0.2  # seconds between looks at whether this process has been told to stop
# Seconds for which a process that has been told to stop waits to tell the others.
FAREWELL = 8.0

# The exit status of the signal that told this process to stop; 0 while there was none.
Stopping = Callable[[], int]


@dataclass(frozen=True)
class Verdict:
    """Whether to form the group: status 0, or the exit status of all processes and why."""

    status: int = 0
    why: str = ""


def meet(
    coordinator: str, processes: int, process: int, timeout: float, stopping: Stopping
) -> Verdict | None:
    """Wait until all processes are there, or for a reason not to form a group.

    Args:
        coordinator: host:port at which process 0 listens.
        processes: how many there will be.
        process: the number of this one.
        timeout: seconds to wait for the others.
        stopping: the exit status of the signal that told this process to stop, else 0.

    Returns:
        The verdict, the same on all processes that came; None when process 0 did not come, or did
        not answer, in time.

    Raises:
        OSError: when process 0 cannot listen at `coordinator`.
    """
    host, _, port = coordinator.rpartition(":")
    deadline = time.monotonic() + timeout
    if process:
        connection = _connect(host.strip("[]"), int(port), deadline, stopping)
        if connection is None:
            return _stopped(process, status) if (status := stopping()) else None
        # process 0 may have started later than this one: it answers within its own `timeout`
        deadline = time.monotonic() + timeout + FAREWELL
        with connection:
            return _verdict_of_zero(connection, process, deadline, stopping)
    late = f"did not come to {COORDINATOR}={coordinator} within {timeout:g} s"
    with _Zero(int(port), processes) as zero:
        return zero.gather(deadline, stopping, late)


def _verdict_of_zero(
    connection: socket.socket, process: int, deadline: float, stopping: Stopping
) -> Verdict | None:
    """Report to process 0 and wait for its answer."""
    told: int | None = None  # what process 0 knows of whether this one has been told to stop
    while time.monotonic() < deadline:
        if not told and told != stopping():
            told = stopping()
            _send(connection, process=process, stop=told)
            if told:
                deadline = min(deadline, time.monotonic() + FAREWELL)
        answers = _received(connection)
        if answers is None:
            return Verdict(LOST, f"process 0 is lost; {AGAIN}")
        if answers:
            return Verdict(**answers[0])
    return _stopped(process, told) if told else None


def _connect(host: str, port: int, deadline: float, stopping: Stopping) -> socket.socket | None:
    """A connection to process 0, which may not have started yet; None after the deadline.

    A process that has been told to stop does not try for long.
    """
    while time.monotonic() < deadline:
        if stopping():
            deadline = min(deadline, time.monotonic() + FAREWELL)
        with contextlib.suppress(OSError):
            return socket.create_connection((host, port), timeout=2.0)
        time.sleep(POLL)
    return None


class _Zero:
    """Process 0: it listens, decides and answers all others at once."""

    def __init__(self, port: int, processes: int):
        both = socket.has_dualstack_ipv6()
        self.server = socket.create_server(
            ("", port),
            family=socket.AF_INET6 if both else socket.AF_INET,
            dualstack_ipv6=both,
            backlog=max(128, processes),
        )
        self.processes = processes
        self.gone = 0  # processes that left after they had come
        self.unnamed: set[socket.socket] = set()  # have not said yet which process they are
        self.arrived: dict[int, socket.socket] = {}  # process -> its connection

    def __enter__(self) -> "_Zero":
        return self

    def __exit__(self, *_: object) -> None:
        self.server.close()
        for connection in (*self.unnamed, *self.arrived.values()):
            connection.close()

    def gather(self, deadline: float, stopping: Stopping, late: str) -> Verdict:
        """Wait for all processes, or for a reason to give up; tell all which it was.

        late: what to say of the processes that did not come before the deadline.
        """
        while missing := set(range(1, self.processes)) - set(self.arrived):
            if time.monotonic() > deadline:
                verdict = _missing(missing, late)
                self._answer(verdict, self.arrived)
                return verdict
            if verdict := self._poll(stopping):
                return self._give_up(verdict)
        # who left since it came, or was told to stop meanwhile
        for connection in list(self.arrived.values()):
            if verdict := self._read(connection):
                return self._give_up(verdict)
        if status := stopping():
            return self._give_up(_stopped(0, status))
        self.server.close()  # jax's service takes the port
        self._answer(Verdict(), self.arrived)
        return Verdict()

    def _give_up(self, verdict: Verdict) -> Verdict:
        """Tell all processes, those too that come late."""
        self._answer(verdict, self.arrived)
        deadline = time.monotonic() + FAREWELL
        while len(self.arrived) + self.gone < self.processes - 1 and time.monotonic() < deadline:
            before = set(self.arrived)
            self._poll(lambda: 0)
            self._answer(verdict, set(self.arrived) - before)
        return verdict

    def _poll(self, stopping: Stopping) -> Verdict | None:
        """Accept who comes and read what they say, for POLL seconds; a reason to give up, if
        any.
        """
        for connection in _readable((self.server, *self.unnamed, *self.arrived.values()), POLL):
            if connection is self.server:
                with contextlib.suppress(ConnectionAbortedError):  # gone before it was accepted
                    self.unnamed.add(self.server.accept()[0])
            elif verdict := self._read(connection):
                return verdict
        return _stopped(0, status) if (status := stopping()) else None

    def _read(self, connection: socket.socket) -> Verdict | None:
        """Read what one process has said; a reason to give up, if any."""
        messages = _received(connection, wait=0)
        if messages is None:
            return self._close(connection)
        for message in messages:
            process = message.get("process")
            if not isinstance(process, int):  # not one of ours
                return self._close(connection)
            taken = self.arrived.get(process, connection) is not connection
            if taken or not 0 < process < self.processes:
                said = "two processes say that they are it" if taken else "there is no such process"
                verdict = Verdict(
                    1, f"process {process}: {said}; number them from 0 to {self.processes - 1}"
                )
                _send(connection, **asdict(verdict))
                return verdict
            self.unnamed.discard(connection)
            self.arrived[process] = connection
            if status := message.get("stop"):
                return _stopped(process, status)
        return None

    def _close(self, connection: socket.socket) -> Verdict | None:
        """The other side is gone: a reason to give up, unless it was none of ours (a port scan)."""
        connection.close()
        self.unnamed.discard(connection)
        process = next((p for p, c in self.arrived.items() if c is connection), None)
        if process is None:
            return None
        del self.arrived[process]
        self.gone += 1
        return Verdict(LOST, f"process {process} is lost; {AGAIN}")

    def _answer(self, verdict: Verdict, processes: Iterable[int]) -> None:
        for process in processes:
            _send(self.arrived[process], **asdict(verdict))


def _stopped(process: int, status: int) -> Verdict:
    return Verdict(status, f"process {process} was told to stop before the processes met; {AGAIN}")


def _missing(processes: set[int], late: str) -> Verdict:
    names = ", ".join(map(str, sorted(processes)[:8])) + (", ..." if len(processes) > 8 else "")
    what = "process" if len(processes) == 1 else "processes"
    return Verdict(
        LOST, f"{what} {names} {late}; start the same command on every host, or raise {TIMEOUT}"
    )


def _readable(sockets: Iterable[socket.socket], wait: float) -> list[socket.socket]:
    """Those that have something to read within `wait` seconds; not by `select.select`, which takes
    no file descriptor above 1023.
    """
    with selectors.DefaultSelector() as selector:
        for each in sockets:
            selector.register(each, selectors.EVENT_READ, each)
        return [key.data for key, _ in selector.select(wait)]


def _send(connection: socket.socket, **message: object) -> None:
    # an error means that the other side is gone: whoever reads from it next finds out
    with contextlib.suppress(OSError):
        connection.sendall(json.dumps(message).encode() + b"\n")


def _received(connection: socket.socket, wait: float = POLL) -> list[dict] | None:
    """Messages that come within `wait` seconds; None when the other side is gone or does not speak
    as we do.
    """
    if not _readable([connection], wait):
        return []
    try:
        text = connection.recv(4096)
        messages = [json.loads(line) for line in text.splitlines()]
    except (OSError, ValueError):
        return None
    return messages if messages and all(isinstance(m, dict) for m in messages) else None
