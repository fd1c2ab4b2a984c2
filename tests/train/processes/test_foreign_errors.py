"""Real texts of foreign errors, and what they mean to us: one test a pattern."""

import errno

import pytest

from stepladder.train.processes import foreign_errors


@pytest.mark.parametrize(
    "text",
    [
        "FAILED_PRECONDITION: Buffer Definition Event: Gloo all-reduce failed: Connection closed "
        "by peer [127.0.0.1]:4711",
        "INTERNAL: NCCL operation ncclAllReduce failed: remote process exited or there was a "
        "network error",
        "UNAVAILABLE: failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1",
        "DEADLINE_EXCEEDED: GetKeyValue() timed out with key: stepladder/broadcast/3",
        "ABORTED: The following tasks are unhealthy: /job:jax_worker/task:1",
        "CANCELLED: Barrier failed because the service is shutting down",
        "Read error [127.0.0.1]:4711: connection reset by peer",
        "The tasks have crashed. Task heartbeat timeout",
    ],
)
def test_a_lost_process(text):
    assert foreign_errors.is_lost_process(RuntimeError(text))
    assert not foreign_errors.is_lost_process(ValueError("shapes (3,) and (4,) differ"))


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.EMFILE, "Too many open files"),
        OSError(errno.ESTALE, "Stale file handle"),
        PermissionError(errno.EACCES, "Permission denied"),
        ValueError("Error opening 'x': [OS error 24: EMFILE] Too many open files"),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 4831838208 bytes."),
    ],
)
def test_a_file_that_may_be_whole(error):
    assert foreign_errors.is_out_of_reach(error)


def test_a_file_that_is_damaged():
    assert not foreign_errors.is_out_of_reach(FileNotFoundError(errno.ENOENT, "No such file"))
    assert not foreign_errors.is_out_of_reach(ValueError("DATA_LOSS: Error decoding chunk"))


def test_a_missing_key():
    error = RuntimeError("NOT_FOUND: Config key stepladder/beat/0 not found.")
    assert foreign_errors.is_missing_key(error)
    assert not foreign_errors.is_missing_key(RuntimeError("UNAVAILABLE: connection"))


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        ValueError("RESOURCE_EXHAUSTED: Error writing local file: [OS error 28: ENOSPC]"),
        ValueError("Error writing 'x': No space left on device"),
    ],
)
def test_a_full_disk(error):
    assert foreign_errors.is_disk_full(error) and not foreign_errors.is_not_writable(error)


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(errno.EACCES, "Permission denied"),
        ValueError("PERMISSION_DENIED: Error opening local file [OS error 13: EACCES]"),
        ValueError("Error opening 'x': Permission denied"),
    ],
)
def test_a_folder_that_is_not_writable(error):
    assert foreign_errors.is_not_writable(error) and not foreign_errors.is_disk_full(error)


@pytest.mark.parametrize(
    ("text", "gib"),
    [
        (
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory "
            "space hbm. Used 20.10G of 15.75G hbm. Exceeded hbm capacity by 4.35G.",
            (20.10, 15.75),
        ),
        (
            "RESOURCE_EXHAUSTED: Compilation failure: the program requires 512.5M of memory which "
            "exceeds available HBM (256.0M)",
            (512.5 / 1024, 0.25),
        ),
    ],
)
def test_a_program_that_does_not_fit(text, gib):
    found = foreign_errors.memory_exceeded(RuntimeError(text))
    assert found == pytest.approx(tuple(x * 2**30 for x in gib))


def test_another_error_is_no_question_of_memory():
    assert foreign_errors.memory_exceeded(RuntimeError("INVALID_ARGUMENT: 3G of 2G")) is None


def test_the_first_line_of_an_error():
    assert foreign_errors.first_line(ValueError("one\ntwo")) == "one"
    assert foreign_errors.first_line(ValueError("x" * 500), most=200) == "x" * 200
    assert foreign_errors.first_line(ValueError()) == "ValueError"
