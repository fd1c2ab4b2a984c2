"""The processes of one job: who is who, by environment variables, and what they tell one another
beside the devices.

Process 0 decides and writes; `share` tells the others, by jax's key-value store: no device waits,
and it works before there are any. One process without the variables has no group: jax would end it
after a missed heartbeat, say a closed laptop or Ctrl-Z.
"""

import contextlib
import json
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from stepladder.configs.core.errors import UserError
from stepladder.train.processes import liveness, rendezvous

COORDINATOR, PROCESSES, PROCESS = (
    "STEPLADDER_COORDINATOR",
    "STEPLADDER_PROCESSES",
    "STEPLADDER_PROCESS",
)
TIMEOUT = "STEPLADDER_TIMEOUT"  # seconds to wait for the group
HEARTBEAT = 25  # seconds after which jax itself gives up a silent process
FORMING = 20  # seconds for jax to form the group once all processes are known to be there
FOREVER = 7 * 24 * 3600 * 1000  # ms: who waits so long is ended by the watch when its peer is lost
# What a collective, or the key-value store, raises when a peer is gone.
LOST = re.compile(
    r"gloo|nccl.*(remote|time|abort)|UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|CANCELLED"
    r"|connection (closed|reset)|heartbeat|barrier",
    re.I,
)


class SharedError(UserError):
    """A UserError that every process of the group raises at the same point."""


@dataclass(frozen=True)
class Layout:
    """Process `process` of `processes`; process 0 listens at `coordinator`, host:port.

    `timeout` in seconds.
    """

    coordinator: str
    processes: int
    process: int
    timeout: int = 120


def layout(env: Mapping[str, str]) -> Layout | None:
    """The layout that the STEPLADDER_ variables ask for; None without them.

    Raises UserError when they make no sense.
    """
    given = {name: env[name] for name in (COORDINATOR, PROCESSES, PROCESS) if env.get(name)}
    if not given:
        return None
    for name in (COORDINATOR, PROCESSES, PROCESS):
        if name not in given:
            raise UserError(
                f"{name}: not set, but {', '.join(given)} is; set {COORDINATOR}=host:port, "
                f"{PROCESSES}=N and, on each host, {PROCESS}=0..N-1"
            )
    processes, process, timeout = (
        _number(name, text)
        for name, text in (*list(given.items())[1:], (TIMEOUT, env.get(TIMEOUT) or "120"))
    )
    if processes < 1 or process >= processes:
        raise UserError(
            f"{PROCESS}={process}: must be from 0 to {processes - 1}, with {PROCESSES}={processes}"
        )
    host, _, port = given[COORDINATOR].rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UserError(
            f"{COORDINATOR}={given[COORDINATOR]!r}: not host:port; e.g. 10.0.0.1:8476, a free port "
            "of process 0's host"
        )
    return Layout(given[COORDINATOR], processes, process, timeout)


def detected(env: Mapping[str, str]) -> bool:
    """Whether jax finds the layout itself: told to, on several TPU slices, or (without our
    variables) on the several hosts of one.
    """
    slices = any(name.startswith("MEGASCALE_") for name in env)
    hosts_of_slice = any(
        "," in env.get(name, "") for name in ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES")
    )
    return slices or env.get(PROCESSES) == "auto" or (hosts_of_slice and not env.get(PROCESSES))


@dataclass
class _Group:
    index: int = 0
    count: int = 1
    client: Any = None  # jax's; None without a group
    watch: liveness.Watch | None = None
    turn: int = 0  # of `share` and `gather`, equal on all processes
    passing: deque = field(default_factory=deque)


_GROUP = _Group()


def index() -> int:
    return _GROUP.index


def count() -> int:
    return _GROUP.count


def first() -> bool:
    """Whether this process decides and writes."""
    return _GROUP.index == 0


@contextlib.contextmanager
def job(env: Mapping[str, str] = os.environ, notice: Any = None) -> Iterator[None]:
    """Join the group that the environment asks for, if any; an error here ends all processes, and a
    lost one ends this with status 143.

    `notice` (train/processes/preemption.py) hears of a SIGTERM to any process of the group.
    """
    join(env, notice)
    if count() == 1:
        yield
        return
    try:
        yield
    except SharedError:
        leave()
        raise
    except UserError as error:
        end(1, str(error))
    except KeyboardInterrupt:
        end(130, "interrupted; repeat the command to resume")
    except Exception as error:
        if LOST.search(str(error)):
            time.sleep(liveness.LINGER)  # the watch may know better why the peer went
            end(
                liveness.LOST,
                f"another process is lost ({str(error).splitlines()[0][:120]}); repeat the command "
                "to resume",
            )
        import traceback

        traceback.print_exc()
        end(1, f"{type(error).__name__}: {error}")
    leave()


def has_layout(env: Mapping[str, str]) -> bool:
    """Whether the processes will meet at an address that the environment gives."""
    return bool(env.get(COORDINATOR)) and not detected(env)


def join(env: Mapping[str, str], notice: Any = None) -> None:
    """Connect to the other processes, before jax has a backend.

    Raises UserError for a layout that cannot be; exits with 143 when they do not come, are lost or
    have been told to stop.
    """
    asked = None if detected(env) else layout(env)
    if asked is None and not detected(env):
        return
    import jax

    # jax has no public name for its key-value store; these are the same from 0.10 to 0.12
    from jax._src import distributed

    timeout = asked.timeout if asked else _number(TIMEOUT, env.get(TIMEOUT) or "120")
    options = {"heartbeat_timeout_seconds": HEARTBEAT, "initialization_timeout": timeout + 60}
    if asked:
        _meet(asked, notice)
        layout_of_jax = {
            "coordinator_address": asked.coordinator,
            "num_processes": asked.processes,
            "process_id": asked.process,
        }
        options |= {**layout_of_jax, "cluster_detection_method": "deactivate"}
    silent = (
        f"the group did not form within {FORMING} s: a process was lost; repeat the command to "
        "resume"
    )
    waiting = threading.Timer(
        FORMING if asked else timeout,
        liveness.leave,
        (liveness.LOST, silent if asked else _unanswered(asked, timeout)),
    )
    waiting.daemon = True
    waiting.start()  # jax's own time-out aborts the process
    # it swallows SIGTERM where no step is under way; ours: train/processes/preemption.py
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(**options)
    except ValueError as error:  # nothing to detect here
        raise UserError(
            f"{PROCESSES}={env.get(PROCESSES)}: jax finds no other hosts ({error}); set "
            f"{COORDINATOR}, {PROCESSES} and {PROCESS}"
        ) from error
    finally:
        waiting.cancel()
    state = distributed.global_state
    _GROUP.index, _GROUP.count, _GROUP.client = state.process_id, state.num_processes, state.client
    if count() > 1:
        _GROUP.watch = liveness.Watch(
            state.client, index(), count(), state.coordinator_address, notice
        )
        _GROUP.watch.on_abort()
        _GROUP.watch.start()


def _meet(asked: Layout, notice: Any) -> None:
    """Wait until all processes are there; leave when one does not come, is gone or has been told to
    stop.
    """
    try:
        verdict = rendezvous.meet(
            asked.coordinator,
            asked.processes,
            asked.process,
            asked.timeout,
            lambda: bool(notice and notice.arrived),
        )
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        liveness.leave(
            liveness.LOST,
            f"{COORDINATOR}={asked.coordinator}: process 0 cannot listen there ({why}); use a free "
            "port",
        )
    if verdict is None:
        liveness.leave(liveness.LOST, _unanswered(asked, asked.timeout))
    if verdict.status:
        liveness.leave(verdict.status, verdict.why)
    if notice:
        notice.meeting = False


def confirm() -> None:
    """Once jax has a backend: raise UserError when it sees hosts that this process has not joined,
    and would write the same records.
    """
    import jax

    if jax.process_count() != count():
        raise UserError(
            f"{PROCESSES}={os.environ.get(PROCESSES)!r}: this is one of {jax.process_count()} "
            f"processes for jax; set {PROCESSES}=auto on every host"
        )


def leave() -> None:
    """Wait until every process has come here, then disconnect; `first` stays as it was."""
    import jax

    _GROUP.client.wait_at_barrier("stepladder/leave", FOREVER)
    _GROUP.watch.stop()
    jax.distributed.shutdown()
    _GROUP.count, _GROUP.client, _GROUP.watch = 1, None, None


def end(status: int, why: str) -> None:
    """Exit with `status` now, and every other process of the group too."""
    _GROUP.watch.end(status, why) if _GROUP.watch else liveness.leave(status, why)


def share(action: Callable[[], Any], passing: bool = False) -> Any:
    """What `action`, run on process 0 alone, returns (a JSON value) or raises (SharedError).

    All processes must call it in the same order.

    `passing` values are forgotten when four later ones stand: for what is asked often, between
    steps that all take part in.
    """
    if count() == 1:
        return action()
    _GROUP.turn += 1
    key = f"stepladder/share/{_GROUP.turn}"
    if first():
        try:
            body = {"value": action()}
        except UserError as error:
            body = {"error": str(error)}
        text = json.dumps(body)
        _GROUP.client.key_value_set(key, text)
        if passing:
            _GROUP.passing.append(key)
            if len(_GROUP.passing) > 4:
                _GROUP.client.key_value_delete(_GROUP.passing.popleft())
    else:
        text = _GROUP.client.blocking_key_value_get(key, FOREVER)
    body = json.loads(text)
    if "error" in body:
        raise SharedError(body["error"])
    return body["value"]


def gather(text: str) -> list[str]:
    """The `text` of every process, on every process."""
    if count() == 1:
        return [text]
    _GROUP.turn += 1
    key = f"stepladder/gather/{_GROUP.turn}/"
    if not first():
        _GROUP.client.key_value_set(f"{key}{index()}", text)
    return share(
        lambda: [
            text,
            *(
                _GROUP.client.blocking_key_value_get(f"{key}{i}", FOREVER)
                for i in range(1, count())
            ),
        ]
    )


def _unanswered(asked: Layout | None, timeout: int) -> str:
    if asked is None:
        return (
            f"the other hosts did not answer within {timeout} s; start the same command on all of "
            f"them, or raise {TIMEOUT}"
        )
    if asked.process == 0:
        return (
            f"{PROCESSES}={asked.processes}: not all processes came to "
            f"{COORDINATOR}={asked.coordinator} within {timeout} s; start the same command on "
            f"every host, or raise {TIMEOUT}"
        )
    return (
        f"{COORDINATOR}={asked.coordinator}: no answer within {timeout} s; start process 0 on that "
        f"host, check that this one reaches the port, or raise {TIMEOUT}"
    )


def _number(name: str, text: str) -> int:
    if not text.isdigit():
        raise UserError(f"{name}={text!r}: not a whole number; e.g. {name}=2")
    return int(text)
