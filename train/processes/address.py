"""Where the processes of a job meet: which process this is, of how many, by environment variables.

On every host are set STEPLADDER_COORDINATOR=host:port, STEPLADDER_PROCESSES=N and
STEPLADDER_PROCESS, from 0 to N-1; or STEPLADDER_PROCESSES=auto where jax itself finds the hosts.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from stepladder.configs.core.errors import UserError

COORDINATOR = "STEPLADDER_COORDINATOR"
PROCESSES = "STEPLADDER_PROCESSES"
PROCESS = "STEPLADDER_PROCESS"
TIMEOUT = "STEPLADDER_TIMEOUT"  # seconds to wait for the other processes


@dataclass(frozen=True)
class GroupAddress:
    """Process `process` of `processes`; process 0 listens at `coordinator`, host:port.

    `timeout` in seconds.
    """

    coordinator: str
    processes: int
    process: int
    timeout: int = 120

    def unanswered(self) -> str:
        """What to say, and what to do, when process 0 did not answer in time."""
        return (
            f"{COORDINATOR}={self.coordinator}: no answer within {self.timeout} s; start process 0 "
            f"on that host, check that this one reaches the port, or raise {TIMEOUT}"
        )


def group_address(env: Mapping[str, str]) -> GroupAddress | None:
    """The address that the STEPLADDER_ variables give; None without them.

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
    processes = _whole_number(PROCESSES, given[PROCESSES])
    process = _whole_number(PROCESS, given[PROCESS])
    if processes < 1:
        raise UserError(f"{PROCESSES}={processes}: must be at least 1, the processes of the job")
    if process >= processes:
        raise UserError(
            f"{PROCESS}={process}: must be from 0 to {processes - 1}, with {PROCESSES}={processes}"
        )
    coordinator = given[COORDINATOR]
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UserError(
            f"{COORDINATOR}={coordinator!r}: not host:port; e.g. 10.0.0.1:8476, a free port of "
            "process 0's host"
        )
    return GroupAddress(coordinator, processes, process, timeout_of(env))


def timeout_of(env: Mapping[str, str]) -> int:
    """Seconds to wait for the other processes."""
    return _whole_number(TIMEOUT, env.get(TIMEOUT) or "120")


def found_by_jax(env: Mapping[str, str]) -> bool:
    """Whether jax finds the other hosts itself: told to, on several TPU slices, or (without our
    variables) on the several hosts of one.
    """
    slices = any(name.startswith("MEGASCALE_") for name in env)
    hosts_of_slice = any(
        "," in env.get(name, "") for name in ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES")
    )
    return slices or env.get(PROCESSES) == "auto" or (hosts_of_slice and not env.get(PROCESSES))


def is_given(env: Mapping[str, str]) -> bool:
    """Whether the processes will meet at an address that the environment gives."""
    return bool(env.get(COORDINATOR)) and not found_by_jax(env)


def _whole_number(name: str, text: str) -> int:
    if not text.isdigit():
        raise UserError(f"{name}={text!r}: not a whole number; e.g. {name}=2")
    return int(text)
