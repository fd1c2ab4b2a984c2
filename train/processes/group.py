"""The processes of one job: which this is, of how many, and what they tell one another beside the
devices.

Process 0 leads: it decides and writes. `broadcast_from_zero` tells the others, by jax's key-value
store: no device waits, and it works before there are any. One process without the variables of
train/processes/address.py has no group: jax would end it after a missed heartbeat, say a closed
laptop or Ctrl-Z.
"""

import contextlib
import json
import os
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from stepladder.configs.core.errors import UserError
from stepladder.train.processes import rendezvous
from stepladder.train.processes.address import (
    COORDINATOR,
    PROCESS,
    PROCESSES,
    TIMEOUT,
    GroupAddress,
    found_by_jax,
    group_address,
    timeout_of,
)
from stepladder.train.processes.foreign_errors import first_line, is_lost_process
from stepladder.train.processes.liveness import (
    AGAIN,
    LINGER,
    LOST,
    Heartbeats,
    Liveness,
    SingleProcess,
    StopFlag,
    exit_now,
)

JAX_HEARTBEAT = 25  # seconds after which jax itself gives up a silent process
FORMING = 20  # seconds for jax to form the group once all processes are known to be there
FOREVER = 7 * 24 * 3600 * 1000  # ms: liveness ends who waits so long, when the peer is lost
EPHEMERAL = 4  # how many ephemeral values are kept


class SharedError(UserError):
    """A UserError that every process of the group raises at the same point."""


@dataclass
class _Group:
    """The one piece of state of this module: a process has one group."""

    index: int = 0
    count: int = 1
    client: Any = None  # jax's key-value store; None without a group
    liveness: Liveness = field(default_factory=SingleProcess)
    turn: int = 0  # of `broadcast_from_zero` and `gather`, equal on all processes
    ephemeral: deque[str] = field(default_factory=deque)  # keys that are still there


_GROUP = _Group()


def index() -> int:
    """The number of this process, from 0."""
    return _GROUP.index


def count() -> int:
    """How many processes the job has."""
    return _GROUP.count


def is_leader() -> bool:
    """Whether this is process 0, which decides and writes."""
    return _GROUP.index == 0


@contextlib.contextmanager
def job(env: Mapping[str, str] = os.environ, preemption: StopFlag | None = None) -> Iterator[None]:
    """Join the group that the environment asks for, if any, and disconnect in the end.

    An error in here ends all processes, and a lost process ends this one with status 143.

    Args:
        env: the environment variables.
        preemption: told of a SIGTERM to any process of the group (train/processes/preemption.py).

    Raises:
        UserError: for an address that cannot be; inside, a SharedError is passed on.
    """
    join(env, preemption)
    if count() == 1:
        yield
        return
    try:
        yield
    except SharedError:
        disconnect()
        raise
    except UserError as error:
        abort_all(1, str(error))
    except KeyboardInterrupt:
        abort_all(130, f"interrupted; {AGAIN}")
    except Exception as error:
        if is_lost_process(error):
            time.sleep(LINGER)  # the heartbeats may know better why the peer went
            abort_all(LOST, f"another process is lost ({first_line(error)}); {AGAIN}")
        traceback.print_exc()
        abort_all(1, f"{type(error).__name__}: {error}")
    disconnect()


def join(env: Mapping[str, str], preemption: StopFlag | None = None) -> None:
    """Connect to the other processes, before jax has a backend; arguments as in `job`.

    Raises UserError for an invalid address. Exits with 143 when the processes do not come or are
    lost, with 1 when two have one number, and with the status of its signal when one has been told
    to stop.
    """
    by_jax = found_by_jax(env)
    address = None if by_jax else group_address(env)
    if not (address or by_jax):
        return
    # jax has no public name for its key-value store; these are the same from 0.10 to 0.12
    from jax._src import distributed

    if address:
        _meet(address, preemption)
    _initialize(address, env)
    state = distributed.global_state
    _GROUP.index, _GROUP.count, _GROUP.client = state.process_id, state.num_processes, state.client
    if count() > 1:
        heartbeats = Heartbeats(
            state.client, index(), count(), state.coordinator_address or "", preemption
        )
        heartbeats.exit_on_jax_abort()
        heartbeats.start()
        _GROUP.liveness = heartbeats
        if preemption and preemption.requested:  # too late for the rendezvous
            why = f"process {index()} was told to stop before the first step; {AGAIN}"
            abort_all(preemption.exit_status, why)


def _meet(address: GroupAddress, preemption: StopFlag | None) -> None:
    """Wait until all processes are there; exit when one does not come, is gone or has been told to
    stop.
    """
    try:
        verdict = rendezvous.meet(
            address.coordinator,
            address.processes,
            address.process,
            address.timeout,
            lambda: preemption.exit_status if preemption and preemption.requested else 0,
        )
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        exit_now(
            LOST,
            f"{COORDINATOR}={address.coordinator}: process 0 cannot listen there ({why}); use a "
            "free port",
        )
    if verdict is None:
        exit_now(LOST, address.unanswered())
    if verdict.status:
        exit_now(verdict.status, verdict.why)
    if preemption:
        preemption.meeting = False


def _initialize(address: GroupAddress | None, env: Mapping[str, str]) -> None:
    """Let jax form the group, at `address` or where it finds the hosts itself.

    It exits with 143 when that takes too long: jax's own time-out aborts the process.
    """
    import jax

    timeout = timeout_of(env)
    options: dict[str, Any] = {
        "heartbeat_timeout_seconds": JAX_HEARTBEAT,
        "initialization_timeout": timeout + 60,
    }
    if address:
        options |= {
            "coordinator_address": address.coordinator,
            "num_processes": address.processes,
            "process_id": address.process,
            "cluster_detection_method": "deactivate",
        }
        seconds = FORMING
        late = f"the group did not form within {FORMING} s: a process was lost; {AGAIN}"
    else:
        seconds = timeout
        late = (
            f"the other hosts did not answer within {timeout} s; start the same command on all of "
            f"them, or raise {TIMEOUT}"
        )
    too_late = threading.Timer(seconds, exit_now, (LOST, late))
    too_late.daemon = True
    too_late.start()
    # it swallows SIGTERM where no step is under way; ours: train/processes/preemption.py
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(**options)
    except ValueError as error:  # jax finds no hosts here
        raise UserError(
            f"{PROCESSES}={env.get(PROCESSES)}: jax finds no other hosts ({error}); set "
            f"{COORDINATOR}, {PROCESSES} and {PROCESS}"
        ) from error
    finally:
        too_late.cancel()


def confirm() -> None:
    """Check, once jax has a backend, that it sees no more processes than have joined.

    Raises UserError when it does: those would write the same records.
    """
    import jax

    if jax.process_count() != count():
        raise UserError(
            f"{PROCESSES}={os.environ.get(PROCESSES)!r}: this is one of {jax.process_count()} "
            f"processes for jax; set {PROCESSES}=auto on every host"
        )


def disconnect() -> None:
    """Wait until every process has come here, then leave the group; `is_leader` stays as it was."""
    import jax

    _GROUP.client.wait_at_barrier("stepladder/leave", FOREVER)
    _GROUP.liveness.stop()
    jax.distributed.shutdown()
    _GROUP.count, _GROUP.client, _GROUP.liveness = 1, None, SingleProcess()


def abort_all(status: int, why: str) -> NoReturn:
    """Print `why` and exit with `status` now, and every other process of the group too."""
    _GROUP.liveness.abort_all(status, why)


def broadcast_from_zero(action: Callable[[], Any], ephemeral: bool = False) -> Any:
    """Run `action` on process 0 alone; return what it returned, or raise what it raised, on all.

    All processes must call it in the same order.

    Args:
        action: returns a JSON value.
        ephemeral: forget the value when four later ones stand; for what is asked often, between
            steps that all processes take part in.

    Raises:
        SharedError: when `action` raises a UserError.
    """
    if count() == 1:
        return action()
    _GROUP.turn += 1
    key = f"stepladder/broadcast/{_GROUP.turn}"
    if is_leader():
        try:
            body = {"value": action()}
        except UserError as error:
            body = {"error": str(error)}
        text = json.dumps(body)
        _GROUP.client.key_value_set(key, text)
        if ephemeral:
            _GROUP.ephemeral.append(key)
            if len(_GROUP.ephemeral) > EPHEMERAL:
                _GROUP.client.key_value_delete(_GROUP.ephemeral.popleft())
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

    def collect() -> list[str]:
        others = range(1, count())
        return [text, *(_GROUP.client.blocking_key_value_get(f"{key}{i}", FOREVER) for i in others)]

    if not is_leader():
        _GROUP.client.key_value_set(f"{key}{index()}", text)
    return broadcast_from_zero(collect)
